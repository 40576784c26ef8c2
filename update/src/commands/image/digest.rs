//! `osupdate image digest`

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::ArgGroup;
use osupdate_core::boot::{BootOptions, find_kernel, transform_for_boot};
use osupdate_core::erofs::{self, Format};
use osupdate_core::kernel_args::{ArgFormat, ComposefsArg};
use osupdate_core::oci::{Platform, PullOptions, StoredImage, image_tree, pull};
use osupdate_core::repository::{Repository, Verity};
use osupdate_core::tree::Tree;
use osupdate_core::{Algorithm, Digest, fsverity};
use serde::Serialize;
use tempfile::TempDir;

use super::open;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};
use crate::transport::{ImageReference, SourceOptions, open_source};

/// Print the digests that the kernel will check an image against
///
/// They are computed from the layers. Printed are the digest of the image as it is and that of the image that is booted:
/// with /boot and /sysroot empty, as the kernel argument has it.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true), after_help = "\
Examples:
  osupdate image digest docker://registry.example.com/os:1.2
  osupdate image digest --source oci:build/image
  osupdate image digest --source oci:build/image --kernel-argument")]
pub(super) struct Args {
    /// Tag or digest of an image in the repository
    #[arg(group = "what", add = completion::images())]
    image: Option<String>,

    /// Fetch this image for the purpose, into a temporary repository below $TMPDIR or /var/tmp
    #[arg(long, value_name = "REFERENCE", group = "what", add = completion::references())]
    source: Option<ImageReference>,

    /// Speak HTTP without TLS with the registry
    #[arg(long, requires = "source")]
    plain_http: bool,

    /// Print only the kernel argument for the image that is booted
    #[arg(long)]
    kernel_argument: bool,
}

#[derive(Serialize)]
struct Report {
    manifest_digest: String,
    image_digest: Digest,
    boot_image_digest: Option<Digest>,
    kernel_argument: Option<String>,
    /// Why there is no image to boot.
    not_bootable: Option<String>,
}

/// A repository for one command.
struct Scratch {
    repository: Repository,
    // Removed after the repository is closed.
    _dir: TempDir,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let report = match (&self.source, &self.image) {
            (Some(reference), _) => {
                let doing = || format!("cannot compute the digest of {reference}");
                let options = SourceOptions { plain_http: self.plain_http };
                let source = open_source(reference, &options).with_context(doing)?;
                let scratch = Scratch::make()?;
                let platform = Platform::host();
                let options = PullOptions { platform: Some(&platform), ..PullOptions::default() };
                let image = pull(&scratch.repository, &source, &options, &*context.observer).with_context(doing)?;
                report(&scratch.repository, &image)?
            }
            (None, Some(name)) => {
                let repository = repository.open()?;
                let image = open(&repository, name)?;
                report(&repository, &image)?
            }
            (None, None) => unreachable!("clap requires one of the two"),
        };
        if let (true, Some(reason)) = (self.kernel_argument, &report.not_bootable) {
            return Err(anyhow!("{reason}").context("the image has no kernel argument: it cannot be booted"));
        }
        context.output.write(&report, |out| match &report.kernel_argument {
            Some(argument) if self.kernel_argument => writeln!(out, "{argument}"),
            _ => {
                writeln!(out, "image       {}", report.image_digest)?;
                match (report.boot_image_digest, &report.not_bootable) {
                    (Some(digest), _) => writeln!(out, "boot image  {digest}"),
                    (None, reason) => writeln!(out, "boot image  none: {}", reason.as_deref().unwrap_or_default()),
                }
            }
        })?;
        Ok(Outcome::Done)
    }
}

impl Scratch {
    fn make() -> anyhow::Result<Self> {
        let base = env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let dir = TempDir::with_prefix_in("osupdate-", &base)
            .with_context(|| format!("cannot make a temporary directory in {}", base.display()))
            .hint("name one with room for the whole image in TMPDIR")?;
        let path = dir.path().join("repository");
        Repository::init(&path, Algorithm::Sha512, Verity::Unverified)?;
        Ok(Self { repository: Repository::open(&path)?, _dir: dir })
    }
}

/// Computes the digests of an image from its layers.
fn report(repository: &Repository, image: &StoredImage) -> anyhow::Result<Report> {
    let format = *repository.image_formats().first().context("the repository has no image format")?;
    let digest = |tree: &Tree| anyhow::Ok(fsverity::digest(repository.algorithm(), &erofs::write(tree, format)?));
    let mut tree = image_tree(repository, image)?;
    let image_digest = digest(&tree)?;
    let bootable = find_kernel(&tree).and_then(|_| transform_for_boot(repository, &mut tree, &BootOptions::default()));
    let (boot_image_digest, not_bootable) = match bootable {
        Ok(()) => (Some(digest(&tree)?), None),
        Err(error) => (None, Some(error.to_string())),
    };
    for (stored, computed) in [(image.image, Some(image_digest)), (image.boot_image, boot_image_digest)] {
        if let Some(stored) = stored.filter(|stored| Some(*stored) != computed) {
            tracing::warn!("the repository has the image {stored} for it, made in another way");
        }
    }
    Ok(Report {
        manifest_digest: image.manifest_digest.to_string(),
        image_digest,
        boot_image_digest,
        kernel_argument: boot_image_digest.map(|digest| kernel_argument(digest, format)),
        not_bootable,
    })
}

fn kernel_argument(digest: Digest, format: Format) -> String {
    let format = match format {
        Format::V0 | Format::V1 => ArgFormat::V1,
        Format::V2 => ArgFormat::V2,
    };
    ComposefsArg { digest, format, optional: false }.to_string()
}
