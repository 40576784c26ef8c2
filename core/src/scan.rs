//! Directory to tree: the files on a disk as an image holds them.
//!
//! Nothing is followed and nothing is guessed: every file is opened once, relative to the directory that is scanned, and
//! what is recorded of it comes from the open file. A file or directory that is not the same at the end as it was at the
//! beginning is an error that names it, because an image of it would show a state that never was. Contents go to a
//! [`Contents`], which makes their digest and may store them; that happens on several threads, in memory that does not
//! depend on the sizes of files.

mod assemble;
mod contents;
mod entry;
mod queue;
#[cfg(test)]
mod tests;
mod walk;
mod xattrs;

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{CWD, Mode, OFlags, openat};
use thiserror::Error;

pub use contents::{Contents, ContentsError, HashOnly};

use crate::observer::Observer;
use crate::repository::FileError;
use crate::tree::Tree;
use walk::Walk;

/// Most directories on a path below the scanned one: images hold no more.
const DEPTH_MAX: usize = 2047;

/// Which extended attributes are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScanXattrs {
    /// All that the process may see; `trusted.*` only as root.
    #[default]
    All,
    /// Those whose names begin with `user.`.
    UserOnly,
    /// None.
    None,
}

/// What is done where another file system is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mounts {
    /// Its files belong to the tree.
    #[default]
    Enter,
    /// The directory is recorded, and is empty.
    LeaveEmpty,
}

/// How a directory is scanned.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// Which extended attributes are recorded.
    pub xattrs: ScanXattrs,
    /// What is done where another file system is mounted.
    pub mounts: Mounts,
    /// Names of one file become hard links. Otherwise each is a file of its own, as `mkcomposefs` has it.
    pub hard_links: bool,
    /// Modification times are recorded; otherwise all are 0.
    pub times: bool,
    /// Block and character devices are recorded; otherwise they are left out.
    pub devices: bool,
    /// How many files are read at the same time.
    pub threads: NonZeroUsize,
}

impl Default for ScanOptions {
    /// Everything that is there, with as many threads as the machine has cores.
    fn default() -> Self {
        Self {
            xattrs: ScanXattrs::All,
            mounts: Mounts::Enter,
            hard_links: true,
            times: true,
            devices: true,
            threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// Why a directory has no tree.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScanError {
    /// A file or directory changed, or vanished, while the scan ran.
    #[error("{} changed while the directory was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Nested too deeply for an image.
    #[error("{} is below more than {DEPTH_MAX} directories, which no image can hold", path.display())]
    Depth {
        /// The directory.
        path: PathBuf,
    },
    /// Contents were not taken.
    #[error("cannot take the contents of {}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ContentsError,
    },
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ScanError {
    fn file(action: &'static str, path: PathBuf, source: impl Into<io::Error>) -> Self {
        FileError { action, path, source: source.into() }.into()
    }
}

/// Makes the tree of a directory. Leaves are in depth-first order of their first names.
///
/// Files of up to [`crate::tree::INLINE_MAX`] bytes are in the tree itself, all others are given to `contents`.
///
/// # Errors
/// The first problem that was met; which of several that is depends on the threads. Nothing is skipped.
pub fn scan(
    directory: &Path,
    options: &ScanOptions,
    contents: &dyn Contents,
    observer: &dyn Observer,
) -> Result<Tree, ScanError> {
    // The directory itself may be named by a symlink.
    let root = openat(CWD, directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| ScanError::file("open", directory.to_owned(), errno))?;
    let walk = Walk::new(root.as_fd(), directory, options, contents, observer)?;
    walk.run(options.threads)
}
