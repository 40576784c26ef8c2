//! `osupdate image list`

use osupdate_core::oci::{Stored, all_referrers, list, open_any};
use serde::Serialize;

use super::version;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::Outcome;
use crate::output::table;

/// List the images in the repository by their tags
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[derive(Serialize)]
struct Report {
    images: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    tag: String,
    manifest_digest: String,
    /// False: the tag's image is damaged or gone.
    readable: bool,
    bootable: bool,
    image_version: Option<String>,
    architecture: Option<String>,
    layers: Option<usize>,
    /// Null: it is an image.
    artifact_type: Option<String>,
    /// How many artifacts belong to it.
    referrers: usize,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open()?;
        let mut images = Vec::new();
        let referrers = all_referrers(&repository)?;
        for (tag, digest) in list(&repository)? {
            // One bad image must not hide the others.
            let stored = match open_any(&repository, &digest.to_string()) {
                Ok(stored) => Some(stored),
                Err(error) => {
                    tracing::warn!("{tag}: {error}");
                    None
                }
            };
            let (image, artifact) = match &stored {
                Some(Stored::Image(image)) => (Some(image), None),
                Some(Stored::Artifact(artifact)) => (None, Some(artifact)),
                None => (None, None),
            };
            images.push(Row {
                tag,
                manifest_digest: digest.to_string(),
                readable: stored.is_some(),
                bootable: image.is_some_and(|image| image.boot_image.is_some()),
                image_version: image.and_then(|image| version(image)).map(str::to_owned),
                architecture: image.map(|image| image.config.architecture().to_string()),
                layers: image.map(|image| image.layers.len()).or(artifact.map(|artifact| artifact.layers.len())),
                artifact_type: artifact.map(|artifact| artifact.artifact_type.clone()),
                referrers: referrers.iter().filter(|(subject, _)| *subject == digest).count(),
            });
        }
        let report = Report { images };
        context.output.write(&report, |out| {
            if report.images.is_empty() {
                return writeln!(out, "no images");
            }
            let heading = ["TAG", "MANIFEST", "VERSION", "ARCH", "LAYERS", "BOOTABLE"].map(str::to_owned);
            let rows = report.images.iter().map(Row::columns);
            table(out, &std::iter::once(heading).chain(rows).collect::<Vec<_>>())
        })?;
        Ok(Outcome::Done)
    }
}

impl Row {
    fn columns(&self) -> [String; 6] {
        let hex = self.manifest_digest.split_once(':').map_or("", |(_, hex)| hex);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let bootable = match (self.readable, self.bootable) {
            (false, _) => "damaged",
            _ if self.artifact_type.is_some() => "artifact",
            (true, true) => "yes",
            (true, false) => "no",
        };
        [
            self.tag.clone(),
            hex.chars().take(12).collect(),
            or_dash(self.image_version.clone()),
            or_dash(self.architecture.clone()),
            or_dash(self.layers.map(|layers| layers.to_string())),
            bootable.to_owned(),
        ]
    }
}
