//! `osupdate image inspect`

use indicatif::BinaryBytes;

use super::{open, or_none, summary, version};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;

/// Show what is known of an image in the repository
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image inspect docker://registry.example.com/os:1.2
  osupdate image inspect sha256:0123… --json")]
pub(super) struct Args {
    /// Tag, or digest of the manifest or configuration
    #[arg(add = completion::images())]
    image: String,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let image = open(&repository.open()?, &self.image)?;
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
