//! `osupdate bootloader status`

use osupdate_deploy::boot::Access;
use osupdate_deploy::bootloader::{EspStatus, Installed, State};
use osupdate_efi::boot_program::Identity;
use serde::Serialize;

use super::open;
use crate::cli::Context;
use crate::exit::Outcome;
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
        let (programs, esps) = open(system::open()?.path(), Access::Read)?;
        let report = Report { esps: programs.status(&esps)?.into_iter().map(EspRow::new).collect() };
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
        Ok(Outcome::Done)
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
        assert_eq!(
            serde_json::to_string(&Report { esps: vec![EspRow::new(esp)] }).unwrap(),
            r#"{"esps":[{"partition":"the ESP (/dev/vda1)","programs":[{"path":"EFI/BOOT/BOOTX64.EFI","program":"systemd-boot","version":"257.13","image_version":"258.1","state":"older"}]}]}"#
        );
    }
}
