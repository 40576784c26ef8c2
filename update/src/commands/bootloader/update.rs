//! `osupdate bootloader update`

use std::path::Path;

use anyhow::Context as _;
use osupdate_deploy::boot::BootPartition;
use osupdate_deploy::bootloader::{Allowed, Programs, Replaced, State};
use osupdate_efi::secure_boot::SecureBoot;
use osupdate_efi::variables::EfiVariables;
use serde::Serialize;

use super::{IMAGE_ROOT, UnusableRow, outcome, unusable};
use crate::cli::Context;
use crate::commands::upgrade::patience;
use crate::exit::Outcome;
use crate::system;

/// Put the boot loader of the running image on the EFI system partitions, if it is newer
///
/// systemd-boot and shim are replaced where they are: first what boot variables point to and what shim starts, at last what
/// firmware starts by itself. A power cut at any moment leaves a whole program under each name. With Secure Boot on, all of them
/// are checked first, and nothing is changed if firmware would refuse one. Programs of others are left alone. Where the new
/// boot loader would hide boot entries of osupdate, or not count their boots, the entries are fitted to it; a deployment that is
/// still being tried has to be booted first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Replace programs that are newer than those in the image, too
    #[arg(long)]
    allow_downgrade: bool,

    /// Replace signed programs by ones that are not signed, too, while Secure Boot is off
    #[arg(long)]
    allow_unsigned: bool,

    /// Wait for another osupdate that is changing the system, instead of failing
    #[arg(long)]
    wait: bool,
}

/// What `--json` prints; a contract.
#[derive(Serialize)]
struct Report {
    replaced: Vec<Row>,
    /// Partitions that cannot be mounted.
    unusable: Vec<UnusableRow>,
}

#[derive(Serialize)]
struct Row {
    partition: String,
    path: String,
    from_version: Option<String>,
    version: Option<String>,
}

impl Row {
    fn new(replaced: Replaced) -> Self {
        let Replaced { place, path, from, to } = replaced;
        Self { partition: place, path, from_version: from, version: to }
    }
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let (sysroot, _lock) = system::lock(context, patience(self.wait), "osupdate bootloader update")?;
        let boot = BootPartition::find_with_loaders(&sysroot).context("cannot open the boot partition")?;
        let secure_boot = SecureBoot::read(&EfiVariables::default())?;
        let programs = Programs::read(Path::new(IMAGE_ROOT), &secure_boot)?;
        let allowed = Allowed { downgrade: self.allow_downgrade, unsigned: self.allow_unsigned };
        let replaced = programs.update(&boot, &secure_boot, allowed, &*context.observer)?;
        let newer = programs.status(&boot)?.into_iter().flat_map(|esp| esp.programs);
        let newer = newer.filter(|program| program.state == State::Newer).count();
        let report = Report {
            replaced: replaced.into_iter().map(Row::new).collect(),
            unusable: unusable(boot.unusable_esps(), &*context.observer),
        };
        context.output.write(&report, |out| {
            for row in &report.replaced {
                let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "unknown".to_owned());
                let (from, to) = (version(&row.from_version), version(&row.version));
                writeln!(out, "{} on {}: {from} -> {to}", row.path, row.partition)?;
            }
            match (report.replaced.is_empty(), newer) {
                (true, 0) => writeln!(out, "Nothing to do."),
                (_, 0) => Ok(()),
                _ => writeln!(out, "{newer} newer than in the image, left as they are (--allow-downgrade)."),
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
        let replaced = Replaced {
            place: "the ESP (/dev/vda1)".to_owned(),
            path: "EFI/BOOT/BOOTX64.EFI".to_owned(),
            from: Some("257.13".to_owned()),
            to: Some("258.1".to_owned()),
        };
        assert_eq!(
            serde_json::to_string(&Report { replaced: vec![Row::new(replaced)], unusable: Vec::new() }).unwrap(),
            r#"{"replaced":[{"partition":"the ESP (/dev/vda1)","path":"EFI/BOOT/BOOTX64.EFI","from_version":"257.13","version":"258.1"}],"unusable":[]}"#
        );
    }
}
