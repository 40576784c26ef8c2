//! `osupdate switch`: another image.

use osupdate_core::oci::{Offer, Platform};
use osupdate_deploy::cleanup;
use osupdate_deploy::prepare::Source;
use osupdate_deploy::stage::{self, Request};

use super::repository_path::LockTimeout;
use super::summary_key::SummaryKeyOption;
use super::transfer::Transfer;
use super::upgrade::{failed, finish, patience, report};
use crate::admission::{self, Allowances, Candidate};
use crate::cli::Context;
use crate::completion;
use crate::exit::Outcome;
use crate::system::System;
use crate::transport::{ImageReference, SourceOptions, open_source};

/// Fetch another image, make it boot next, and follow it from then on
///
/// /var and the local changes in /etc are kept, as with upgrade. The image must be signed, by a key that
/// /etc/containers/policy.json names, and so must be those that follow.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate switch docker://registry.example.com/os:2
  osupdate switch oci:/var/tmp/image:latest --apply")]
pub struct Args {
    /// The image: docker://HOST/NAME:TAG, oci:DIRECTORY[:TAG], or another reference as for image pull
    #[arg(value_name = "REF", add = completion::references())]
    reference: ImageReference,

    /// Speak to the registry without TLS, now and for later upgrades
    #[arg(long)]
    plain_http: bool,

    #[command(flatten)]
    allow: Allowances,

    /// Accept an image without a UKI on a machine whose image is sealed into one
    #[arg(long)]
    allow_unsealed_image: bool,

    /// Reboot when done
    #[arg(long)]
    apply: bool,

    /// Wait for another osupdate that is changing the system, instead of failing
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    summary_key: SummaryKeyOption,

    #[command(flatten)]
    transfer: Transfer,

    #[command(flatten)]
    lock: LockTimeout,
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let system = System::open(context, patience(self.wait), self.lock, "osupdate switch")?;
        let machine = system.machine(&*context.observer);
        let survey = cleanup::repair(&machine)?;
        // An origin must mean the same later and from everywhere.
        let reference = self.reference.absolute()?;
        let options =
            SourceOptions { plain_http: self.plain_http, limits: self.transfer.limits(), ..SourceOptions::default() };
        // For another image of the same tree, its key stays.
        let summary_key = match self.summary_key.load(&reference)? {
            None => stage::origin(&survey.model).ok().and_then(|origin| known_key(&reference, origin)),
            named => named,
        };
        let options = options.with_summary_key(summary_key.clone()).not_older_than(machine.repository, &reference)?;
        let image = open_source(&reference, &options)?;
        let offer = Offer::fetch(&image, &Platform::host())
            .map_err(|err| anyhow::Error::new(err).context(format!("cannot examine {reference}")))?;
        let candidate = Candidate { reference: &reference, source: &image, offer: &offer };
        let accepted = admission::switch(&candidate, machine.repository, &survey.model, self.allow, machine.observer)
            .map_err(|err| anyhow::Error::new(err).context(format!("cannot switch to {reference}")))?;
        let source = Source {
            reference: reference.to_string(),
            plain_http: self.plain_http,
            summary_key,
            requirement: Some(accepted.requirement),
        };
        // Who names an image wants it, whatever happened before.
        let request = Request {
            source,
            signatures: accepted.signatures,
            retry_failed: true,
            allow_unsealed: self.allow_unsealed_image,
        };
        let staged = match stage::stage(&machine, &survey, &offer, &request) {
            Ok(staged) => staged,
            Err(error) => return Err(failed(context, system, error)),
        };
        report(context, &staged, None)?;
        finish(context, system, &staged, self.apply)
    }
}

/// The key that the tree of an image has for the origin that is followed.
fn known_key(reference: &ImageReference, followed: Source) -> Option<String> {
    let old: ImageReference = followed.reference.parse().ok()?;
    followed.summary_key.filter(|_| old.tree() == reference.tree())
}
