//! The option that names the repository.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use osupdate_core::repository::{OpenError, Repository};
use osupdate_deploy::record::paths::PHYSICAL_ROOT;

use crate::exit::ResultExt as _;
use crate::system;

/// Where the repository of a machine is.
const DEFAULT: &str = "/sysroot/composefs";

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
        if self.repo == Path::new(DEFAULT) && !Path::new(PHYSICAL_ROOT).exists() {
            return Err(anyhow!("this is not an osupdate system: there is no {PHYSICAL_ROOT}"))
                .hint("name the repository with --repo PATH");
        }
        Ok(())
    }

    /// Opens the repository for a change. That of the system may be on a file system that is mounted read-only.
    pub(super) fn open_for_change(&self) -> anyhow::Result<Repository> {
        self.check_place()?;
        if self.repo == Path::new(DEFAULT) {
            system::make_writable()?;
        }
        let repository = self.open()?;
        repository.check_writable()?;
        Ok(repository)
    }

    /// Opens the repository for reading.
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
