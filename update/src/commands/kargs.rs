//! `osupdate kargs`: this machine's own kernel arguments.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use osupdate_deploy::kargs::change::{ChangedKargs, change, own_arguments};
use osupdate_deploy::kargs::edit::Edit;
use osupdate_deploy::local_addon::{LocalAddonError, LocalSigner};
use osupdate_deploy::record::Deployment as Record;
use osupdate_efi::secure_boot::SecureBoot;
use osupdate_efi::variables::EfiVariables;
use serde::Serialize;

use super::repository_path::LockTimeout;
use super::signing_options::signer;
use super::upgrade::patience;
use crate::cli::Context;
use crate::exit::Outcome;
use crate::system::{self, System};

/// Where a machine has the key for its own kernel arguments.
const KEY: &str = "/etc/osupdate/keys/local.key";
/// And its certificate.
const CERTIFICATE: &str = "/etc/osupdate/keys/local.crt";

/// Show or change the kernel arguments of this machine
///
/// Without options, shows those of the deployment that boots next: the machine's own, and those of the image. Changes are for that
/// deployment, and are carried to those after it; a rollback takes them back. The running kernel keeps its arguments.
///
/// Where the arguments of the image are sealed into a UKI, the machine's own are put into an addon, which is signed with the
/// key of this machine. Its certificate must be enrolled in the firmware (db) or with mokutil, and only arguments that the
/// image allows can be added.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate kargs --append console=ttyS0 --delete quiet
  osupdate kargs --replace loglevel=7 --apply")]
pub struct Args {
    /// Add an argument, unless it is there; can be given several times
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    append: Vec<String>,

    /// Remove an argument, KEY=VALUE, or all with one KEY; can be given several times
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    delete: Vec<String>,

    /// Give the argument with this key another value; can be given several times
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    replace: Vec<String>,

    /// Private key for the addon: a file in PEM or DER, or a PKCS#11 URI
    #[arg(long, value_name = "KEY", default_value = KEY, value_hint = ValueHint::FilePath)]
    key: String,

    /// Certificate of the key
    #[arg(long, value_name = "FILE", default_value = CERTIFICATE, value_hint = ValueHint::FilePath)]
    certificate: PathBuf,

    /// Reboot if something was changed
    #[arg(long)]
    apply: bool,

    /// Wait for another osupdate that is changing the system, instead of failing
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    lock: LockTimeout,
}

/// What `--json` prints; a contract.
#[derive(Debug, Serialize)]
struct Report {
    deployment: String,
    /// The machine's own.
    arguments: Vec<String>,
    image_arguments: Vec<String>,
    /// They are in a UKI.
    sealed: bool,
    changed: bool,
    reboot_needed: bool,
}

impl Report {
    fn new(id: String, record: &Record, changed: bool) -> Self {
        Self {
            deployment: id,
            arguments: own_arguments(record),
            image_arguments: record.boot.image_arguments.clone(),
            sealed: record.boot.uki.is_some(),
            changed,
            reboot_needed: changed,
        }
    }
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let edit = Edit { append: self.append, delete: self.delete, replace: self.replace };
        if edit.is_empty() {
            return show(context);
        }
        let system = System::open(context, patience(self.wait), self.lock, "osupdate kargs")?;
        let machine = system.machine(&*context.observer);
        let (key, certificate) = (self.key, self.certificate);
        let signer = || {
            // Without one, the command says how to get one.
            if let Some(path) =
                [Path::new(&key), &certificate].into_iter().find(|path| is_default(path) && !path.exists())
            {
                return Err(LocalAddonError::NoKey { path: path.to_owned() });
            }
            if let Ok(metadata) = std::fs::metadata(&key)
                && metadata.mode() & 0o077 != 0
            {
                return Err(LocalAddonError::KeyMode { path: key.into() });
            }
            let failed = |err: anyhow::Error| LocalAddonError::Key(err.into());
            let secure_boot = SecureBoot::read(&EfiVariables::default()).map_err(|err| failed(err.into()))?;
            let signer = signer(&key, &certificate).map_err(failed)?;
            Ok(LocalSigner::new(signer, secure_boot))
        };
        let ChangedKargs { id, record, before, after, removed } = change(&machine, &edit, signer)?;
        let report = Report::new(id.to_string(), &record, before != after);
        context.output.write(&report, |out| match report.changed {
            false => writeln!(out, "Nothing to do: the kernel arguments of this machine are {}.", joined(&after)),
            true => writeln!(
                out,
                "Kernel arguments of this machine from the next boot on: {} (before: {}).\nReboot to use them.",
                joined(&after),
                joined(&before)
            ),
        })?;
        if !removed.is_empty() {
            super::gc::collect_quietly(context, system);
        }
        if self.apply && report.changed {
            system::reboot(&*context.observer)?;
        }
        Ok(Outcome::Done)
    }
}

fn show(context: &Context) -> anyhow::Result<Outcome> {
    let (_, survey) = system::look(context)?;
    let model = &survey.model;
    let Some(next) = model.next().or_else(|| model.booted()) else {
        anyhow::bail!("no deployment boots next");
    };
    let report = Report::new(next.id.to_string(), &next.record, false);
    context.output.write(&report, |out| {
        let sealed = if report.sealed { ", sealed into its UKI" } else { "" };
        writeln!(out, "Of this machine: {}", joined(&report.arguments))?;
        writeln!(out, "Of the image{sealed}: {}", joined(&report.image_arguments))
    })?;
    Ok(Outcome::Done)
}

fn is_default(path: &Path) -> bool {
    [KEY, CERTIFICATE].map(Path::new).contains(&path)
}

fn joined(arguments: &[String]) -> String {
    if arguments.is_empty() { "none".to_owned() } else { arguments.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_is_the_pinned_one() {
        let report = Report {
            deployment: "a".to_owned(),
            arguments: vec!["debug".to_owned()],
            image_arguments: vec!["quiet".to_owned()],
            sealed: true,
            changed: true,
            reboot_needed: true,
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"deployment":"a","arguments":["debug"],"image_arguments":["quiet"],"sealed":true,"changed":true,"reboot_needed":true}"#
        );
    }
}
