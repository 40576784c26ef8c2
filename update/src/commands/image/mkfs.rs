//! `osupdate image mkfs`

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use osupdate_core::erofs::{self, Format};
use osupdate_core::{Algorithm, Digest, fsverity};
use serde::Serialize;

use super::fetch_options::FetchOptions;
use super::subject::{Kind, Loader};
use super::tree_options::{TreeOptions, parse_format};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;
use crate::output::write_stdout;

/// Write an image to an EROFS file
///
/// The file holds the tree and small files only: contents of larger files are objects, which osupdate image create and
/// osupdate image pull put into a repository.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image mkfs os.dump os.erofs
  osupdate image mkfs ./rootfs rootfs.erofs --format v0 --digest sha256
  osupdate image mkfs ./old.erofs new.erofs --format v1")]
pub(super) struct Args {
    /// A dumpfile, directory, EROFS file or image archive; tag or digest of an image in the repository; a reference; - for standard input
    #[arg(add = completion::subjects())]
    image: String,

    /// The file to write; - for standard output
    file: PathBuf,

    /// The form that is booted: with /boot and /sysroot empty
    #[arg(long, alias = "boot")]
    bootable: bool,

    /// Format of the image: v0, v1 or v2
    #[arg(long, value_name = "FORMAT", default_value = "v1", value_parser = parse_format)]
    format: Format,

    #[command(flatten)]
    fetch: FetchOptions,

    #[command(flatten)]
    tree: TreeOptions,
}

#[derive(Serialize)]
struct Report {
    image_digest: Digest,
    size_bytes: usize,
    format: u32,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let loader = Loader::new(repository, &self.tree, &self.fetch, context);
        let subject = loader.load(&self.image)?;
        let algorithm = repository.wanted_algorithm().or(subject.algorithm).unwrap_or(Algorithm::Sha512);
        if let Some(of_files) = subject.algorithm.filter(|of_files| *of_files != algorithm)
            && !matches!(subject.kind, Kind::Dumpfile | Kind::Erofs { .. })
        {
            bail!("the files of {} have {of_files} digests", subject.name);
        }
        let tree = if self.bootable { subject.boot_form()? } else { subject.tree };
        let image = erofs::write(&tree, self.format).with_context(|| format!("{} has no image", subject.name))?;
        if self.file.as_os_str() == "-" {
            write_stdout(&image)?;
            return Ok(Outcome::Done);
        }
        fs::write(&self.file, &image).with_context(|| format!("cannot write {}", self.file.display()))?;
        let image_digest = fsverity::digest(algorithm, &image);
        let report = Report { image_digest, size_bytes: image.len(), format: self.format.number() };
        context.output.write(&report, |out| writeln!(out, "{}", report.image_digest))?;
        Ok(Outcome::Done)
    }
}
