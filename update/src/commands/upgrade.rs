//! `osupdate upgrade`: the newest image from where the running one came from.

mod check;

use std::io::{self, Write};

use osupdate_core::oci::{Offer, Platform};
use osupdate_deploy::cleanup;
use osupdate_deploy::freshness::Expired;
use osupdate_deploy::plan::Staging;
use osupdate_deploy::prepare::Source;
use osupdate_deploy::stage::{self, Request, StageError, Staged};
use osupdate_deploy::sysroot::Patience;
use serde::Serialize;

use super::repository_path::LockTimeout;
use super::status::signed::{SignatureRow, signed_by};
use super::transfer::Transfer;
use crate::admission::{self, Candidate, UpgradeAllowances};
use crate::cli::Context;
use crate::exit::Outcome;
use crate::metered;
use crate::space;
use crate::system::{self, System};
use crate::transport::{ImageReference, SourceOptions, open_source};

/// Fetch the newest image and make it boot next
///
/// The image comes from where the staged image came from, or else the booted one. The running system is not changed: the
/// new image is used from the next boot on, with the local changes in /etc as they are then.
///
/// Where images are signed, only a signed one is accepted. One that is older than what the machine has, or whose time is over,
/// is refused. If what the machine has is all that its origin offers, and its time is over, the exit status is 3.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate upgrade --apply
  osupdate upgrade --check --json")]
pub struct Args {
    /// Only tell whether there is a newer image, and what it would cost; exits with 3 if there is one. Nothing is written
    #[arg(long, conflicts_with_all = ["apply", "wait"])]
    check: bool,

    /// Reboot if there is something new
    #[arg(long)]
    apply: bool,

    #[command(flatten)]
    allow: UpgradeAllowances,

    /// Accept an image without a UKI on a machine whose image is sealed into one
    #[arg(long)]
    allow_unsealed_image: bool,

    /// Wait for another osupdate that is changing the system, instead of failing
    #[arg(long)]
    wait: bool,

    /// Do nothing while the network connection is metered, as NetworkManager sees it
    #[arg(long)]
    if_unmetered: bool,

    #[command(flatten)]
    transfer: Transfer,

    #[command(flatten)]
    lock: LockTimeout,
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        if self.check {
            return check::run(self.lock, self.allow, self.allow_unsealed_image, context);
        }
        if self.if_unmetered && metered::is_metered() {
            let report = SkippedReport { state: "metered", reboot_needed: false };
            context
                .output
                .write(&report, |out| writeln!(out, "Nothing is done: the network connection is metered."))?;
            return Ok(Outcome::Done);
        }
        let system = System::open(context, patience(self.wait), self.lock, "osupdate upgrade")?;
        let machine = system.machine(&*context.observer);
        let survey = cleanup::repair(&machine)?;
        let origin = stage::origin(&survey.model)?;
        let reference: ImageReference = origin.reference.parse()?;
        let options =
            SourceOptions { plain_http: origin.plain_http, limits: self.transfer.limits(), ..SourceOptions::default() };
        let options =
            options.with_summary_key(origin.summary_key.clone()).not_older_than(machine.repository, &reference)?;
        let image = open_source(&reference, &options)?;
        let offer = Offer::fetch(&image, &Platform::host())
            .map_err(|err| anyhow::Error::new(err).context(format!("cannot examine {}", origin.reference)))?;
        let candidate = Candidate { reference: &reference, source: &image, offer: &offer };
        let admitted = admission::upgrade(&candidate, machine.repository, &survey.model, self.allow, machine.observer)
            .map_err(|err| anyhow::Error::new(err).context(format!("cannot upgrade to {}", origin.reference)))?;
        let outcome = if admitted.frozen.is_some() { Outcome::Findings } else { Outcome::Done };
        let source = Source { requirement: admitted.requirement, ..origin };
        let request = Request {
            source,
            signatures: admitted.signatures,
            retry_failed: false,
            allow_unsealed: self.allow_unsealed_image,
        };
        let staged = match stage::stage(&machine, &survey, &offer, &request) {
            Ok(staged) => staged,
            Err(error) => return Err(failed(context, system, error)),
        };
        report(context, &staged, admitted.frozen.as_ref())?;
        finish(context, system, &staged, self.apply)?;
        Ok(outcome)
    }
}

/// Tells that an origin has nothing newer than what should have been replaced.
fn tell_frozen(expired: Option<&Expired>, out: &mut dyn Write) -> io::Result<()> {
    let Some(expired) = expired else { return Ok(()) };
    writeln!(out, "But {expired}.\nIts origin offers nothing newer: it may be frozen, or given up.")
}

/// Whether to wait for others.
pub(super) fn patience(wait: bool) -> Patience {
    if wait { Patience::Wait } else { Patience::Fail }
}

/// The error of a change that did not get done. If it was for lack of space, what it took is given back first: /var is
/// on the same file system.
pub(super) fn failed(context: &Context, system: System, error: StageError) -> anyhow::Error {
    let error = space::explain(error, system.repository());
    if space::is_lacking(&error) {
        super::gc::collect_quietly(context, system);
    }
    error
}

/// Collects garbage if something was removed; reboots if asked to and if there is something new.
pub(super) fn finish(context: &Context, system: System, staged: &Staged, apply: bool) -> anyhow::Result<Outcome> {
    if !staged.removed.is_empty() {
        super::gc::collect_quietly(context, system);
    }
    let boots_next = !matches!(staged.staging, Staging::Current | Staging::KeepBooted | Staging::Failed);
    if apply && boots_next {
        system::reboot(&*context.observer)?;
    }
    Ok(Outcome::Done)
}

/// What `--json` prints after staging; a contract.
#[derive(Debug, Serialize)]
struct StagedReport {
    state: &'static str,
    reboot_needed: bool,
    deployment: String,
    reference: String,
    manifest_digest: String,
    image_version: Option<String>,
    signatures: Vec<SignatureRow>,
    expired: bool,
    removed: Vec<String>,
}

/// What `--json` prints if the command was not to run now; a contract.
#[derive(Debug, Serialize)]
struct SkippedReport {
    state: &'static str,
    reboot_needed: bool,
}

/// The state of an image in one stable word.
fn state(staging: Staging) -> &'static str {
    match staging {
        Staging::Current => "current",
        Staging::KeepBooted => "booted",
        Staging::Staged => "staged",
        Staging::Failed => "failed",
        Staging::Again => "present",
        Staging::Resealed => "resealed",
        Staging::New => "new",
    }
}

/// Tells what staging did; `frozen` if the image is what the machine had, and its time is over.
pub(super) fn report(context: &Context, staged: &Staged, frozen: Option<&Expired>) -> anyhow::Result<()> {
    let Staged { staging, id, record, removed } = staged;
    let image = &record.image;
    let report = StagedReport {
        state: state(*staging),
        reboot_needed: matches!(staging, Staging::New | Staging::Again | Staging::Resealed | Staging::Staged),
        deployment: id.to_string(),
        reference: image.reference.clone(),
        manifest_digest: image.manifest_digest.clone(),
        image_version: image.version.clone(),
        signatures: image.signatures.iter().map(SignatureRow::new).collect(),
        expired: frozen.is_some(),
        removed: removed.iter().map(ToString::to_string).collect(),
    };
    context.output.write(&report, |out| {
        let name = match &image.version {
            Some(version) => format!("version {version} of {} ({})", image.reference, id.short(12)),
            None => format!("{} ({})", image.reference, id.short(12)),
        };
        match staging {
            Staging::Current => writeln!(out, "No update available: {name} is what runs."),
            Staging::KeepBooted => {
                writeln!(out, "The image is what runs: {name}.\nIt stays so: the next boot was for another deployment.")
            }
            Staging::Staged => writeln!(out, "Staged already: {name}.\nReboot to use it."),
            Staging::Failed => writeln!(
                out,
                "Not staged: {name} failed to boot on this machine before, and there is no newer image.\n\
                 To try it again: osupdate switch {}",
                image.reference
            ),
            Staging::Resealed => writeln!(
                out,
                "Staged: {name} has another UKI now, {}; its files are the same.\nReboot to use it.",
                signed_by(&report.signatures)
            ),
            Staging::Again | Staging::New => {
                writeln!(out, "Staged: {name}, {}.\nReboot to use it.", signed_by(&report.signatures))
            }
        }?;
        tell_frozen(frozen, out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_of_what_was_staged_is_the_pinned_one() {
        let report = StagedReport {
            state: state(Staging::Current),
            reboot_needed: false,
            deployment: "a".to_owned(),
            reference: "oci:/x".to_owned(),
            manifest_digest: "sha256:0".to_owned(),
            image_version: Some("1".to_owned()),
            signatures: Vec::new(),
            expired: false,
            removed: vec!["b".to_owned()],
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"state":"current","reboot_needed":false,"deployment":"a","reference":"oci:/x","manifest_digest":"sha256:0","image_version":"1","signatures":[],"expired":false,"removed":["b"]}"#
        );
    }
}
