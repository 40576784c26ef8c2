//! `osupdate bootloader status`

use std::path::Path;

use anyhow::Context as _;
use osupdate_deploy::boot::{Access, BootPartition};
use osupdate_deploy::bootloader::{EspStatus, Installed, Programs, State};
use osupdate_efi::boot_program::Identity;
use osupdate_efi::secure_boot::SecureBoot;
use osupdate_efi::variables::EfiVariables;
use serde::Serialize;

use super::{IMAGE_ROOT, UnusableRow, outcome, unusable};
use crate::cli::Context;
use crate::exit::{Outcome, one_line};
use crate::output::table;
use crate::system;

/// Show the boot loader on each EFI system partition, and whether the running image has a newer one
///
/// Looked at are the partition from which the machine was started and those on all disks of the root file system. Needs root.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// What `--json` prints; a contract.
#[derive(Serialize)]
struct Report {
    esps: Vec<EspRow>,
    /// Partitions that cannot be mounted.
    unusable: Vec<UnusableRow>,
}

#[derive(Serialize)]
struct EspRow {
    partition: String,
    programs: Vec<ProgramRow>,
}

#[derive(Serialize)]
struct ProgramRow {
    path: String,
    /// `systemd-boot`, `shim` or `other`.
    program: &'static str,
    version: Option<String>,
    image_version: Option<String>,
    /// `current`, `older` than in the image, `newer`, `other-build`, `not-in-image` or `foreign`.
    state: &'static str,
}

impl EspRow {
    fn new(esp: EspStatus) -> Self {
        Self { partition: esp.place, programs: esp.programs.into_iter().map(ProgramRow::new).collect() }
    }
}

impl ProgramRow {
    fn new(installed: Installed) -> Self {
        let program = match installed.identity {
            Identity::SystemdBoot(_) => "systemd-boot",
            Identity::Shim(_) => "shim",
            Identity::Other => "other",
        };
        Self {
            program,
            version: installed.identity.version().map(str::to_owned),
            image_version: installed.offered,
            state: installed.state.name(),
            path: installed.path,
        }
    }
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let boot = BootPartition::find(&system::open()?, Access::Read).context("cannot open the boot partition")?;
        // Only decides between two forms of a program.
        let secure_boot = SecureBoot::read(&EfiVariables::default()).unwrap_or_else(|err| {
            tracing::warn!("{}, ignoring", one_line(&err));
            SecureBoot::default()
        });
        let programs = Programs::read(Path::new(IMAGE_ROOT), &secure_boot)?;
        let report = Report {
            esps: programs.status(&boot)?.into_iter().map(EspRow::new).collect(),
            unusable: unusable(boot.unusable_esps(), &*context.observer),
        };
        context.output.write(&report, |out| {
            let mut rows = vec![["PARTITION", "PATH", "PROGRAM", "VERSION", "IN IMAGE", "STATE"].map(str::to_owned)];
            let text = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".to_owned());
            for esp in &report.esps {
                if esp.programs.is_empty() {
                    rows.push([&*esp.partition, "-", "none", "-", "-", "-"].map(str::to_owned));
                }
                for program in &esp.programs {
                    rows.push([
                        esp.partition.clone(),
                        program.path.clone(),
                        program.program.to_owned(),
                        text(&program.version),
                        text(&program.image_version),
                        program.state.to_owned(),
                    ]);
                }
            }
            table(out, &rows)?;
            let is_older = |program: &ProgramRow| program.state == State::Older.name();
            match report.esps.iter().flat_map(|esp| &esp.programs).any(is_older) {
                true => writeln!(out, "osupdate bootloader update replaces what is older."),
                false => Ok(()),
            }
        })?;
        Ok(outcome(&report.unusable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_is_the_pinned_one() {
        let installed = Installed {
            path: "EFI/BOOT/BOOTX64.EFI".to_owned(),
            identity: Identity::SystemdBoot("257.13".to_owned()),
            offered: Some("258.1".to_owned()),
            state: State::Older,
        };
        let esp = EspStatus { place: "the ESP (/dev/vda1)".to_owned(), programs: vec![installed] };
        let unusable = vec![UnusableRow { device: "/dev/vdb1".to_owned(), reason: "cannot mount".to_owned() }];
        assert_eq!(
            serde_json::to_string(&Report { esps: vec![EspRow::new(esp)], unusable }).unwrap(),
            r#"{"esps":[{"partition":"the ESP (/dev/vda1)","programs":[{"path":"EFI/BOOT/BOOTX64.EFI","program":"systemd-boot","version":"257.13","image_version":"258.1","state":"older"}]}],"unusable":[{"device":"/dev/vdb1","reason":"cannot mount"}]}"#
        );
    }
}
