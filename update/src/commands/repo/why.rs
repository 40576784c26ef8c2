//! `osupdate repo why`

use anyhow::{Context as _, anyhow, bail};
use osupdate_core::Digest;
use osupdate_core::erofs;
use osupdate_core::oci::open_image;
use osupdate_core::repository::Repository;
use osupdate_core::tree::Content;
use serde::Serialize;

use super::system_roots::SystemRoots;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{self, Outcome, ResultExt as _};

/// Tell why something is kept in the repository: what needs it
///
/// Prints the shortest way from what keeps it, a tag, a deployment or a boot entry, to the thing itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate repo why 3f/2a91c04d…
  osupdate repo why oci-layer-sha256:9db763cd…
  osupdate repo why --in registry.example.com/os:1 /usr/bin/bash")]
pub(super) struct Args {
    /// An object, by its digest or path; an image or stream, by its name; a tag. With --in: the path of a file
    #[arg(add = completion::kept())]
    what: String,

    /// Look for the contents of a file of this image, a tag or digest
    #[arg(long = "in", value_name = "IMAGE", add = completion::images())]
    image: Option<String>,

    #[command(flatten)]
    system: SystemRoots,
}

#[derive(Serialize)]
struct Report {
    digest: String,
    needed: bool,
    steps: Vec<Step>,
    unreadable: Vec<String>,
}

#[derive(Serialize)]
struct Step {
    label: Option<String>,
    digest: Option<String>,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open()?;
        let digest = match &self.image {
            Some(image) => file_of_image(&repository, image, &self.what)?,
            None => named(&repository, &self.what)?,
        };
        let why = repository.why(&digest, &self.system.of(&repository, context)?)?;
        let unreadable = why.unreadable.iter().map(|(name, error)| format!("{name}: {}", exit::one_line(error)));
        let step = |step: osupdate_core::repository::WhyStep| Step {
            label: step.label,
            digest: step.digest.map(|digest| digest.to_string()),
        };
        let report = Report {
            digest: digest.to_string(),
            needed: !why.steps.is_empty(),
            unreadable: unreadable.collect(),
            steps: why.steps.into_iter().map(step).collect(),
        };
        context.output.write(&report, |out| {
            for (depth, Step { label, digest }) in report.steps.iter().enumerate() {
                let indent = "  ".repeat(depth);
                let arrow = if depth == 0 { "" } else { "-> " };
                match (label, digest) {
                    (Some(label), Some(digest)) if !label.ends_with(digest) => {
                        writeln!(out, "{indent}{arrow}{label} ({})", short(digest))?;
                    }
                    (Some(label), _) => writeln!(out, "{indent}{arrow}{label}")?,
                    (None, digest) => writeln!(out, "{indent}{arrow}object {}", digest.as_deref().unwrap_or("?"))?,
                }
            }
            for damaged in &report.unreadable {
                writeln!(out, "not looked through: {damaged}")?;
            }
            match (report.needed, report.unreadable.is_empty()) {
                (true, _) => Ok(()),
                (false, true) => writeln!(out, "nothing needs it"),
                (false, false) => writeln!(out, "nothing that can be read needs it"),
            }
        })?;
        Ok(Outcome::Done)
    }
}

/// Enough of a digest to tell it from others.
fn short(digest: &str) -> String {
    format!("{}…", digest.get(..12).unwrap_or(digest))
}

/// The object that a name stands for.
fn named(repository: &Repository, what: &str) -> anyhow::Result<Digest> {
    let digits = what.rsplit_once("objects/").map_or(what, |(_, path)| path).replacen('/', "", 1);
    // It may be missing: then it is asked who misses it.
    if let Ok(digest) = digits.parse::<Digest>() {
        return Ok(digest);
    }
    if let Some(digest) = repository.stream(what.strip_prefix("streams/").unwrap_or(what))? {
        return Ok(digest);
    }
    // What cannot be the name of an image may be a tag.
    if let Ok(Some(digest)) = repository.image(what.strip_prefix("images/").unwrap_or(what)) {
        return Ok(digest);
    }
    let image = open_image(repository, what)
        .hint("give the digest of an object, the name of a stream or image, or a tag; with --in IMAGE a path")?;
    let stream = repository.stream(&image.stream_name())?;
    stream.ok_or_else(|| anyhow!("the manifest of {what} is not in the repository"))
}

fn file_of_image(repository: &Repository, image: &str, path: &str) -> anyhow::Result<Digest> {
    let stored = open_image(repository, image)?;
    let erofs_image = stored.image.or(stored.boot_image).context("the image was pulled without its file tree")?;
    let (tree, _) = erofs::read(&repository.read_image(&erofs_image)?)?;
    match tree.regular_file(path.trim_start_matches('/')) {
        Some(Content::External { digest: Some(digest), .. }) => Ok(*digest),
        Some(_) => Err(anyhow!("{path} is so small that it is within the image"))
            .hint(format!("ask for the image: osupdate repo why {erofs_image}")),
        None => bail!("there is no regular file {path} in {image}"),
    }
}
