//! `osupdate image digest`

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use clap::ArgGroup;
use osupdate_core::boot::find_kernel;
use osupdate_core::erofs::{self, Format};
use osupdate_core::kernel_args::{ArgFormat, ComposefsArg};
use osupdate_core::tree::Tree;
use osupdate_core::{Algorithm, Digest, fsverity};
use serde::Serialize;

use super::fetch_options::FetchOptions;
use super::subject::{Kind, Loader, MountedFiles, Place, Subject, find};
use super::tree_options::{TreeOptions, parse_format};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;
use crate::transport::ImageReference;

/// Print the digests that the kernel will check an image against
///
/// They are computed from the layers, or from the files of a directory. Printed are the digest of the image as it is and
/// that of the image that is booted: with /boot and /sysroot empty, as the kernel argument has it. A dumpfile and an EROFS
/// file have one form and one digest.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true), after_help = "\
Examples:
  osupdate image digest docker://registry.example.com/os:1.2
  osupdate image digest --source oci:build/image --kernel-argument
  osupdate image digest ./rootfs --bootable --hex
  osupdate image digest --rootfs /run/base --kernel-argument
  osupdate image digest ./image.dump --format v0 --digest sha256")]
pub(super) struct Args {
    /// Tag or digest of an image in the repository; a directory, dumpfile or EROFS file; or - for standard input
    #[arg(group = "what", add = completion::subjects())]
    image: Option<String>,

    /// Fetch this image for the purpose, into a temporary repository below $TMPDIR or /var/tmp
    #[arg(long, value_name = "REFERENCE", group = "what", add = completion::references())]
    source: Option<ImageReference>,

    /// The directory with the files of which an image will be made: file systems that are mounted in it are left out, and so are
    /// fractions of seconds in times, as in layers
    #[arg(long, value_name = "DIRECTORY", group = "what")]
    rootfs: Option<PathBuf>,

    #[command(flatten)]
    fetch: FetchOptions,

    /// Print only the kernel argument for the image that is booted
    #[arg(long)]
    kernel_argument: bool,

    /// Print only the digest of the image that is booted; fail if it cannot be made
    #[arg(long, alias = "boot", conflicts_with = "kernel_argument")]
    bootable: bool,

    /// Print only the digits: of the image, or with --bootable of the image that is booted
    #[arg(long, conflicts_with = "kernel_argument")]
    hex: bool,

    /// Format of the image: v0, v1 or v2 [default: that of the repository or EROFS file, else v1]
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    format: Option<Format>,

    #[command(flatten)]
    tree: TreeOptions,
}

#[derive(Serialize)]
struct Report {
    manifest_digest: Option<String>,
    image_digest: Digest,
    boot_image_digest: Option<Digest>,
    kernel_argument: Option<String>,
    /// Why there is no image to boot.
    not_bootable: Option<String>,
    format: u32,
    algorithm: &'static str,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let mut options = self.tree.clone();
        options.one_file_system |= self.rootfs.is_some();
        let loader = Loader::new(repository, &options, &self.fetch, context);
        let mut default_format = Format::V1;
        let subject = match (&self.source, &self.image, &self.rootfs) {
            (_, _, Some(path)) => loader.rootfs(path, MountedFiles::Refuse)?,
            (Some(reference), _, _) => loader
                .fetch(&reference.to_string(), reference)
                .with_context(|| format!("cannot compute the digest of {reference}"))?,
            (None, Some(name), _) => {
                let place = find(name, repository)?;
                if let Place::Image(repository, _) = &place {
                    default_format =
                        *repository.image_formats().first().context("the repository has no image format")?;
                }
                loader.load_place(name, place)?
            }
            (None, None, None) => unreachable!("clap requires one of them"),
        };
        let report = self.report(&subject, repository.wanted_algorithm(), default_format)?;
        if let (true, Some(reason)) = (self.kernel_argument || self.bootable, &report.not_bootable) {
            return Err(anyhow!("{reason}").context("the image cannot be booted, so it has no such digest"));
        }
        context.output.write(&report, |out| match (&report.kernel_argument, report.boot_image_digest) {
            (Some(argument), _) if self.kernel_argument => writeln!(out, "{argument}"),
            (_, Some(digest)) if self.bootable && self.hex => writeln!(out, "{digest}"),
            (_, Some(digest)) if self.bootable => writeln!(out, "boot image  {digest}"),
            _ if self.hex => writeln!(out, "{}", report.image_digest),
            (_, boot_image) => {
                writeln!(out, "image       {}", report.image_digest)?;
                match (boot_image, &report.not_bootable) {
                    (Some(digest), _) => writeln!(out, "boot image  {digest}"),
                    (None, reason) => writeln!(out, "boot image  none: {}", reason.as_deref().unwrap_or_default()),
                }
            }
        })?;
        Ok(Outcome::Done)
    }

    fn report(&self, subject: &Subject, wanted: Option<Algorithm>, default_format: Format) -> anyhow::Result<Report> {
        let algorithm = match (wanted, subject.algorithm) {
            (Some(wanted), Some(of_files)) if wanted != of_files => bail!(
                "the files of {} have {of_files} digests, so the image cannot have a {wanted} digest",
                subject.name
            ),
            (wanted, of_files) => wanted.or(of_files).unwrap_or(Algorithm::Sha512),
        };
        let (format, image_digest) = match &subject.kind {
            // Of the file itself, whoever wrote it.
            Kind::Erofs { format, bytes, .. } if self.format.is_none_or(|wanted| wanted == *format) => {
                (*format, fsverity::digest(algorithm, bytes))
            }
            _ => {
                let format = self.format.unwrap_or(default_format);
                (format, digest(&subject.tree, format, algorithm)?)
            }
        };
        let boot_image = match &subject.kind {
            Kind::Layers { .. } | Kind::Directory if !self.bootable => match find_kernel(&subject.tree) {
                Ok(_) => subject.boot_form(),
                Err(error) => Err(error.into()),
            },
            _ => subject.boot_form(),
        };
        let (boot_image_digest, not_bootable) = match boot_image {
            Ok(tree) => (Some(digest(&tree, format, algorithm)?), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let mut manifest_digest = None;
        if let Kind::Layers { image } = &subject.kind {
            manifest_digest = Some(image.manifest_digest.to_string());
            let ours = [Some(image_digest), boot_image_digest];
            for (stored, computed) in [image.image, image.boot_image].into_iter().zip(ours) {
                if let Some(stored) = stored.filter(|stored| Some(*stored) != computed) {
                    tracing::warn!("the repository has the image {stored} for it, made in another way");
                }
            }
        }
        Ok(Report {
            manifest_digest,
            image_digest,
            boot_image_digest,
            kernel_argument: boot_image_digest.map(|digest| kernel_argument(digest, format)),
            not_bootable,
            format: format.number(),
            algorithm: algorithm.name(),
        })
    }
}

fn digest(tree: &Tree, format: Format, algorithm: Algorithm) -> anyhow::Result<Digest> {
    Ok(fsverity::digest(algorithm, &erofs::write(tree, format)?))
}

fn kernel_argument(digest: Digest, format: Format) -> String {
    let format = match format {
        Format::V0 | Format::V1 => ArgFormat::V1,
        Format::V2 => ArgFormat::V2,
    };
    ComposefsArg { digest, format, optional: false }.to_string()
}
