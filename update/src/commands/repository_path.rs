//! The options that say which repository, what it must be like, and how long to wait for it.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::{ValueEnum, ValueHint};
use osupdate_core::Algorithm;
use osupdate_core::repository::{NotWritable, OpenError, OpenOptions, Repository, Verity};
use osupdate_deploy::record::paths::PHYSICAL_ROOT;
use rustix::fs::CWD;

use crate::exit::ResultExt as _;
use crate::system;

/// Where the repository of a machine is.
const SYSTEM: &str = "/sysroot/composefs";
/// Where the repository of a user is, below the home directory.
const USER: &str = ".var/lib/composefs";

/// Heading of these options in the help.
const HEADING: &str = "Repository";

/// The options.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct RepositoryPath {
    /// The repository in this directory [default: for root as with --system, else as with --user]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::DirPath, help_heading = HEADING)]
    repo: Option<PathBuf>,

    /// The repository of this system, /sysroot/composefs
    #[arg(long, global = true, conflicts_with_all = ["repo", "user"], help_heading = HEADING)]
    system: bool,

    /// The repository of this user, ~/.var/lib/composefs
    #[arg(long, global = true, conflicts_with = "repo", help_heading = HEADING)]
    user: bool,

    /// Digest algorithm that the repository must have, or gets when it is made: sha512 (then the default) or sha256
    #[arg(long, global = true, value_name = "ALGORITHM", hide_possible_values = true, help_heading = HEADING)]
    digest: Option<DigestName>,

    /// Refuse a repository that the kernel does not verify
    #[arg(long, global = true, help_heading = HEADING)]
    require_verity: bool,

    #[command(flatten)]
    lock: LockTimeout,
}

/// A digest algorithm as users name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DigestName {
    Sha512,
    Sha256,
}

impl From<DigestName> for Algorithm {
    fn from(name: DigestName) -> Self {
        match name {
            DigestName::Sha512 => Self::Sha512,
            DigestName::Sha256 => Self::Sha256,
        }
    }
}

/// The `--lock-timeout` option.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct LockTimeout {
    /// Fail if others have the repository locked for so many seconds; 0 does not wait
    #[arg(long, global = true, help_heading = HEADING, value_name = "SECONDS", default_value_t = OpenOptions::default().lock_timeout.as_secs())]
    lock_timeout: u64,
}

impl LockTimeout {
    /// How to open the repository.
    pub(crate) fn options(self) -> OpenOptions {
        OpenOptions { lock_timeout: Duration::from_secs(self.lock_timeout) }
    }
}

/// Where the repository is that these options choose.
fn path(repo: Option<&Path>, system: bool, user: bool) -> anyhow::Result<PathBuf> {
    if let Some(path) = repo {
        return Ok(path.to_owned());
    }
    if system || (!user && rustix::process::geteuid().is_root()) {
        return Ok(PathBuf::from(SYSTEM));
    }
    let home = env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.context("the repository of the user is not known: HOME is not set");
    Ok(Path::new(&home.hint("name it with --repo PATH")?).join(USER))
}

/// Opens the repository that these options choose, for those who would rather know nothing than wait.
pub(crate) fn open_for_a_look(repo: Option<&Path>, system: bool, user: bool) -> anyhow::Result<Repository> {
    let options = OpenOptions { lock_timeout: Duration::ZERO };
    Ok(Repository::open_with(CWD, &path(repo, system, user)?, &options)?)
}

impl RepositoryPath {
    /// The digest algorithm of a repository that is made.
    pub(super) fn algorithm(&self) -> Algorithm {
        self.digest.map_or(Algorithm::Sha512, Algorithm::from)
    }

    /// Where the repository is; fails if that is the place of an osupdate system and this machine is not one.
    pub(super) fn checked_path(&self) -> anyhow::Result<PathBuf> {
        let path = path(self.repo.as_deref(), self.system, self.user)?;
        if path == Path::new(SYSTEM) && !Path::new(PHYSICAL_ROOT).exists() {
            return Err(anyhow!("this is not an osupdate system: there is no {PHYSICAL_ROOT}"))
                .hint("name the repository with --repo PATH, or take that of the user with --user");
        }
        Ok(path)
    }

    /// Opens the repository for a change. That of the system may be on a file system that is mounted read-only.
    pub(super) fn open_for_change(&self) -> anyhow::Result<Repository> {
        if self.checked_path()? == Path::new(SYSTEM) {
            system::make_writable()?;
        }
        let repository = self.open()?;
        let writable = repository.check_writable();
        match writable {
            Err(NotWritable::Permission { .. }) => {
                writable.hint("run it as root, or work on a repository of your own: --user")?;
            }
            other => other?,
        }
        Ok(repository)
    }

    /// How long to wait for others.
    pub(super) fn lock_timeout(&self) -> Duration {
        self.lock.options().lock_timeout
    }

    /// The digest algorithm that was asked for.
    pub(super) fn wanted_algorithm(&self) -> Option<Algorithm> {
        self.digest.map(Algorithm::from)
    }

    /// Opens the repository for reading, if there is one: for commands that can do without.
    pub(super) fn open_if_there(&self) -> anyhow::Result<Option<Repository>> {
        let named = self.repo.is_some() || self.system || self.user;
        let path = match path(self.repo.as_deref(), self.system, self.user) {
            Ok(path) if path.exists() => path,
            Err(error) if named => return Err(error),
            _ => return Ok(None),
        };
        match Repository::open_with(CWD, &path, &self.lock.options()) {
            Err(OpenError::NotFound { .. } | OpenError::NotARepository { .. }) => Ok(None),
            result => Ok(Some(result?)),
        }
    }

    /// Opens the repository for reading.
    pub(super) fn open(&self) -> anyhow::Result<Repository> {
        let result = Repository::open_with(CWD, &self.checked_path()?, &self.lock.options());
        match &result {
            Err(OpenError::NotFound { path } | OpenError::NotARepository { path }) => {
                let hint = match (self.user, path.ends_with(USER)) {
                    (true, _) => "make one with: osupdate repo init --user".to_owned(),
                    (false, true) if self.repo.is_none() => {
                        "name the repository with --repo PATH, or make one with: osupdate repo init".to_owned()
                    }
                    _ => format!("make one with: osupdate repo init --repo {}", path.display()),
                };
                result.hint(hint)
            }
            Err(OpenError::Busy { .. }) => result.hint("wait until it is done, longer with --lock-timeout SECONDS"),
            _ => self.check(result?),
        }
    }

    /// Fails unless the repository is as the options demand.
    fn check(&self, repository: Repository) -> anyhow::Result<Repository> {
        let path = || repository.path().display();
        let found = repository.algorithm();
        if let Some(wanted) = self.digest.map(Algorithm::from).filter(|wanted| *wanted != found) {
            return Err(anyhow!("the repository {} has {} digests, not {}", path(), found.name(), wanted.name()));
        }
        if self.require_verity && repository.verity() == Verity::Unverified {
            return Err(anyhow!("the kernel does not verify what is read from the repository {}", path()))
                .hint("only a repository that was made without --unverified has fs-verity");
        }
        Ok(repository)
    }
}
