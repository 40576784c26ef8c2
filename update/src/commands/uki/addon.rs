//! `osupdate uki addon`: kernel arguments and other additions to UKIs.

mod build;
mod sign;

use clap::Subcommand;

use crate::cli::Context;
use crate::exit::Outcome;

/// Build and sign addons: kernel arguments and other additions to UKIs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::Args),
    Sign(sign::Args),
}

impl Args {
    /// Runs the command.
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self.command {
            Command::Build(args) => args.run(context),
            Command::Sign(args) => args.run(context),
        }
    }
}
