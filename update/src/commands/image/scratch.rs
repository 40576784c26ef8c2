//! A repository for one command.

use std::env;
use std::path::PathBuf;

use anyhow::Context as _;
use osupdate_core::Algorithm;
use osupdate_core::repository::{Repository, Verity};
use tempfile::TempDir;

use crate::exit::ResultExt as _;

/// A repository below `$TMPDIR` or `/var/tmp`, removed when it is dropped.
pub(super) struct Scratch {
    pub(super) repository: Repository,
    // Removed after the repository is closed.
    _dir: TempDir,
}

impl Scratch {
    pub(super) fn make(algorithm: Algorithm) -> anyhow::Result<Self> {
        let base = env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let dir = TempDir::with_prefix_in("osupdate-", &base)
            .with_context(|| format!("cannot make a temporary directory in {}", base.display()))
            .hint("name one with room for the whole image in TMPDIR")?;
        let path = dir.path().join("repository");
        Repository::init(&path, algorithm, Verity::Unverified)?;
        Ok(Self { repository: Repository::open(&path)?, _dir: dir })
    }
}
