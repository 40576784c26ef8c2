//! `osupdate image objects`

use osupdate_core::erofs;
use serde::Serialize;

use super::find_erofs;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;

/// List the objects that an image needs, the contents of its files
///
/// Which file has which object is shown by osupdate image dump --objects.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Tag or digest of an image, hex digest of an EROFS image, or refs/NAME
    #[arg(add = completion::images())]
    image: String,

    /// Those of the image as it is booted
    #[arg(long)]
    boot: bool,
}

#[derive(Serialize)]
struct Report {
    image_digest: String,
    objects: Vec<String>,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open()?;
        let digest = find_erofs(&repository, &self.image, self.boot)?;
        let objects = erofs::objects(&repository.read_image(&digest)?)?;
        let report =
            Report { image_digest: digest.to_string(), objects: objects.iter().map(ToString::to_string).collect() };
        context.output.write(&report, |out| report.objects.iter().try_for_each(|object| writeln!(out, "{object}")))?;
        Ok(Outcome::Done)
    }
}
