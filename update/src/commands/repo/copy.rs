//! `osupdate repo copy`

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use indicatif::BinaryBytes;
use osupdate_core::oci::{copy_all, copy_image};
use osupdate_core::repository::{CopyOptions, Repository};
use osupdate_deploy::record::paths::REPOSITORY_REF_PREFIX;
use serde::Serialize;

use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::{Outcome, ResultExt as _};

/// Copy images from another repository into this one
///
/// Every file is proven by its digest. Where both are on one file system that can, files share their blocks and take no
/// further space. Between repositories with different digests the images are written anew. Artifacts that refer to an
/// image, such as signatures, are copied with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate repo copy /mnt/stick/composefs registry.example.com/os:1.2
  osupdate repo copy /mnt/stick/composefs --all
  osupdate repo copy --repo /srv/new /srv/old latest --tag stable")]
pub(super) struct Args {
    /// The repository that is copied from
    source: PathBuf,

    /// What is copied: tags, or digests of manifests
    #[arg(value_name = "IMAGE", required_unless_present = "all")]
    images: Vec<String>,

    /// Copy everything that has a tag or another ref, except deployments, with these
    #[arg(long, conflicts_with = "images")]
    all: bool,

    /// Tag of the image here; by default that in the source, or the digest
    #[arg(long, conflicts_with = "all")]
    tag: Option<String>,

    /// Make hard links, where both are on one file system: damage to a file in one is then damage in both
    #[arg(long)]
    hard_links: bool,
}

#[derive(Serialize)]
struct Report {
    objects_present: u64,
    objects_reflinked: u64,
    objects_linked: u64,
    objects_copied: u64,
    new_bytes: u64,
    names: u64,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        ensure!(self.tag.is_none() || self.images.len() == 1, "--tag is for one image");
        let target = repository.open_for_change()?;
        let source = Repository::open(&self.source)?;
        let options = CopyOptions { hard_links: self.hard_links };
        let observer = &*context.observer;
        let mut report = Report {
            objects_present: 0,
            objects_reflinked: 0,
            objects_linked: 0,
            objects_copied: 0,
            new_bytes: 0,
            names: 0,
        };
        let mut add = |copied: osupdate_core::repository::CopyReport| {
            report.objects_present += copied.objects_present;
            report.objects_reflinked += copied.objects_reflinked;
            report.objects_linked += copied.objects_linked;
            report.objects_copied += copied.objects_copied;
            report.new_bytes += copied.new_bytes;
            report.names += copied.names;
        };
        if self.all {
            add(copy_all(&target, &source, REPOSITORY_REF_PREFIX, &options, observer)?);
        }
        for image in &self.images {
            let tag = self.tag.as_deref().unwrap_or_else(|| image.trim_start_matches('@'));
            let copied = copy_image(&target, &source, image, tag, &options, observer)
                .with_context(|| format!("cannot copy {image} from {}", self.source.display()))
                .hint(format!("see what is there with: osupdate image list --repo {}", self.source.display()))?;
            add(copied);
        }
        context.output.write(&report, |out| {
            let new = report.objects_reflinked + report.objects_linked + report.objects_copied;
            writeln!(
                out,
                "{new} objects new ({}), {} there already",
                BinaryBytes(report.new_bytes),
                report.objects_present
            )?;
            let kinds = [
                (report.objects_reflinked, "share their blocks with those of the source"),
                (report.objects_linked, "are hard links to those of the source"),
            ];
            for (number, what) in kinds.iter().filter(|(number, _)| *number > 0) {
                writeln!(out, "{number} of them {what}")?;
            }
            Ok(())
        })?;
        Ok(Outcome::Done)
    }
}
