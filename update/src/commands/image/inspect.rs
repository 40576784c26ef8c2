//! `osupdate image inspect`

use indicatif::BinaryBytes;
use osupdate_core::oci::documents;

use super::{open, or_none, summary, version};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;
use crate::output::write_raw;

/// Show what is known of an image in the repository
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image inspect docker://registry.example.com/os:1.2
  osupdate image inspect sha256:0123… --json
  osupdate image inspect test --manifest | sha256sum")]
pub(super) struct Args {
    /// Tag, or digest of the manifest or configuration
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
        let image = open(&repository, &self.image)?;
        if self.manifest || self.config {
            let (manifest, config) = documents(&repository, &image)?;
            let document = if self.manifest { manifest } else { config };
            write_raw(|out| Ok(out.write_all(&document)?))?;
            return Ok(Outcome::Done);
        }
        let mut json = summary(&image);
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
