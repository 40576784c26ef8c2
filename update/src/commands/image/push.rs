//! `osupdate image push`

use anyhow::Context as _;
use clap::ValueEnum;
use osupdate_core::observer::Event;
use osupdate_core::oci::{self, Compression, Stored};
use osupdate_core::repository::Repository;
use serde::Serialize;

use super::open_stored;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};
use crate::push::{LayerPush, PushError, PushOptions, push};
use crate::transport::reference::RegistryReference;
use crate::transport::{ImageReference, Target};

/// Put an image of the repository into a registry, a directory or an archive
///
/// Layers are restored bit for bit. Those that were compressed when the image was pulled are compressed anew, unless the
/// destination has the old ones: then the manifest has another digest than the stored one, and signatures of that one are not
/// signatures of this one. What the image consists of is the same, and so is the digest that the kernel checks.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image push docker://registry.example.com/os:1.2 docker://mirror.example.com/os:1.2
  osupdate image push my-tag oci:/mnt/usb/images:1.2 --compression zstd
  osupdate image push my-tag oci-archive:os.tar")]
pub(super) struct Args {
    /// Tag or digest of an image or artifact
    #[arg(add = completion::images())]
    image: String,

    /// Where it goes: docker://HOST/NAME[:TAG], oci:DIRECTORY[:TAG] or oci-archive:FILE[:TAG]
    #[arg(add = completion::references())]
    destination: ImageReference,

    /// Speak HTTP without TLS with the registry
    #[arg(long)]
    plain_http: bool,

    /// How layers are compressed [default: as they were]
    #[arg(long, value_name = "FORMAT")]
    compression: Option<Format>,

    /// Fail rather than give the image another digest
    #[arg(long, conflicts_with = "compression")]
    preserve_digest: bool,
}

/// `--compression`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    None,
    Gzip,
    Zstd,
}

impl From<Format> for Compression {
    fn from(format: Format) -> Self {
        match format {
            Format::None => Self::None,
            Format::Gzip => Self::Gzip,
            Format::Zstd => Self::Zstd,
        }
    }
}

#[derive(Serialize)]
struct Report {
    destination: String,
    manifest_digest: String,
    config_digest: String,
    /// Whether the manifest is the stored one.
    same_manifest: bool,
    sent_bytes: u64,
    layers: Vec<Layer>,
}

#[derive(Serialize)]
struct Layer {
    diff_id: String,
    digest: String,
    size_bytes: u64,
    state: &'static str,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let destination = self.destination;
        let doing = || format!("cannot push {} to {destination}", self.image);
        let repository = repository.open()?;
        let stored = open_stored(&repository, &self.image)?;
        let target = Target::open(&destination, self.plain_http).with_context(doing)?;
        let options = PushOptions {
            compression: self.compression.map(Into::into),
            preserve_digest: self.preserve_digest,
            origin: origin(&repository, &stored)?,
        };
        let result = push(&repository, &stored, target, &options, &context.observer);
        let pushed = match result {
            Err(PushError::DigestChanges { .. }) => {
                result.hint("without --preserve-digest it is pushed; or copy it from where it came from: skopeo copy")
            }
            other => other.map_err(Into::into),
        }
        .with_context(doing)?;
        let anew = pushed.layers.iter().filter(|layer| matches!(layer.push, LayerPush::Compressed(_))).count();
        if pushed.manifest_digest != pushed.stored_digest {
            let text = format!(
                "{anew} of {} layers were compressed anew, so the manifest is another one, and signatures of {} do not count for it",
                pushed.layers.len(),
                pushed.stored_digest
            );
            context.observer.event(Event::Warning(&text));
        }
        let report = Report {
            destination: destination.to_string(),
            manifest_digest: pushed.manifest_digest.to_string(),
            config_digest: pushed.config_digest.to_string(),
            same_manifest: pushed.manifest_digest == pushed.stored_digest,
            sent_bytes: pushed.sent_bytes,
            layers: pushed
                .layers
                .iter()
                .map(|layer| Layer {
                    diff_id: layer.diff_id.to_string(),
                    digest: layer.digest.to_string(),
                    size_bytes: layer.size_bytes,
                    state: layer.push.name(),
                })
                .collect(),
        };
        context.output.write(&report, |out| {
            writeln!(out, "{destination}")?;
            writeln!(out, "  manifest    {}", report.manifest_digest)?;
            let count = |state| report.layers.iter().filter(|layer| layer.state == state).count();
            let (present, sent, compressed) = (count("present"), count("sent"), count("compressed"));
            writeln!(out, "  layers      {present} were there, {sent} sent as they are, {compressed} compressed anew")
        })?;
        Ok(Outcome::Done)
    }
}

/// The registry that an image was pulled from, as one of its tags says.
fn origin(repository: &Repository, stored: &Stored) -> anyhow::Result<Option<RegistryReference>> {
    let digest = match stored {
        Stored::Image(image) => image.manifest_digest,
        Stored::Artifact(artifact) => artifact.manifest_digest,
    };
    let tags = oci::list(repository)?.into_iter().filter(|(_, target)| *target == digest);
    let mut references = tags.filter_map(|(tag, _)| match tag.parse() {
        Ok(ImageReference::Registry(reference)) => Some(reference),
        _ => None,
    });
    Ok(references.next())
}
