//! `osupdate image list`

mod erofs;

use std::collections::BTreeSet;
use std::io::{self, Write};

use osupdate_core::oci::{ContentDigest, Stored, all_referrers, list, manifests, open_any};
use osupdate_core::repository::Repository;
use serde::Serialize;

use self::erofs::ErofsRow;
use super::version;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::Outcome;
use crate::output::table;

/// List the images in the repository by their tags
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also list images without a tag, and the EROFS images with their names
    #[arg(long, short)]
    all: bool,
}

#[derive(Serialize)]
struct Report {
    images: Vec<Row>,
    /// Null unless everything is listed.
    erofs_images: Option<Vec<ErofsRow>>,
}

#[derive(Serialize)]
struct Row {
    /// Null: it has none.
    tag: Option<String>,
    manifest_digest: String,
    /// False: the tag's image is damaged or gone.
    readable: bool,
    bootable: bool,
    image_version: Option<String>,
    architecture: Option<String>,
    layers: Option<usize>,
    created: Option<String>,
    /// Null: it is an image.
    artifact_type: Option<String>,
    /// How many artifacts belong to it.
    referrers: usize,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open()?;
        let mut wanted: Vec<_> = list(&repository)?.into_iter().map(|(tag, digest)| (Some(tag), digest)).collect();
        if self.all {
            let tagged: BTreeSet<_> = wanted.iter().map(|(_, digest)| *digest).collect();
            let others = manifests(&repository)?.into_iter().filter(|digest| !tagged.contains(digest));
            wanted.extend(others.map(|digest| (None, digest)));
        }
        let referrers = all_referrers(&repository)?;
        let mut images = Vec::new();
        let mut made = Vec::new();
        for (tag, digest) in wanted {
            let stored = read(&repository, tag.as_deref(), &digest);
            if let Some(Stored::Image(image)) = &stored {
                made.extend(image.erofs_images.values().map(|erofs| (*erofs, digest)));
            }
            let referrers = referrers.iter().filter(|(subject, _)| *subject == digest).count();
            images.push(Row::new(tag, &digest, stored.as_ref(), referrers));
        }
        let erofs_images = if self.all { Some(erofs::rows(&repository, &made)?) } else { None };
        let report = Report { images, erofs_images };
        context.output.write(&report, |out| report.human(out))?;
        Ok(Outcome::Done)
    }
}

/// Opens an image or artifact; one bad image must not hide the others.
fn read(repository: &Repository, tag: Option<&str>, digest: &ContentDigest) -> Option<Stored> {
    match open_any(repository, &digest.to_string()) {
        Ok(stored) => Some(stored),
        Err(error) => {
            tracing::warn!("{}: {error}", tag.unwrap_or(&digest.to_string()));
            None
        }
    }
}

impl Report {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.images.is_empty() {
            writeln!(out, "no images")?;
        } else {
            let heading = ["TAG", "MANIFEST", "VERSION", "ARCH", "LAYERS", "REFERRERS", "BOOTABLE"].map(str::to_owned);
            let rows = self.images.iter().map(Row::columns);
            table(out, &std::iter::once(heading).chain(rows).collect::<Vec<_>>())?;
        }
        match &self.erofs_images {
            Some(rows) => erofs::human(rows, out),
            None => Ok(()),
        }
    }
}

impl Row {
    fn new(tag: Option<String>, digest: &ContentDigest, stored: Option<&Stored>, referrers: usize) -> Self {
        let (image, artifact) = match stored {
            Some(Stored::Image(image)) => (Some(image), None),
            Some(Stored::Artifact(artifact)) => (None, Some(artifact)),
            None => (None, None),
        };
        Self {
            tag,
            manifest_digest: digest.to_string(),
            readable: stored.is_some(),
            bootable: image.is_some_and(|image| image.boot_image.is_some()),
            image_version: image.and_then(|image| version(image)).map(str::to_owned),
            architecture: image.map(|image| image.config.architecture().to_string()),
            layers: image.map(|image| image.layers.len()).or(artifact.map(|artifact| artifact.layers.len())),
            created: image.and_then(|image| image.config.created().clone()),
            artifact_type: artifact.map(|artifact| artifact.artifact_type.clone()),
            referrers,
        }
    }

    fn columns(&self) -> [String; 7] {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let bootable = match (self.readable, self.bootable) {
            (false, _) => "damaged",
            _ if self.artifact_type.is_some() => "artifact",
            (true, true) => "yes",
            (true, false) => "no",
        };
        [
            or_dash(self.tag.clone()),
            short(&self.manifest_digest),
            or_dash(self.image_version.clone()),
            or_dash(self.architecture.clone()),
            or_dash(self.layers.map(|layers| layers.to_string())),
            self.referrers.to_string(),
            bootable.to_owned(),
        ]
    }
}

/// The first digits of a digest, with or without its algorithm.
fn short(digest: &str) -> String {
    digest.rsplit(':').next().unwrap_or(digest).chars().take(12).collect()
}
