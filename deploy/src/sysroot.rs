//! [`Sysroot`]: the physical root, with the repository and the state of all deployments.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use osupdate_core::observer::{Event, Observer};
use osupdate_core::repository::{OpenError as RepositoryError, OpenOptions, Repository};
use osupdate_record::paths;
use rustix::fs::{FlockOperation, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::MountFlags;
use thiserror::Error;

use crate::directory::Directory;

/// The directory of all state that is not the repository.
const STATE: &str = "state";

/// The lock file, in [`STATE`].
const LOCK: &str = "lock";

/// Longest note of the lock's holder that is read.
const NOTE_MAX: u64 = 200;

/// An open physical root.
#[derive(Debug)]
pub struct Sysroot {
    path: PathBuf,
    directory: Directory,
}

/// Why a physical root could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory could not be opened.
    #[error("cannot open the physical root {}", path.display())]
    Open {
        /// The physical root.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no physical root, or it has no repository or no deployments.
    #[error("this is not an osupdate system: there is no {}", missing.display())]
    NotOsupdate {
        /// What is not there.
        missing: PathBuf,
    },
    /// Changes need privileges.
    #[error("this needs root privileges")]
    NotRoot,
    /// It is mounted read-only and could not be made writable for this process.
    #[error("cannot make {} writable for this process", path.display())]
    ReadOnly {
        /// The physical root.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether to wait for another process that is changing the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Fail at once.
    Fail,
    /// Wait until it is done.
    Wait,
}

/// Why the lock was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it.
    #[error("the system is being changed by {holder}")]
    Held {
        /// Process number and command, as far as it told.
        holder: String,
    },
    /// The lock file could not be used.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The exclusive right to change deployments; given back when dropped or when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Sysroot {
    /// Takes the root of a file system that was just made.
    pub(crate) fn new(path: PathBuf, directory: Directory) -> Self {
        Self { path, directory }
    }

    /// Opens a physical root for reading; needs no privileges.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let error = |source| OpenError::Open { path: path.to_owned(), source };
        let directory = match Directory::open(path) {
            Ok(directory) => directory,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::NotOsupdate { missing: path.to_owned() });
            }
            Err(source) => return Err(error(source)),
        };
        for wanted in [paths::REPOSITORY, paths::DEPLOYMENTS] {
            if !directory.exists(wanted).map_err(error)? {
                return Err(OpenError::NotOsupdate { missing: path.join(wanted) });
            }
        }
        Ok(Self { path: path.to_owned(), directory })
    }

    /// Opens a physical root for changes.
    ///
    /// A running system may have it mounted read-only. Then this thread gets a mount namespace of its own with a writable
    /// mount, which nobody else sees; threads that it starts later share it.
    pub fn open_for_change(path: &Path) -> Result<Self, OpenError> {
        if !rustix::process::geteuid().is_root() {
            return Err(OpenError::NotRoot);
        }
        let sysroot = Self::open(path)?;
        let read_only = |source| OpenError::ReadOnly { path: path.to_owned(), source };
        if sysroot.is_writable().map_err(read_only)? {
            return Ok(sysroot);
        }
        drop(sysroot);
        osupdate_core::mount::private_mounts().map_err(read_only)?;
        let flags = MountFlags::BIND | MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount_remount(path, flags, "").map_err(|err| read_only(err.into()))?;
        let sysroot = Self::open(path)?;
        match sysroot.is_writable().map_err(read_only)? {
            true => Ok(sysroot),
            false => Err(read_only(io::ErrorKind::ReadOnlyFilesystem.into())),
        }
    }

    fn is_writable(&self) -> io::Result<bool> {
        let stat = rustix::fs::fstatvfs(&self.directory)?;
        Ok(!stat.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Opens the repository.
    pub fn repository(&self, options: &OpenOptions) -> Result<Repository, RepositoryError> {
        Repository::open_with(self.directory.as_fd(), Path::new(paths::REPOSITORY), options)
    }

    /// Takes the exclusive right to change deployments. `purpose` tells others what is going on: `osupdate upgrade`.
    pub fn lock(&self, patience: Patience, purpose: &str, observer: &dyn Observer) -> Result<Lock, LockError> {
        let path = Path::new(STATE).join(LOCK);
        let error = |source: io::Error| LockError::Lock { path: path.clone(), source };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o644);
        let file: File =
            rustix::fs::openat(&self.directory, &path, flags, mode).map_err(|err| error(err.into()))?.into();
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut note = String::new();
                // The note is for people; the lock is the flock.
                if let Err(err) = (&file).take(NOTE_MAX).read_to_string(&mut note) {
                    tracing::debug!("cannot read the lock's note: {err}, ignoring");
                }
                let holder = if note.trim().is_empty() { "another process".to_owned() } else { note.trim().to_owned() };
                if patience == Patience::Fail {
                    return Err(LockError::Held { holder });
                }
                observer.event(Event::Step(&format!("waiting for {holder}")));
                rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|err| error(err.into()))?;
            }
            Err(err) => return Err(error(err.into())),
        }
        let note = format!("process {} ({purpose})\n", std::process::id());
        Directory::overwrite(&file, note.as_bytes()).map_err(error)?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osupdate_core::observer::Silent;

    fn sysroot() -> (tempfile::TempDir, Sysroot) {
        let temp = tempfile::tempdir().unwrap();
        for name in [paths::REPOSITORY, paths::DEPLOYMENTS] {
            std::fs::create_dir_all(temp.path().join(name)).unwrap();
        }
        let sysroot = Sysroot::open(temp.path()).unwrap();
        (temp, sysroot)
    }

    #[test]
    fn second_writer_is_told_who_holds_the_lock() {
        let (_temp, sysroot) = sysroot();
        let first = sysroot.lock(Patience::Fail, "osupdate upgrade", &Silent).unwrap();
        let err = sysroot.lock(Patience::Fail, "osupdate gc", &Silent).unwrap_err().to_string();
        assert_eq!(err, format!("the system is being changed by process {} (osupdate upgrade)", std::process::id()));
        drop(first);
        sysroot.lock(Patience::Fail, "osupdate gc", &Silent).unwrap();
    }

    #[test]
    fn waiting_writer_goes_on_when_the_first_is_done() {
        let (_temp, sysroot) = sysroot();
        let first = sysroot.lock(Patience::Fail, "first", &Silent).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| sysroot.lock(Patience::Wait, "second", &Silent).map(drop));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn other_directories_are_not_osupdate_systems() {
        let temp = tempfile::tempdir().unwrap();
        let err = Sysroot::open(temp.path()).unwrap_err().to_string();
        assert!(err.starts_with("this is not an osupdate system: "), "{err}");
        assert!(matches!(Sysroot::open(&temp.path().join("none")), Err(OpenError::NotOsupdate { .. })));
    }
}
