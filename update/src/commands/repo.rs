//! `osupdate repo`: the repository as a whole.

mod cat;
mod copy;
mod fsck;
mod gc;
mod hold;
mod init;
mod publish;
mod system_roots;
mod why;

use clap::Subcommand;

use super::repository_path::RepositoryPath;
use crate::cli::Context;
use crate::exit::Outcome;

/// Make, check and clean the repository
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    repository: RepositoryPath,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Fsck(fsck::Args),
    Gc(gc::Args),
    Why(why::Args),
    Cat(cat::Args),
    Hold(hold::Args),
    Copy(copy::Args),
    Publish(publish::Args),
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self.command {
            Command::Init(args) => args.run(&self.repository, context),
            Command::Fsck(args) => args.run(&self.repository, context),
            Command::Gc(args) => args.run(&self.repository, context),
            Command::Why(args) => args.run(&self.repository, context),
            Command::Cat(args) => args.run(&self.repository),
            Command::Hold(args) => args.run(&self.repository, context),
            Command::Copy(args) => args.run(&self.repository, context),
            Command::Publish(args) => args.run(&self.repository, context),
        }
    }
}
