//! `osupdate repo cat`

use std::io::{self, IsTerminal as _};

use anyhow::{anyhow, bail};
use osupdate_core::splitstream::ContentType;

use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};
use crate::output::write_raw;

/// Print what a stream stands for: a layer's archive, a configuration, a manifest
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate repo cat oci-config-sha256:0123…
  osupdate repo cat oci-layer-sha256:0123… | tar --list
  osupdate repo cat refs/oci/latest")]
pub(super) struct Args {
    /// Name of a stream, or refs/NAME
    #[arg(add = completion::streams())]
    name: String,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath) -> anyhow::Result<Outcome> {
        let repository = repository.open()?;
        let stream = repository
            .find_stream(&self.name)?
            .ok_or_else(|| anyhow!("there is no stream {:?} in the repository", self.name))
            .hint("streams are the names in streams/ and, as refs/NAME, in streams/refs/ of the repository")?;
        let stream = repository.open_stream(&stream, None)?;
        let is_text = matches!(stream.content_type(), ContentType::Manifest | ContentType::Config);
        if io::stdout().is_terminal() && !is_text {
            bail!("the stream is not a text for a terminal: redirect it");
        }
        write_raw(|out| Ok(repository.write_merged(&stream, out).map(|_| ())?))?;
        Ok(Outcome::Done)
    }
}
