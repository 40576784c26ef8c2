//! `osupdate image import`

use std::io::{self, IsTerminal as _, Read as _};

use anyhow::{Context as _, bail};
use osupdate_core::repository::{ImportError, Namespace};
use serde::Serialize;

use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::{Outcome, ResultExt as _};

/// Largest image that is read. Those of whole operating systems have some 20 MiB.
const IMAGE_MAX_BYTES: u64 = 1 << 30;

/// Store a composefs image: an EROFS file on standard input
///
/// The contents of its files must be in the repository already. The image is kept by a ref, and can be mounted by its name.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image import base < base.erofs
  osupdate image mount refs/base /mnt")]
pub(super) struct Args {
    /// Name of the ref below images/refs; another image that has it loses it
    name: String,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(rename = "ref")]
    name: &'a str,
    image_digest: String,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open_for_change()?;
        if io::stdin().is_terminal() {
            bail!("the image is read from standard input, which is a terminal");
        }
        let mut image = Vec::new();
        io::stdin().take(IMAGE_MAX_BYTES + 1).read_to_end(&mut image).context("cannot read standard input")?;
        if image.len() as u64 > IMAGE_MAX_BYTES {
            bail!("the image on standard input has more than {IMAGE_MAX_BYTES} bytes");
        }
        let result = repository.import_image(&image);
        let digest = match result {
            Err(ImportError::Missing { .. }) => {
                result.hint("store the files first: pull the image that they belong to, or osupdate image create")?
            }
            other => other?,
        };
        repository.set_ref(Namespace::Images, &self.name, &digest.to_string())?;
        let report = Report { name: &self.name, image_digest: digest.to_string() };
        context.output.write(&report, |out| writeln!(out, "{} is now refs/{}", report.image_digest, report.name))?;
        Ok(Outcome::Done)
    }
}
