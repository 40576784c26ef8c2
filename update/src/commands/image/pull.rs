//! `osupdate image pull`

use std::io::{self, Write};

use anyhow::{Context as _, bail};
use osupdate_core::Digest;
use osupdate_core::oci::{FetchedManifest, PullError, PullOptions, is_artifact, pull, pull_artifact};
use osupdate_core::repository::Repository;
use osupdate_core::transform::XattrFilter;

use super::fetch_options::FetchOptions;
use super::{artifact_summary, or_none, summary, version};
use crate::admission;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::commands::status::signed::SignatureRow;
use crate::commands::summary_key::SummaryKeyOption;
use crate::commands::transfer::Transfer;
use crate::commands::trust_options::TrustOptions;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};
use crate::space;
use crate::transport::{ImageReference, SourceOptions, open_source};
use crate::trust::Verdict;

/// Fetch an image into the repository and verify it
///
/// Only layers and files that are not there already are fetched and stored. An image that was pulled is not booted: that
/// is what `install`, `upgrade` and `switch` are for. The trust policy decides whether it may be pulled, before anything but
/// the manifest is fetched; an unsigned image may, unless the policy forbids it. An artifact, such as a signature or a list of packages, is stored as
/// it is, and kept as long as the image it belongs to.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image pull docker://registry.example.com/os:1.2 --bootable
  osupdate image pull docker://localhost:5000/os --plain-http --tag test
  osupdate image pull oci:build/image:latest
  osupdate image pull containers-storage:localhost/os:latest --bootable
  osupdate image pull ./os.tar
  osupdate image pull https://images.example.com/stable/os:1.2 --bootable
  osupdate image pull docker://registry.example.com/os:1.2 --expected-digest 4d2c…
  osupdate image pull docker://registry.example.com/os:1.2 --platform linux/arm64 --tag arm

References:
  docker://HOST[:PORT]/NAME[:TAG][@sha256:HEX]    in a registry; docker:// may be left out
  https://HOST[:PORT]/[DIR/]NAME[:TAG][@sha256:HEX]    in a published tree on a web server
  oci:PATH[:TAG]                                  in an OCI layout directory
  oci-archive:PATH[:TAG]                          in an OCI archive
  docker-archive:PATH[:NAME]                      in an archive that docker save or podman save has written
  PATH[:NAME]                                     in an archive of either form; PATH begins with / or . or ends with .tar
  dir:PATH                                        in a directory that skopeo copy has written
  containers-storage:NAME                         kept by podman or buildah on this machine (needs skopeo)
  docker-daemon:NAME                              kept by Docker on this machine (needs skopeo)")]
pub(super) struct Args {
    /// What to fetch
    #[arg(add = completion::references())]
    reference: ImageReference,

    /// Name of the image in the repository; the reference if there is none
    #[arg(long, value_name = "TAG", add = completion::tags())]
    tag: Option<String>,

    /// Also make the image that is booted, with /boot and /sysroot empty
    #[arg(long)]
    bootable: bool,

    /// Extended attributes in the image that is booted; implies --bootable
    #[arg(long, value_enum, value_name = "MODE")]
    xattrs: Option<Xattrs>,

    /// Find out how the image that is booted is made so that it has this digest, which may be sealed in a UKI; implies
    /// --bootable
    #[arg(long, value_name = "HEX", conflicts_with = "xattrs")]
    expected_digest: Option<Digest>,

    #[command(flatten)]
    fetch: FetchOptions,

    #[command(flatten)]
    summary_key: SummaryKeyOption,

    #[command(flatten)]
    trust: TrustOptions,

    #[command(flatten)]
    transfer: Transfer,
}

/// Which extended attributes stay in an image.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Xattrs {
    /// security.capability, and SELinux labels if the image has a policy
    AllowlistOnly,
    /// The same and user.*
    KeepUserXattrs,
}

impl From<Xattrs> for XattrFilter {
    fn from(xattrs: Xattrs) -> Self {
        match xattrs {
            Xattrs::AllowlistOnly => Self::AllowlistOnly,
            Xattrs::KeepUserXattrs => Self::KeepUserXattrs,
        }
    }
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let reference = self.reference.absolute().context("cannot find the current directory")?;
        let doing = || format!("cannot pull {reference}");
        let repository = repository.open_for_change()?;
        let policy = self.trust.load().with_context(doing)?;
        let options = SourceOptions { limits: self.transfer.limits(), ..self.fetch.source_options() }
            .with_summary_key(self.summary_key.load(&reference).with_context(doing)?)
            .not_older_than(&repository, &reference)
            .with_context(doing)?;
        let origin = open_source(&reference, &options).with_context(doing)?;
        let tag = self.tag.unwrap_or_else(|| reference.to_string());
        let source = FetchedManifest::fetch(&origin).map_err(PullError::FetchManifest).with_context(doing)?;
        let verdict = policy.check(&reference, &origin, source.bytes()).with_context(doing)?;
        if is_artifact(source.bytes()) {
            if self.bootable || self.xattrs.is_some() || self.expected_digest.is_some() {
                bail!("{reference} is an artifact and not an image, it cannot be booted");
            }
            return self::artifact(&repository, &source, &reference, &tag, &verdict, context);
        }
        let platform = self.fetch.platform();
        let options = PullOptions {
            bootable: self.bootable || self.xattrs.is_some() || self.expected_digest.is_some(),
            xattrs: self.xattrs.map(Into::into).unwrap_or_default(),
            expected_boot_image: self.expected_digest,
            tag: Some(&tag),
            platform: Some(&platform),
            ..PullOptions::default()
        };
        let result = pull(&repository, &source, &options, &*context.observer);
        let image = match result {
            Err(PullError::Boot(_)) => result.hint("without --bootable it can be pulled, but then not booted"),
            Err(PullError::BootImage { .. }) => result.hint("without --expected-digest the first of these is stored"),
            other => other.map_err(|error| space::explain(error, &repository)),
        }
        .with_context(doing)?;

        let mut json = summary(&image);
        json["reference"] = reference.to_string().into();
        json["tag"] = tag.as_str().into();
        json["signatures"] = signatures(&verdict)?;
        context.output.write(&json, |out| {
            writeln!(out, "{tag}")?;
            if let Some(version) = version(&image) {
                writeln!(out, "  version     {version}")?;
            }
            writeln!(out, "  manifest    {}", image.manifest_digest)?;
            writeln!(out, "  image       {}", or_none(image.image))?;
            writeln!(out, "  boot image  {}", or_none(image.boot_image))?;
            signers(out, &verdict)
        })?;
        Ok(Outcome::Done)
    }
}

fn artifact(
    repository: &Repository,
    source: &FetchedManifest<'_>,
    reference: &ImageReference,
    tag: &str,
    verdict: &Verdict,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let artifact = pull_artifact(repository, source, Some(tag), &*context.observer)
        .with_context(|| format!("cannot pull {reference}"))?;
    let mut json = artifact_summary(&artifact);
    json["reference"] = reference.to_string().into();
    json["tag"] = tag.into();
    json["signatures"] = signatures(verdict)?;
    context.output.write(&json, |out| {
        writeln!(out, "{tag}")?;
        writeln!(out, "  manifest    {}", artifact.manifest_digest)?;
        writeln!(out, "  artifact    {}", artifact.artifact_type.escape_debug())?;
        writeln!(out, "  belongs to  {}", or_none(artifact.subject))?;
        signers(out, verdict)
    })?;
    Ok(Outcome::Done)
}

/// The signatures that the policy wanted, in the form that all commands give them.
fn signatures(verdict: &Verdict) -> serde_json::Result<serde_json::Value> {
    let rows: Vec<_> = verdict.signers.iter().map(|signer| SignatureRow::new(&admission::signature(signer))).collect();
    serde_json::to_value(rows)
}

/// A line for each signature that the policy wanted.
fn signers(out: &mut dyn Write, verdict: &Verdict) -> io::Result<()> {
    if !verdict.is_signed() {
        return writeln!(out, "  signed      no: the policy asks for no signature");
    }
    verdict.signers.iter().try_for_each(|signer| writeln!(out, "  signed      {signer}"))
}
