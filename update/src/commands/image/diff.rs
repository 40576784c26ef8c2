//! `osupdate image diff`

mod report;

use anyhow::Context as _;
use osupdate_core::Algorithm;
use osupdate_core::diff::{Causes, DiffOptions, diff};
use osupdate_core::erofs::{self, Format};
use osupdate_core::tree::Tree;

use super::fetch_options::FetchOptions;
use super::subject::{Kind, Loader, Subject, find};
use super::tree_options::TreeOptions;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;
use report::{Report, Side};

/// Say why two images have different digests
///
/// Names every path and field that differs, and what such differences usually come from. Ends with status 3 if there are
/// any. Each side is an image of the repository (tag, digest, ref), a reference (docker://, oci:), a directory, a dumpfile
/// or an EROFS file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image diff oci:build/image ./rootfs
  osupdate image diff docker://registry.example.com/os:1 docker://registry.example.com/os:2
  osupdate image diff ./sealed.erofs ./rootfs --bootable")]
pub(super) struct Args {
    /// One image
    #[arg(add = completion::subjects())]
    left: String,

    /// The other image
    #[arg(add = completion::subjects())]
    right: String,

    /// Compare directories and images in layers in the form that is booted: with /boot and /sysroot empty
    #[arg(long, alias = "boot")]
    bootable: bool,

    /// Print only what sums up the differences
    #[arg(long)]
    summary: bool,

    #[command(flatten)]
    fetch: FetchOptions,

    #[command(flatten)]
    tree: TreeOptions,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let (left, right) = self.load(repository, context)?;
        let (left_tree, right_tree) = (self.form(&left)?, self.form(&right)?);
        let left_side = side(&left, left_tree.as_ref());
        let right_side = side(&right, right_tree.as_ref());
        let v2 = |subject: &Subject| matches!(subject.kind, Kind::Erofs { format: Format::V2, .. });
        let options = DiffOptions { nanoseconds: !v2(&left) && !v2(&right) };
        let left_tree = left_tree.as_ref().unwrap_or(&left.tree);
        let right_tree = right_tree.as_ref().unwrap_or(&right.tree);
        let found = diff(left_tree, right_tree, &options);
        let causes = Causes::of(&found);
        let mut report = Report::new(left_side, right_side, &found, &causes);
        report.nanoseconds_ignored = !options.nanoseconds;
        if found.is_empty() {
            report.same_image = same_image(left_tree, right_tree);
        }
        let summary = self.summary;
        context.output.write(&report, |out| report.print(out, summary))?;
        Ok(if found.is_empty() { Outcome::Done } else { Outcome::Findings })
    }

    /// Loads both sides; a side whose files have no digests yet gets those of the other side's algorithm.
    fn load(&self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<(Subject, Subject)> {
        let load = |name: &str, algorithm| {
            let (options, fetch) = (&self.tree, &self.fetch);
            Loader { repository, options, algorithm, fetch, context }.load(name)
        };
        let flexible = |name: &str| {
            anyhow::Ok(match find(name, repository)? {
                super::subject::Place::Path(path) => path.is_dir(),
                super::subject::Place::Reference(_) => true,
                _ => false,
            })
        };
        let default = repository.wanted_algorithm().unwrap_or(Algorithm::Sha512);
        let cannot = |name: &str| format!("cannot compare {name}");
        if repository.wanted_algorithm().is_none() && flexible(&self.left)? {
            let right = load(&self.right, default).with_context(|| cannot(&self.right))?;
            let algorithm = right.algorithm.unwrap_or(default);
            let left = load(&self.left, algorithm).with_context(|| cannot(&self.left))?;
            return Ok((left, right));
        }
        let left = load(&self.left, default).with_context(|| cannot(&self.left))?;
        let algorithm = repository.wanted_algorithm().or(left.algorithm).unwrap_or(default);
        let right = load(&self.right, algorithm).with_context(|| cannot(&self.right))?;
        Ok((left, right))
    }

    /// The boot form, if that is wanted and the subject has another one.
    fn form(&self, subject: &Subject) -> anyhow::Result<Option<Tree>> {
        match subject.kind {
            Kind::Directory | Kind::Layers { .. } if self.bootable => {
                subject.boot_form().map(Some).with_context(|| format!("{} cannot be booted", subject.name))
            }
            _ => Ok(None),
        }
    }
}

fn side(subject: &Subject, boot_form: Option<&Tree>) -> Side {
    let format = match &subject.kind {
        Kind::Erofs { format, .. } => Some(format.number()),
        _ => None,
    };
    let digest = match &subject.kind {
        Kind::Erofs { digest, .. } => *digest,
        _ => None,
    };
    let booted = if boot_form.is_some() { ", as it is booted" } else { "" };
    Side {
        name: subject.name.clone(),
        kind: format!("{}{booted}", subject.kind.describe()),
        format,
        algorithm: subject.algorithm.map(|algorithm| algorithm.name()),
        image_digest: digest,
    }
}

/// Whether equal trees make the same image; they may differ in what only dumpfiles can tell. `None`: there is no image.
fn same_image(left: &Tree, right: &Tree) -> Option<bool> {
    Some(erofs::write(left, Format::V1).ok()? == erofs::write(right, Format::V1).ok()?)
}
