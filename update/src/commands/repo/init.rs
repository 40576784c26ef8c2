//! `osupdate repo init`

use clap::ValueEnum;
use osupdate_core::erofs::Format;
use osupdate_core::repository::{InitError, InitOutcome, Repository, Verity};
use serde::Serialize;

use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::{Outcome, ResultExt as _};

/// Make an empty repository
///
/// The kernel checks every byte that is read from a repository: it needs a file system with fs-verity, which ext4,
/// f2fs (feature `verity`) and btrfs have. To make one where there is one of the same kind already is no error.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate repo init --repo /srv/composefs
  osupdate repo init --repo /tmp/scratch --unverified --digest sha256
  osupdate repo init --repo /srv/both --format v1 --format v2")]
pub(super) struct Args {
    /// Do without fs-verity: nobody notices if files in the repository change
    #[arg(long)]
    unverified: bool,

    /// Format of the images that are stored; may be repeated, the first is what tags and boot entries get
    #[arg(long, value_name = "FORMAT")]
    format: Vec<FormatName>,
}

/// An image format that OCI images can be stored in.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    /// What mkcomposefs and cfsctl write today
    V1,
    /// What older bootc and cfsctl wrote
    V2,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::V1 => Self::V1,
            FormatName::V2 => Self::V2,
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    path: &'a str,
    digest: &'static str,
    verified: bool,
    created: bool,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let path = repository.checked_path()?;
        let algorithm = repository.algorithm();
        let verity = if self.unverified { Verity::Unverified } else { Verity::Required };
        let formats: Vec<Format> = self.format.iter().map(|name| (*name).into()).collect();
        let result = Repository::init_with_formats(&path, algorithm, verity, &formats);
        let outcome = match &result {
            Ok(outcome) => *outcome,
            Err(InitError::NoVerity { file_system, .. }) => {
                let hint = format!("{}; or do without it: --unverified", file_system.verity_hint());
                return result.hint(hint).map(|_| Outcome::Done);
            }
            Err(InitError::Different { .. } | InitError::OtherFormats { .. }) => {
                return result
                    .hint("choose another directory, or leave the repository as it is")
                    .map(|_| Outcome::Done);
            }
            Err(_) => result?,
        };
        let path = path.display().to_string();
        let created = outcome == InitOutcome::Created;
        let report = Report { path: &path, digest: algorithm.name(), verified: !self.unverified, created };
        context.output.write(&report, |out| match created {
            true => writeln!(out, "made repository {path} ({})", kind(&report)),
            false => writeln!(out, "{path} is a repository already ({})", kind(&report)),
        })?;
        Ok(Outcome::Done)
    }
}

fn kind(report: &Report<'_>) -> String {
    let verity = if report.verified { "fs-verity on" } else { "unverified" };
    format!("{}, {verity}", report.digest)
}
