//! `osupdate uki`: unified kernel images.

mod addon;
mod build;
mod contents;
mod file;
mod inspect;
mod pcrs;
mod sign;
mod verify;

use clap::Subcommand;

pub(crate) use build::warn_about_stub;

use crate::cli::Context;
use crate::exit::Outcome;

/// Build, inspect, sign and verify unified kernel images
///
/// A unified kernel image (UKI) is a program for UEFI firmware that has a kernel, its command line and its initial ramdisk in it:
/// one file, one signature.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(Box<build::Args>),
    Inspect(inspect::Args),
    Sign(sign::Args),
    Verify(verify::Args),
    Addon(addon::Args),
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self.command {
            Command::Build(args) => args.run(context),
            Command::Inspect(args) => args.run(context),
            Command::Sign(args) => args.run(context),
            Command::Verify(args) => args.run(context),
            Command::Addon(args) => args.run(context),
        }
    }
}
