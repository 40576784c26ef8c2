//! `osupdate image unmount`

use std::path::PathBuf;

use clap::ValueHint;

use crate::exit::Outcome;

/// Unmount an image
///
/// Works for the user who mounted it, too. Files that are open in it stay readable until they are closed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where it is mounted
    #[arg(value_hint = ValueHint::DirPath)]
    directory: PathBuf,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Outcome> {
        osupdate_fuse::unmount(&self.directory)?;
        Ok(Outcome::Done)
    }
}
