//! `osupdate image inspect`

use indicatif::BinaryBytes;
use osupdate_core::oci::{Stored, StoredArtifact, documents, referrers};
use osupdate_core::repository::Repository;

use super::{artifact_summary, open_stored, or_none, summary, version};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;
use crate::output::write_raw;

/// Show what is known of an image or artifact in the repository
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image inspect docker://registry.example.com/os:1.2
  osupdate image inspect sha256:0123… --json
  osupdate image inspect test --manifest | sha256sum")]
pub(super) struct Args {
    /// Tag, digest of the manifest or configuration, or hex digest of an EROFS image that was made of it
    #[arg(add = completion::images())]
    image: String,

    /// Print only the manifest, byte by byte as it was pulled
    #[arg(long, conflicts_with = "config")]
    manifest: bool,

    /// Print only the configuration, byte by byte as it was pulled
    #[arg(long)]
    config: bool,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open()?;
        let stored = open_stored(&repository, &self.image)?;
        if self.manifest || self.config {
            let digest = match &stored {
                Stored::Image(image) => &image.manifest_digest,
                Stored::Artifact(artifact) => &artifact.manifest_digest,
            };
            let (manifest, config) = documents(&repository, digest)?;
            let document = if self.manifest { manifest } else { config };
            write_raw(|out| Ok(out.write_all(&document)?))?;
            return Ok(Outcome::Done);
        }
        let image = match stored {
            Stored::Image(image) => image,
            Stored::Artifact(artifact) => return inspect_artifact(&repository, &artifact, context),
        };
        let referrers = referrers(&repository, &image.manifest_digest)?;
        let mut json = summary(&image);
        json["erofs_images"] = serde_json::to_value(&image.erofs_images)?;
        json["referrers"] = serde_json::to_value(&referrers)?;
        json["manifest"] = serde_json::to_value(&image.manifest)?;
        json["config"] = serde_json::to_value(&image.config)?;
        context.output.write(&json, |out| {
            writeln!(out, "manifest      {}", image.manifest_digest)?;
            writeln!(out, "config        {}", image.config_digest)?;
            writeln!(out, "image         {}", or_none(image.image))?;
            writeln!(out, "boot image    {}", or_none(image.boot_image))?;
            writeln!(out, "version       {}", or_none(version(&image)))?;
            writeln!(out, "architecture  {}", image.config.architecture())?;
            if let Some(created) = image.config.created() {
                writeln!(out, "created       {created}")?;
            }
            for (layer, (diff_id, _)) in image.manifest.layers().iter().zip(&image.layers) {
                writeln!(out, "layer         {diff_id}, {} compressed", BinaryBytes(layer.size()))?;
            }
            for referrer in &referrers {
                writeln!(out, "referrer      {referrer}")?;
            }
            let labels = image.config.config().as_ref().and_then(|config| config.labels().as_ref());
            let mut labels: Vec<_> = labels.into_iter().flatten().collect();
            labels.sort();
            for (name, value) in labels {
                writeln!(out, "label         {name}={}", value.escape_debug())?;
            }
            Ok(())
        })?;
        Ok(Outcome::Done)
    }
}

fn inspect_artifact(repository: &Repository, artifact: &StoredArtifact, context: &Context) -> anyhow::Result<Outcome> {
    let referrers = referrers(repository, &artifact.manifest_digest)?;
    let mut json = artifact_summary(artifact);
    json["referrers"] = serde_json::to_value(&referrers)?;
    json["manifest"] = serde_json::to_value(&artifact.manifest)?;
    context.output.write(&json, |out| {
        writeln!(out, "manifest      {}", artifact.manifest_digest)?;
        writeln!(out, "artifact      {}", artifact.artifact_type.escape_debug())?;
        writeln!(out, "belongs to    {}", or_none(artifact.subject))?;
        for layer in artifact.manifest.layers() {
            let media_type = layer.media_type().to_string();
            let media_type = media_type.escape_debug();
            writeln!(out, "layer         {}, {}, {media_type}", layer.digest(), BinaryBytes(layer.size()))?;
        }
        for referrer in &referrers {
            writeln!(out, "referrer      {referrer}")?;
        }
        let annotations = artifact.manifest.annotations().iter().flatten();
        let mut annotations: Vec<_> = annotations.collect();
        annotations.sort();
        for (name, value) in annotations {
            writeln!(out, "annotation    {}={}", name.escape_debug(), value.escape_debug())?;
        }
        Ok(())
    })?;
    Ok(Outcome::Done)
}
