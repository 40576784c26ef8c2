//! `osupdate uki`: unified kernel images.

mod addon;
mod sign;
mod verify;

use clap::Subcommand;

use crate::cli::Context;
use crate::exit::Outcome;

/// Sign and verify unified kernel images
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Sign(sign::Args),
    Verify(verify::Args),
    Addon(addon::Args),
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self.command {
            Command::Sign(args) => args.run(context),
            Command::Verify(args) => args.run(context),
            Command::Addon(args) => args.run(context),
        }
    }
}
