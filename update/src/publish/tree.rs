//! The directory that is published to.
//!
//! New files are written under temporary names; after some of them the file system is synced, and only then they get their
//! names. So a file that has its name is whole, also after a crash, and the next publication need not read it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use osupdate_core::durable::write_file;
use osupdate_core::observer::{Event, Observer};
use osupdate_core::published::{ENVELOPE_MAX_BYTES, Envelope, EnvelopeError, SUMMARY_FILE, SummaryError};
use rustix::fs::{AtFlags, FlockOperation, flock, renameat, syncfs, unlinkat};
use rustix::io::Errno;
use thiserror::Error;

/// Locked while somebody publishes; also tells that the directory is one that is published to.
const LOCK: &str = ".lock";
/// What was published before; see [`super::history`].
pub(super) const HISTORY_FILE: &str = ".history.json";
/// Everybody may read what is published.
const FILE_MODE: u32 = 0o644;
/// End of the names of files that are being written; they begin with a dot.
const TEMPORARY: &str = ".tmp";
/// Files that get their names together, at most, and their bytes: how much is lost when a publication is killed.
const STAGED_MAX: usize = 1000;
const STAGED_MAX_BYTES: u64 = 256 << 20;
/// Pause between two attempts to take the lock.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a tree cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// It has other files.
    #[error("{} has files, but nothing was published there", .0.display())]
    Foreign(PathBuf),
    /// Another process publishes.
    #[error("somebody else is publishing to {}", .0.display())]
    Busy(PathBuf),
    /// The summary is longer than any.
    #[error("{} is longer than summaries are", .0.display())]
    TooLong(PathBuf),
    /// The summary is not in an envelope.
    #[error("cannot use {}", path.display())]
    Envelope {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: EnvelopeError,
    },
    /// The summary is damaged.
    #[error("cannot use {}", path.display())]
    Summary {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SummaryError,
    },
    /// There is no room.
    #[error("there is no room for {}", .0.display())]
    Full(PathBuf),
    /// An operation on a file failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl TreeError {
    /// The next step for the user.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Foreign(_) => Some("name a directory of its own, which is made if there is none".to_owned()),
            Self::Busy(_) => Some("wait until it is done, longer with --lock-timeout SECONDS".to_owned()),
            Self::TooLong(path) | Self::Envelope { path, .. } | Self::Summary { path, .. } => Some(format!(
                "remove {} to publish anew: all images that are to be there must be named then",
                path.display()
            )),
            Self::Full(_) => Some(
                "make room in its file system, also with --prune; the same command goes on then. Readers have what was \
                 published before"
                    .to_owned(),
            ),
            Self::File { .. } => None,
        }
    }
}

/// A tree that is locked. Files that have not got their names are removed when it is dropped.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    /// Opened before anything is written, so that a sync tells of every failure.
    root: File,
    _lock: File,
    staged: Mutex<Staged>,
    new_files: AtomicU64,
    new_bytes: AtomicU64,
}

/// Files under temporary names, with their sizes.
#[derive(Debug, Default)]
struct Staged {
    files: HashMap<String, u64>,
    bytes: u64,
}

/// A file that is being written. Removed when dropped without [`Tree::stage`].
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    tree: &'a Tree,
    path: String,
    file: File,
    bytes: u64,
    kept: bool,
}

impl Tree {
    /// Opens a directory, which is made if need be, and waits so long for others, which is told.
    pub(super) fn open(path: &Path, patience: Duration, observer: &dyn Observer) -> Result<Self, TreeError> {
        let error = |action, path: &Path, source| TreeError::File { action, path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(|source| error("make", path, source))?;
        let is_empty = fs::read_dir(path).map_err(|source| error("read", path, source))?.next().is_none();
        // Looked at after that: what somebody else is publishing for the first time just now came after his lock.
        let is_ours = [LOCK, SUMMARY_FILE].iter().any(|name| path.join(name).exists());
        if !is_empty && !is_ours {
            return Err(TreeError::Foreign(path.to_owned()));
        }
        let lock_path = path.join(LOCK);
        let lock = File::options().write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(|source| error("open", &lock_path, source))?;
        let (start, mut told) = (Instant::now(), false);
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) if start.elapsed() < patience => {
                    if !told {
                        let text = format!("waiting for somebody else who is publishing to {}", path.display());
                        observer.event(Event::Warning(&text));
                        told = true;
                    }
                    sleep(PAUSE);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(TreeError::Busy(path.to_owned())),
                Err(errno) => return Err(error("lock", &lock_path, errno.into())),
            }
        }
        let tree = Self {
            path: path.to_owned(),
            root: File::open(path).map_err(|source| error("open", path, source))?,
            _lock: lock,
            staged: Mutex::default(),
            new_files: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
        };
        tree.tidy()?;
        Ok(tree)
    }

    /// Removes what was left of small files by publications that were killed; nobody else has the lock.
    fn tidy(&self) -> Result<(), TreeError> {
        for entry in fs::read_dir(&self.path).map_err(self.error("read", ""))? {
            let name = entry.map_err(self.error("read", ""))?.file_name();
            let name = name.to_string_lossy();
            if [SUMMARY_FILE, HISTORY_FILE].iter().any(|file| name.starts_with(&format!(".{file}.tmp-"))) {
                self.discard(&name);
            }
        }
        Ok(())
    }

    fn discard(&self, path: &str) {
        if let Err(errno) = unlinkat(&self.root, path, AtFlags::empty()) {
            tracing::warn!("cannot remove {}: {errno}, ignoring", self.path.join(path).display());
        }
    }

    pub(super) fn error(&self, action: &'static str, path: &str) -> impl Fn(io::Error) -> TreeError + use<> {
        let path = self.path.join(path);
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => TreeError::Full(path.clone()),
            _ => TreeError::File { action, path: path.clone(), source },
        }
    }

    pub(super) fn path_of(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// What was published last; none if nothing was. Nothing of it is verified.
    pub(super) fn envelope(&self) -> Result<Option<Envelope>, TreeError> {
        let Some(bytes) = self.read(SUMMARY_FILE, ENVELOPE_MAX_BYTES as u64)? else { return Ok(None) };
        let path = self.path.join(SUMMARY_FILE);
        Envelope::parse(&bytes).map(Some).map_err(|source| TreeError::Envelope { path, source })
    }

    /// A whole file; none if it is not there.
    pub(super) fn read(&self, path: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, TreeError> {
        match self.size(path)? {
            None => Ok(None),
            Some(size) if size > max_bytes => Err(TreeError::TooLong(self.path.join(path))),
            Some(_) => fs::read(self.path.join(path)).map(Some).map_err(self.error("read", path)),
        }
    }

    /// Size of a file, also of one that has not got its name yet; none if it is not there.
    pub(super) fn size(&self, path: &str) -> Result<Option<u64>, TreeError> {
        if let Some(bytes) = self.staged().files.get(path) {
            return Ok(Some(*bytes));
        }
        match fs::symlink_metadata(self.path.join(path)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("examine", path)(error)),
        }
    }

    fn staged(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a file.
    pub(super) fn create(&self, path: &str) -> Result<NewFile<'_>, TreeError> {
        let temporary = self.path.join(temporary(path));
        if let Some(directory) = temporary.parent() {
            fs::create_dir_all(directory).map_err(self.error("make the directory of", path))?;
        }
        let file = File::create(temporary).map_err(self.error("write", path))?;
        Ok(NewFile { tree: self, path: path.to_owned(), file, bytes: 0, kept: false })
    }

    /// Writes a file that is named by its contents, unless it is there; returns its size.
    pub(super) fn add(&self, path: &str, contents: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<u64, TreeError> {
        if let Some(bytes) = self.size(path)? {
            return Ok(bytes);
        }
        let contents = contents().map_err(self.error("write", path))?;
        self.put(path, &contents)?;
        Ok(contents.len() as u64)
    }

    /// Writes a file, whether it is there or not.
    pub(super) fn put(&self, path: &str, contents: &[u8]) -> Result<(), TreeError> {
        let mut file = self.create(path)?;
        file.write_all(contents).map_err(self.error("write", path))?;
        self.stage(file)
    }

    /// Keeps a file, which gets its name together with others.
    pub(super) fn stage(&self, mut file: NewFile<'_>) -> Result<(), TreeError> {
        file.kept = true;
        let full = {
            let mut staged = self.staged();
            staged.files.insert(file.path.clone(), file.bytes);
            staged.bytes += file.bytes;
            staged.files.len() >= STAGED_MAX || staged.bytes >= STAGED_MAX_BYTES
        };
        if full { self.name_staged() } else { Ok(()) }
    }

    /// Gives all files that are kept their names.
    pub(super) fn name_staged(&self) -> Result<(), TreeError> {
        let mut staged = self.staged();
        if staged.files.is_empty() {
            return Ok(());
        }
        self.sync()?;
        let paths: Vec<String> = staged.files.keys().cloned().collect();
        for path in paths {
            renameat(&self.root, temporary(&path), &self.root, &path)
                .map_err(|errno| self.error("name", &path)(errno.into()))?;
            let bytes = staged.files.remove(&path).unwrap_or(0);
            staged.bytes -= bytes;
            self.new_files.fetch_add(1, Ordering::Relaxed);
            self.new_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), TreeError> {
        syncfs(&self.root).map_err(|errno| self.error("sync", "")(errno.into()))
    }

    /// Files and bytes that were written and have their names, the summary apart.
    pub(super) fn written(&self) -> (u64, u64) {
        (self.new_files.load(Ordering::Relaxed), self.new_bytes.load(Ordering::Relaxed))
    }

    /// Replaces a small file at the top. Durable on return.
    pub(super) fn replace(&self, name: &str, contents: &[u8]) -> Result<(), TreeError> {
        write_file(self.root.as_fd(), name, FILE_MODE, contents).map_err(self.error("write", name))
    }

    /// Shows what was written. All of it is on disk before.
    pub(super) fn replace_summary(&self, envelope: &[u8]) -> Result<(), TreeError> {
        self.name_staged()?;
        self.sync()?;
        self.replace(SUMMARY_FILE, envelope)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for path in std::mem::take(&mut self.staged().files).into_keys() {
            self.discard(&temporary(&path));
        }
    }
}

impl Write for NewFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl NewFile<'_> {
    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.tree.discard(&temporary(&self.path));
        }
    }
}

/// Name of a file while it is written.
fn temporary(path: &str) -> String {
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    format!("{directory}/.{name}{TEMPORARY}")
}

/// Whether a name is that of a file while it is written.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use osupdate_core::observer::Silent;

    use super::*;

    #[test]
    fn a_directory_in_which_somebody_begins_just_now_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..300 {
            let (path, start) = (dir.path().join(number.to_string()), Barrier::new(4));
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        start.wait();
                        match Tree::open(&path, Duration::ZERO, &Silent) {
                            Ok(_) | Err(TreeError::Busy(_)) => {}
                            Err(error) => panic!("{error}"),
                        }
                    });
                }
            });
        }
        fs::create_dir(dir.path().join("other")).unwrap();
        fs::write(dir.path().join("other/file"), "of somebody else").unwrap();
        let error = Tree::open(&dir.path().join("other"), Duration::ZERO, &Silent).unwrap_err();
        assert!(matches!(error, TreeError::Foreign(_)), "{error}");
        assert!(!dir.path().join("other/.lock").exists());
    }
}
