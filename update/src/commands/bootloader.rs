//! `osupdate bootloader`: systemd-boot and shim on the EFI system partitions.

mod status;
mod update;

use std::path::Path;

use clap::Subcommand;
use osupdate_deploy::boot::Access;
use osupdate_deploy::bootloader::{self, Programs};
use osupdate_efi::Esp;

use crate::cli::Context;
use crate::exit::Outcome;

/// The root of the running image, which has the programs to be installed.
const IMAGE_ROOT: &str = "/";

/// Compare the boot loader with that of the running image, and update it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Args),
    Update(update::Args),
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self.command {
            Command::Status(args) => args.run(context),
            Command::Update(args) => args.run(context),
        }
    }
}

/// The programs of the running image, and the ESPs on which they may be.
fn open(physical_root: &Path, access: Access) -> anyhow::Result<(Programs, Vec<Esp>)> {
    Ok((Programs::read(Path::new(IMAGE_ROOT))?, bootloader::esps(physical_root, access)?))
}
