//! The repository: content-addressed objects, images and streams with their names, and the refs that keep them.
//!
//! The rules that hold at every instant, also after a crash: an object that has a name in `objects/` was complete and
//! sealed before; a name in `streams/` or `images/` is made only after everything it needs is on disk; nothing is
//! removed but by [`Repository::gc`], names before objects. The format and its rationale:
//!
#![doc = include_str!("../FORMAT.md")]

mod content;
mod copy;
mod file_system;
mod fsck;
mod gc;
mod image;
mod import;
mod init;
mod link;
mod lock;
mod merged;
pub(crate) mod metadata;
mod object;
mod object_queue;
mod partial;
mod refs;
mod repair;
mod serial;
mod space;
mod stream;
mod temporary;
mod verity;
mod why;

pub use content::OpenContent;
pub use copy::{CopyError, CopyOptions, CopyReport};
pub use file_system::FileSystem;
pub use fsck::{Finding, FindingKind, FsckError, FsckOptions, FsckReport};
pub use gc::{GcError, GcOptions, GcReport, MarkError, Root};
pub(crate) use gc::{MANIFEST_PREFIX, REFERRERS};
pub use image::ImageError;
pub use import::ImportError;
pub use init::{InitError, InitOutcome};
pub use link::PublishError;
pub use lock::{LockHolder, LockHolders};
pub use merged::MergeError;
pub use metadata::MetadataError;
pub use object::{ObjectError, ObjectWriter, StoredObject};
pub(crate) use object_queue::{ObjectQueue, PendingObject};
pub(crate) use partial::PartialBlob;
pub use refs::{Namespace, RefError};
pub use repair::{RepairError, RepairReport};
pub use serial::SeenSerial;
pub(crate) use space::Guard;
pub use space::{Space, SpaceError};
pub use stream::StreamError;
pub use verity::{enable as seal_file, measure as measure_file};
pub use why::{Why, WhyStep};

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use rustix::fs::{
    Access, AtFlags, CWD, Mode, OFlags, RawDir, StatVfsMountFlags, accessat, fstatvfs, mkdirat, openat, syncfs,
};
use rustix::io::Errno;
use thiserror::Error;

use crate::digest::{Algorithm, Digest};
use crate::erofs::Format;
use metadata::{FILE_NAME, Metadata};

/// Directory of the objects.
const OBJECTS: &str = "objects";
/// Permissions of directories in the repository; the repository directory itself is closed to others.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
/// Most bytes of `meta.json` that are read.
const METADATA_MAX_BYTES: u64 = 1 << 20;

/// Whether the kernel checks what is read from a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verity {
    /// `meta.json` has fs-verity, and so must every object: reads are checked by the kernel.
    Required,
    /// Objects are plain files: nobody notices if they change.
    Unverified,
}

/// An operation on a file that failed.
#[derive(Debug, Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    /// What was tried, as a verb: "open".
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

/// Why a repository was not opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such directory.
    #[error("there is no repository at {}", path.display())]
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// A directory with neither `meta.json` nor objects.
    #[error("{} is not a repository: it has no meta.json", path.display())]
    NotARepository {
        /// The directory.
        path: PathBuf,
    },
    /// `meta.json` cannot be used.
    #[error("the meta.json of the repository {} is refused", path.display())]
    Metadata {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: MetadataError,
    },
    /// `meta.json` is sealed with another algorithm than the one it names.
    #[error("the meta.json of the repository {} is sealed with {found}, its objects with {expected}", path.display())]
    Sealed {
        /// The directory.
        path: PathBuf,
        /// The algorithm of its fs-verity.
        found: Algorithm,
        /// The algorithm it names.
        expected: Algorithm,
    },
    /// Somebody holds the exclusive lock.
    #[error("the repository {} is locked by {holders}; waited {waited_secs} seconds", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Who.
        holders: LockHolders,
        /// How long we waited.
        waited_secs: u64,
    },
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a repository may not be changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotWritable {
    /// The file system is mounted read-only.
    #[error("the repository {} is on a read-only file system", path.display())]
    ReadOnly {
        /// The directory.
        path: PathBuf,
    },
    /// The permissions forbid it.
    #[error("no permission to write to the repository {}", path.display())]
    Permission {
        /// The directory.
        path: PathBuf,
    },
    /// A later version made it, and says that others may only read.
    #[error("the repository {} may only be read: it has unknown features {}", path.display(), features.join(", "))]
    Features {
        /// The directory.
        path: PathBuf,
        /// What we do not know.
        features: Vec<String>,
    },
    /// Made before there was `meta.json`; `init` writes one.
    #[error("the repository {} may only be read until it is initialised: it has no meta.json", path.display())]
    NoMetadata {
        /// The directory.
        path: PathBuf,
    },
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// How to open a repository.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// How long to wait for others, now and in a later collection: for a collection of theirs, and for them in one of
    /// ours. Zero: not at all.
    pub lock_timeout: Duration,
}

impl Default for OpenOptions {
    /// Two minutes.
    fn default() -> Self {
        Self { lock_timeout: lock::PATIENCE }
    }
}

/// An open repository. It holds the shared lock until it is dropped, so that nothing vanishes meanwhile.
///
/// One handle serves all threads. A second handle in the same process is a second user: it cannot collect garbage
/// while the first is open.
#[derive(Debug)]
pub struct Repository {
    dir: OwnedFd,
    path: PathBuf,
    metadata: Metadata,
    verity: Verity,
    lock_timeout: Duration,
    /// False if there is no `meta.json`.
    has_metadata: bool,
    objects: OnceLock<OwnedFd>,
    writable: OnceLock<()>,
    /// Objects that were found damaged: to be replaced when they are stored again.
    distrusted: Mutex<HashSet<Digest>>,
    /// What has arrived of blobs that are being fetched.
    partial_blobs: partial::PartialBlobs,
}

impl Repository {
    /// Gives up the shared lock, so that a collection of garbage need not wait for the end of this handle: for readers of what
    /// is kept in another way, as a mounted image is. Nothing may be stored by it any more.
    pub fn unlock(&self) -> Result<(), FileError> {
        lock::release(self.dir.as_fd()).map_err(|errno| self.file_error("unlock", "", errno))
    }

    /// Opens the repository at a path. Waits up to two minutes for a garbage collection of another process.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_at(CWD, path)
    }

    /// Opens the repository at a path relative to a directory; errors name that relative path.
    pub fn open_at(dir: BorrowedFd<'_>, path: &Path) -> Result<Self, OpenError> {
        Self::open_with(dir, path, &OpenOptions::default())
    }

    /// Opens the repository at a path relative to a directory.
    ///
    /// When it has to wait, a warning in the log tells for whom.
    pub fn open_with(dir: BorrowedFd<'_>, path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let open_error = |source: io::Error| FileError { action: "open", path: path.to_owned(), source };
        let dir = match open_directory(dir, path) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Err(OpenError::NotFound { path: path.to_owned() }),
            Err(errno) => return Err(open_error(errno.into()).into()),
        };
        let lock_timeout = options.lock_timeout;
        let waiting =
            |holders| tracing::warn!("waiting for {holders}, which has locked the repository {}", path.display());
        lock::acquire(dir.as_fd(), lock::Mode::Shared, lock_timeout, waiting).map_err(|failure| match failure {
            lock::LockFailure::Busy(holders) => {
                OpenError::Busy { path: path.to_owned(), holders, waited_secs: lock_timeout.as_secs() }
            }
            lock::LockFailure::Errno(errno) => {
                OpenError::File(FileError { action: "lock", path: path.to_owned(), source: errno.into() })
            }
        })?;

        let file_error = |source: io::Error| FileError { action: "read", path: path.join(FILE_NAME), source };
        let (metadata, verity, has_metadata) = match read_metadata(dir.as_fd()).map_err(file_error)? {
            Some((json, sealed)) => {
                let metadata =
                    Metadata::parse(&json).map_err(|source| OpenError::Metadata { path: path.to_owned(), source })?;
                let verity = match sealed {
                    Some(digest) if digest.algorithm() == metadata.algorithm => Verity::Required,
                    Some(digest) => {
                        return Err(OpenError::Sealed {
                            path: path.to_owned(),
                            found: digest.algorithm(),
                            expected: metadata.algorithm,
                        });
                    }
                    None => Verity::Unverified,
                };
                (metadata, verity, true)
            }
            None => {
                let (algorithm, verity) = infer(dir.as_fd())
                    .map_err(|source| FileError { action: "read", path: path.join(OBJECTS), source })?
                    .ok_or_else(|| OpenError::NotARepository { path: path.to_owned() })?;
                (Metadata::before_metadata(algorithm), verity, false)
            }
        };
        let path = path.to_owned();
        Ok(Self {
            dir,
            path,
            metadata,
            verity,
            lock_timeout,
            has_metadata,
            objects: OnceLock::new(),
            writable: OnceLock::new(),
            distrusted: Mutex::default(),
            partial_blobs: partial::PartialBlobs::default(),
        })
    }

    /// The algorithm of all digests here.
    pub fn algorithm(&self) -> Algorithm {
        self.metadata.algorithm
    }

    /// Whether objects have fs-verity.
    pub fn verity(&self) -> Verity {
        self.verity
    }

    /// The path that the repository was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image formats to be written: first the default, which refs point at, then the others.
    pub fn image_formats(&self) -> Vec<Format> {
        self.metadata.formats().list()
    }

    /// The directory of the objects, for overlay mounts.
    pub fn objects_dir(&self) -> io::Result<OwnedFd> {
        Ok(open_directory(self.dir.as_fd(), OBJECTS)?)
    }

    /// Fails if the repository may not be changed; every operation that changes it asks first.
    pub fn check_writable(&self) -> Result<(), NotWritable> {
        if self.writable.get().is_some() {
            return Ok(());
        }
        let path = || self.path.clone();
        let features = self.metadata.unknown_for_writing();
        if !features.is_empty() {
            return Err(NotWritable::Features { path: path(), features });
        }
        if !self.has_metadata {
            return Err(NotWritable::NoMetadata { path: path() });
        }
        let stat = fstatvfs(&self.dir).map_err(|errno| self.file_error("examine", "", errno))?;
        if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(NotWritable::ReadOnly { path: path() });
        }
        match accessat(&self.dir, ".", Access::WRITE_OK, AtFlags::EACCESS) {
            Ok(()) => {}
            Err(Errno::ACCESS | Errno::PERM) => return Err(NotWritable::Permission { path: path() }),
            Err(Errno::ROFS) => return Err(NotWritable::ReadOnly { path: path() }),
            Err(errno) => return Err(self.file_error("examine", "", errno).into()),
        }
        self.writable.get_or_init(|| ());
        Ok(())
    }

    /// Waits until everything written so far, by anybody, to the file system of the repository is on disk.
    pub fn sync(&self) -> io::Result<()> {
        Ok(syncfs(&self.dir)?)
    }

    fn sync_files(&self) -> Result<(), FileError> {
        self.sync().map_err(|error| self.file_error("sync", "", error))
    }

    /// The objects directory; fails with `ENOENT` before the first object.
    fn objects(&self) -> rustix::io::Result<BorrowedFd<'_>> {
        if let Some(objects) = self.objects.get() {
            return Ok(objects.as_fd());
        }
        let objects = open_directory(self.dir.as_fd(), OBJECTS)?;
        Ok(self.objects.get_or_init(|| objects).as_fd())
    }

    /// The objects directory, made if it is not there.
    fn objects_for_writing(&self) -> Result<BorrowedFd<'_>, FileError> {
        match self.objects() {
            Err(Errno::NOENT) => {
                make_directory(self.dir.as_fd(), OBJECTS).map_err(|errno| self.file_error("make", OBJECTS, errno))?;
                self.objects()
            }
            result => result,
        }
        .map_err(|errno| self.file_error("open", OBJECTS, errno))
    }

    fn file_error(&self, action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> FileError {
        // Joining nothing would add a slash.
        let path = if path.as_ref().as_os_str().is_empty() { self.path.clone() } else { self.path.join(path) };
        FileError { action, path, source: source.into() }
    }
}

fn open_directory(dir: BorrowedFd<'_>, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    openat(dir, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a directory unless it is there; true if it was made.
fn make_directory(dir: BorrowedFd<'_>, path: &str) -> rustix::io::Result<bool> {
    match mkdirat(dir, path, DIRECTORY_MODE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Room for the names that one system call returns: all of them, in a directory of objects.
const NAMES_BYTES: usize = 64 << 10;

/// Names in a directory without `.` and `..`, in byte order. `None`: there is no such directory.
fn names(dir: BorrowedFd<'_>, path: &str) -> io::Result<Option<Vec<Vec<u8>>>> {
    let dir = match open_directory(dir, path) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut names = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); NAMES_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort();
    Ok(Some(names))
}

/// The text of `meta.json` and the digest it is sealed with. `None`: there is no such file.
fn read_metadata(dir: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Option<Digest>)>> {
    let file = match openat(dir, FILE_NAME, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let sealed = verity::measure(file.as_fd())?;
    let mut json = Vec::new();
    file.take(METADATA_MAX_BYTES).read_to_end(&mut json)?;
    Ok(Some((json, sealed)))
}

/// Algorithm and verity of a repository without `meta.json`, as its first object shows them.
fn infer(dir: BorrowedFd<'_>) -> io::Result<Option<(Algorithm, Verity)>> {
    for prefix in names(dir, OBJECTS)?.unwrap_or_default() {
        let Ok(prefix) = str::from_utf8(&prefix) else { continue };
        if !object::is_prefix(prefix) {
            continue;
        }
        for rest in names(dir, &format!("{OBJECTS}/{prefix}"))?.unwrap_or_default() {
            let Ok(digest) = format!("{prefix}{}", String::from_utf8_lossy(&rest)).parse::<Digest>() else { continue };
            let path = format!("{OBJECTS}/{}", digest.object_path());
            let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
            let sealed = verity::measure(file.as_fd())?;
            let verity = if sealed.is_some() { Verity::Required } else { Verity::Unverified };
            return Ok(Some((digest.algorithm(), verity)));
        }
    }
    Ok(None)
}
