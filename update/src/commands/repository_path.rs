//! The option that names the repository.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use osupdate_core::repository::{OpenError, Repository};

use crate::exit::ResultExt as _;

/// Where the repository of a machine is.
const DEFAULT: &str = "/sysroot/composefs";
/// Where such a machine has its physical root.
const SYSTEM: &str = "/sysroot";

/// The `--repo` option.
#[derive(Debug, clap::Args)]
pub(super) struct RepositoryPath {
    /// The repository
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT)]
    repo: PathBuf,
}

impl RepositoryPath {
    pub(super) fn path(&self) -> &Path {
        &self.repo
    }

    /// Fails if the repository's place is that of an osupdate system and this machine is not one.
    pub(super) fn check_place(&self) -> anyhow::Result<()> {
        if self.repo == Path::new(DEFAULT) && !Path::new(SYSTEM).exists() {
            return Err(anyhow!("this is not an osupdate system: there is no {SYSTEM}"))
                .hint("name the repository with --repo PATH");
        }
        Ok(())
    }

    /// Opens the repository.
    pub(super) fn open(&self) -> anyhow::Result<Repository> {
        self.check_place()?;
        let result = Repository::open(&self.repo);
        match &result {
            Err(OpenError::NotFound { path } | OpenError::NotARepository { path }) => {
                let hint = format!("make one with: osupdate repo init --repo {}", path.display());
                result.hint(hint)
            }
            _ => Ok(result?),
        }
    }
}
