//! `osupdate image create`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueHint;
use osupdate_core::Digest;
use osupdate_core::boot::{BootOptions, transform_for_boot};
use osupdate_core::erofs;
use osupdate_core::repository::Namespace;
use osupdate_core::scan::scan;
use serde::Serialize;

use super::tree_options::TreeOptions;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::Outcome;
use crate::space;

/// Store a directory in the repository as an image
///
/// The contents of its files become objects, its tree an EROFS image in each format that the repository has. Without a
/// name the image goes with the next osupdate repo gc.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image create ./rootfs builds/1.2
  osupdate image mount refs/builds/1.2 /mnt
  osupdate image create ./rootfs --bootable")]
pub(super) struct Args {
    /// The directory
    #[arg(value_hint = ValueHint::DirPath)]
    directory: PathBuf,

    /// Name to keep the image by: a ref, which may have slashes
    name: Option<String>,

    /// Store the form that is booted: with /boot and /sysroot empty, and labelled for SELinux if the image has a policy
    #[arg(long, alias = "boot")]
    bootable: bool,

    #[command(flatten)]
    tree: TreeOptions,
}

#[derive(Serialize)]
struct Report {
    image_digest: Digest,
    /// In further formats of the repository.
    other_digests: Vec<Digest>,
    name: Option<String>,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open_for_change()?;
        let result = scan(&self.directory, &self.tree.scan_options(), &repository, &*context.observer);
        let mut tree = super::scanned(result).map_err(|error| space::explain(error, &repository))?;
        let doing = || format!("cannot make an image of {}", self.directory.display());
        self.tree.transform(&mut tree).with_context(doing)?;
        if self.bootable {
            transform_for_boot(&repository, &mut tree, &BootOptions::default()).with_context(doing)?;
        }
        let mut digests = Vec::new();
        for format in repository.image_formats() {
            let image = erofs::write(&tree, format).with_context(doing)?;
            digests.push(repository.put_image(&image)?);
        }
        let mut digests = digests.into_iter();
        let image_digest = digests.next().context("the repository has no image format")?;
        if let Some(name) = &self.name {
            let name = name.strip_prefix("refs/").unwrap_or(name);
            repository.set_ref(Namespace::Images, name, &image_digest.to_string())?;
        }
        let report = Report { image_digest, other_digests: digests.collect(), name: self.name };
        context.output.write(&report, |out| writeln!(out, "{}", report.image_digest))?;
        Ok(Outcome::Done)
    }
}
