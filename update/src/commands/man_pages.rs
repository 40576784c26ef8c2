//! `osupdate man-pages`: writes the manual pages, when the program is packaged.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueHint;
use serde::Serialize;

use crate::cli::Context;
use crate::exit::Outcome;
use crate::man;

/// Write the manual pages into a directory
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory, which must exist
    #[arg(value_hint = ValueHint::DirPath)]
    directory: PathBuf,
}

#[derive(Serialize)]
struct Report {
    pages: Vec<PathBuf>,
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let pages = man::write_pages(&self.directory)
            .with_context(|| format!("cannot write the manual pages to {}", self.directory.display()))?;
        let report = Report { pages };
        context
            .output
            .write(&report, |out| report.pages.iter().try_for_each(|page| writeln!(out, "{}", page.display())))?;
        Ok(Outcome::Done)
    }
}
