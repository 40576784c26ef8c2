//! `osupdate bootloader`: systemd-boot and shim on the EFI system partitions.

mod status;
mod update;

use clap::Subcommand;
use osupdate_core::observer::{Event, Observer};
use osupdate_deploy::boot::UnusableEsp;
use serde::Serialize;

use crate::cli::Context;
use crate::exit::{Outcome, one_line};

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

/// An EFI system partition that cannot be looked at.
#[derive(Serialize)]
struct UnusableRow {
    device: String,
    reason: String,
}

/// Says which partitions could not be looked at.
fn unusable(esps: &[UnusableEsp], observer: &dyn Observer) -> Vec<UnusableRow> {
    let row = |esp: &UnusableEsp| {
        let row = UnusableRow { device: esp.device.display().to_string(), reason: one_line(&esp.error) };
        observer.event(Event::Warning(&format!("{}, so no boot loader is looked for there", row.reason)));
        row
    };
    esps.iter().map(row).collect()
}

/// Partitions that cannot be looked at are a finding.
fn outcome(unusable: &[UnusableRow]) -> Outcome {
    if unusable.is_empty() { Outcome::Done } else { Outcome::Findings }
}
