//! [`ExpectedImage`]: the option that says which image a UKI must be made for.

use osupdate_core::erofs::{self, Format};
use osupdate_core::kernel_args::{ArgFormat, ComposefsArg};
use osupdate_core::{Algorithm, Digest, fsverity};

use super::fetch_options::FetchOptions;
use super::subject::{Kind, Loader, Subject};
use super::tree_options::TreeOptions;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;

/// The option, and those that say how the image is found.
#[derive(Debug, clap::Args)]
pub(in crate::commands) struct ExpectedImage {
    /// Compare the digest on the kernel command lines with that of this image: a tag or digest in the repository, a reference,
    /// a directory, a dumpfile, an EROFS file or an archive
    #[arg(long, value_name = "IMAGE", add = completion::subjects())]
    image: Option<String>,

    #[command(flatten)]
    repository: RepositoryPath,

    #[command(flatten)]
    fetch: FetchOptions,

    #[command(flatten)]
    tree: TreeOptions,
}

impl ExpectedImage {
    /// Whether there is an image to compare with.
    pub(in crate::commands) fn is_given(&self) -> bool {
        self.image.is_some()
    }

    /// The digests that the image has when it is booted, in every format that the kernel argument may mean. Empty without the
    /// option.
    pub(in crate::commands) fn digests(
        &self,
        argument: &ComposefsArg,
        context: &Context,
    ) -> anyhow::Result<Vec<Digest>> {
        let Some(name) = &self.image else { return Ok(Vec::new()) };
        let algorithm = argument.digest.algorithm();
        let loader = Loader { algorithm, ..Loader::new(&self.repository, &self.tree, &self.fetch, context) };
        let subject = loader.load(name)?;
        digests(&subject, algorithm, argument.format)
    }
}

fn digests(subject: &Subject, algorithm: Algorithm, format: ArgFormat) -> anyhow::Result<Vec<Digest>> {
    if let Some(other) = subject.algorithm.filter(|other| *other != algorithm) {
        anyhow::bail!(
            "the files of {} have {other} digests, so it has no {algorithm} digest to compare with",
            subject.name
        );
    }
    let tree = match &subject.kind {
        // Of the file itself, whoever wrote it.
        Kind::Erofs { bytes, .. } => return Ok(vec![fsverity::digest(algorithm, bytes)]),
        Kind::Dumpfile => subject.tree.clone(),
        Kind::Directory | Kind::Layers { .. } => subject.boot_form()?,
    };
    let formats: &[Format] = match format {
        ArgFormat::V1 => &[Format::V1, Format::V0],
        ArgFormat::V2 => &[Format::V2],
    };
    formats.iter().map(|format| Ok(fsverity::digest(algorithm, &erofs::write(&tree, *format)?))).collect()
}
