//! A repository for one command, removed also if a signal ends it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, fs, mem, thread};

use anyhow::Context as _;
use osupdate_core::Algorithm;
use osupdate_core::oci::{FetchedManifest, PullError, PullOptions, StoredImage, pull};
use osupdate_core::repository::{Repository, Verity};
use osupdate_sys::inheritance::block;
use rustix::process::Signal;
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;
use tempfile::TempDir;

use super::fetch_options::FetchOptions;
use crate::cli::Context;
use crate::exit::ResultExt as _;
use crate::transport::{ImageReference, open_source};
use crate::trust::{Policy, PolicyPaths};

const PREFIX: &str = "osupdate-";
const REPOSITORY: &str = "repository";
/// Signals that end a process, and are meant to.
pub(super) const ENDING: [Signal; 3] = [Signal::HUP, Signal::INT, Signal::TERM];
/// How often a directory is tried to be removed that is still being filled.
const REMOVALS: u32 = 100;

/// What is removed when a signal ends the process.
static WATCHED: Mutex<Watched> = Mutex::new(Watched { directories: Vec::new(), signals: None });

struct Watched {
    directories: Vec<PathBuf>,
    /// Where signals are waited for, since the first directory.
    signals: Option<Handle>,
}

fn watched() -> MutexGuard<'static, Watched> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(directory: &Path) -> anyhow::Result<()> {
    let mut watched = watched();
    watched.directories.push(directory.to_owned());
    if watched.signals.is_some() {
        return Ok(());
    }
    let mut signals = Signals::new(ENDING.map(Signal::as_raw)).context("cannot wait for signals")?;
    watched.signals = Some(signals.handle());
    drop(watched);
    thread::spawn(move || {
        for signal in signals.forever() {
            for directory in mem::take(&mut self::watched().directories) {
                if !(0..REMOVALS).any(|_| fs::remove_dir_all(&directory).is_ok() || !directory.exists()) {
                    tracing::warn!("cannot remove {}", directory.display());
                }
            }
            let _: Result<(), _> = emulate_default_handler(signal);
        }
    });
    Ok(())
}

/// A repository below `$TMPDIR` or `/var/tmp`, removed when it is dropped.
pub(super) struct Scratch {
    pub(super) repository: Repository,
    // Removed after the repository is closed.
    dir: TempDir,
}

impl Scratch {
    pub(super) fn make(algorithm: Algorithm) -> anyhow::Result<Self> {
        let base = env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let dir = TempDir::with_prefix_in(PREFIX, &base)
            .with_context(|| format!("cannot make a temporary directory in {}", base.display()))
            .hint("name one with room for the whole image in TMPDIR")?;
        watch(dir.path())?;
        let path = dir.path().join(REPOSITORY);
        Repository::init(&path, algorithm, Verity::Unverified)?;
        Ok(Self { repository: Repository::open(&path)?, dir })
    }

    /// Fetches an image into a new one, by the rules of the standard trust policy.
    pub(super) fn fetch(
        reference: &ImageReference,
        algorithm: Algorithm,
        bootable: bool,
        options: &FetchOptions,
        context: &Context,
    ) -> anyhow::Result<(Self, StoredImage)> {
        let fetch = || {
            let origin = open_source(reference, &options.source_options())?;
            let source = FetchedManifest::fetch(&origin).map_err(PullError::FetchManifest)?;
            let policy = Policy::load(&PolicyPaths::standard())?;
            policy.check(reference, &origin, source.bytes())?;
            let scratch = Self::make(algorithm)?;
            let platform = options.platform();
            let options = PullOptions { bootable, platform: Some(&platform), ..PullOptions::default() };
            let image = pull(&scratch.repository, &source, &options, &*context.observer)?;
            anyhow::Ok((scratch, image))
        };
        fetch().with_context(|| format!("cannot fetch {reference}"))
    }

    /// Leaves its directory to whoever removes it, with [`remove`]: this process or one that it starts. Until that one unblocks them,
    /// the signals that end processes wait.
    pub(super) fn keep(self) -> anyhow::Result<PathBuf> {
        drop(self.repository);
        block(&ENDING).context("cannot make signals wait")?;
        let mut watched = watched();
        watched.directories.clear();
        if let Some(signals) = watched.signals.take() {
            signals.close();
        }
        Ok(self.dir.keep())
    }
}

/// The repository in a directory that was kept.
pub(super) fn repository(dir: &Path) -> PathBuf {
    dir.join(REPOSITORY)
}

/// Removes a directory that was kept.
pub(super) fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        tracing::warn!("cannot remove {}: {error}", dir.display());
    }
}
