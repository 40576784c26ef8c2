//! `osupdate image tag`

use osupdate_core::oci::tag;
use serde::Serialize;

use super::open;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;

/// Give an image in the repository a further tag
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Tag or digest of an image
    #[arg(add = completion::images())]
    image: String,

    /// The new tag; another image that has it loses it
    #[arg(add = completion::tags())]
    tag: String,
}

#[derive(Serialize)]
struct Report<'a> {
    tag: &'a str,
    manifest_digest: String,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open_for_change()?;
        let image = open(&repository, &self.image)?;
        tag(&repository, &image.manifest_digest, &self.tag)?;
        let report = Report { tag: &self.tag, manifest_digest: image.manifest_digest.to_string() };
        context.output.write(&report, |out| writeln!(out, "{} is now {}", report.manifest_digest, report.tag))?;
        Ok(Outcome::Done)
    }
}
