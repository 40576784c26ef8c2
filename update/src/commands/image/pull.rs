//! `osupdate image pull`

use anyhow::Context as _;
use osupdate_core::oci::{Platform, PullError, PullOptions, pull};

use super::{or_none, summary, version};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};
use crate::transport::{ImageReference, SourceOptions, open_source};

/// Fetch an image into the repository and verify it
///
/// Only layers and files that are not there already are fetched and stored. An image that was pulled is not booted: that
/// is what `install`, `upgrade` and `switch` are for.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image pull docker://registry.example.com/os:1.2 --bootable
  osupdate image pull docker://localhost:5000/os --plain-http --tag test
  osupdate image pull oci:build/image:latest

References:
  docker://HOST[:PORT]/NAME[:TAG][@sha256:HEX]    in a registry; docker:// may be left out
  oci:PATH[:TAG]                                  in an OCI layout directory")]
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

    /// Speak HTTP without TLS with the registry
    #[arg(long)]
    plain_http: bool,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let reference = self.reference.absolute().context("cannot find the current directory")?;
        let doing = || format!("cannot pull {reference}");
        let repository = repository.open_for_change()?;
        let source = open_source(&reference, &SourceOptions { plain_http: self.plain_http }).with_context(doing)?;
        let tag = self.tag.unwrap_or_else(|| reference.to_string());
        let options =
            PullOptions { bootable: self.bootable, tag: Some(&tag), keep_as: None, platform: Some(&Platform::host()) };
        let result = pull(&repository, &source, &options, &*context.observer);
        let image = match result {
            Err(PullError::Boot(_)) => result.hint("without --bootable it can be pulled, but then not booted"),
            other => other.map_err(Into::into),
        }
        .with_context(doing)?;

        let mut json = summary(&image);
        json["reference"] = reference.to_string().into();
        json["tag"] = tag.as_str().into();
        context.output.write(&json, |out| {
            writeln!(out, "{tag}")?;
            if let Some(version) = version(&image) {
                writeln!(out, "  version     {version}")?;
            }
            writeln!(out, "  manifest    {}", image.manifest_digest)?;
            writeln!(out, "  image       {}", or_none(image.image))?;
            writeln!(out, "  boot image  {}", or_none(image.boot_image))
        })?;
        Ok(Outcome::Done)
    }
}
