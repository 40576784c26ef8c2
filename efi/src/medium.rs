//! The few file operations that are used on the ESP, each with the syncing that FAT needs.
//!
//! Everything on the partition goes through [`Medium`], relative to the root's descriptor, without following symbolic
//! links. What the operations promise, and why, is in `LAYOUT.md`.

#[cfg(test)]
pub(crate) mod power;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Advice, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use thiserror::Error;

/// The action that needs Linux 6.0; older kernels say that the argument is invalid.
pub(crate) const EXCHANGE: &str = "exchange";

/// An operation on the partition failed.
#[derive(Debug, Error)]
#[error("cannot {action} {path} on {place}")]
pub struct AccessError {
    /// What was to be done, as a verb: "read".
    pub action: &'static str,
    /// The file, relative to the root of the partition.
    pub path: String,
    /// The partition.
    pub place: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl AccessError {
    /// Whether the partition is full.
    pub fn is_no_space(&self) -> bool {
        self.source.kind() == io::ErrorKind::StorageFull
    }
}

/// Something in a directory.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) is_dir: bool,
}

/// The root of the partition.
#[derive(Debug)]
pub(crate) struct Medium {
    root: OwnedFd,
    pub(crate) place: String,
    #[cfg(test)]
    pub(crate) power: power::Power,
}

impl Medium {
    pub(crate) fn new(root: OwnedFd, place: String) -> Self {
        Self {
            root,
            place,
            #[cfg(test)]
            power: power::Power::default(),
        }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(crate) fn error(&self, action: &'static str, path: &str, source: impl Into<io::Error>) -> AccessError {
        AccessError { action, path: path.to_owned(), place: self.place.clone(), source: source.into() }
    }

    fn open_at(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = path.trim_start_matches('/');
        let path = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    fn open_dir(&self, path: &str) -> Result<OwnedFd, AccessError> {
        self.open_at(path, OFlags::DIRECTORY | OFlags::RDONLY).map_err(|err| self.error("open", path, err))
    }

    /// Opens a regular file, `None` if there is none.
    ///
    /// What the page cache has of it is dropped first, so that the bytes come from the device: a write that only the
    /// cache has right must not pass for a good one. Pages are dropped only once written, which syncing before sees to.
    pub(crate) fn open_uncached(&self, path: &str) -> Result<Option<File>, AccessError> {
        // NONBLOCK: a FIFO in place of the file must not hang us.
        let file = match self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(err) => return Err(self.error("open", path, err)),
        };
        if !file.metadata().map_err(|err| self.error("read", path, err))?.is_file() {
            return Ok(None);
        }
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(|err| self.error("read", path, err))?;
        Ok(Some(file))
    }

    /// Reads a whole small file, `None` if there is none.
    pub(crate) fn read(&self, path: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, AccessError> {
        let Some(file) = self.open_uncached(path)? else { return Ok(None) };
        let mut contents = Vec::new();
        file.take(limit_bytes + 1).read_to_end(&mut contents).map_err(|err| self.error("read", path, err))?;
        if contents.len() as u64 > limit_bytes {
            return Err(self.error("read", path, io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        Ok(Some(contents))
    }

    /// Whether the path names a regular file that is not empty.
    ///
    /// What cannot be looked at counts as there: entries are removed for the lack of a file, never for an error.
    pub(crate) fn has_file(&self, path: &str) -> bool {
        match self.open_at(path, OFlags::PATH).and_then(rustix::fs::fstat) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_size > 0,
            // The others say that no such path can be on a FAT below this directory.
            Err(err) => {
                use Errno as E;
                !matches!(err, E::NOENT | E::NOTDIR | E::XDEV | E::LOOP | E::NAMETOOLONG | E::INVAL)
            }
        }
    }

    /// What is in a directory; nothing if there is none. Names that are not UTF-8 are shown with replacement characters.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Item>, AccessError> {
        let fd = match self.open_at(path, OFlags::DIRECTORY | OFlags::RDONLY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(err) => return Err(self.error("open", path, err)),
        };
        let read_all = || -> rustix::io::Result<Vec<Item>> {
            let mut items = Vec::new();
            for item in Dir::read_from(&fd)? {
                let item = item?;
                let name = item.file_name().to_string_lossy().into_owned();
                if name == "." || name == ".." {
                    continue;
                }
                let is_dir = match item.file_type() {
                    FileType::Unknown => {
                        let stat = rustix::fs::statat(&fd, item.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                        FileType::from_raw_mode(stat.st_mode).is_dir()
                    }
                    known => known.is_dir(),
                };
                items.push(Item { name, is_dir });
            }
            items.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(items)
        };
        read_all().map_err(|err| self.error("list", path, err))
    }

    /// Makes a directory and those above it, as far as they are missing. Durable after a [`barrier`](Self::barrier).
    pub(crate) fn make_dirs(&self, path: &str) -> Result<(), AccessError> {
        let mut end = 0;
        while end < path.len() {
            end = path[end + 1..].find('/').map_or(path.len(), |at| end + 1 + at);
            match self.make_dir(&path[..end]) {
                Err(err) if err.source.kind() == io::ErrorKind::AlreadyExists => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Makes one directory, which must not exist.
    pub(crate) fn make_dir(&self, path: &str) -> Result<(), AccessError> {
        #[cfg(test)]
        self.power.step().map_err(|cut| self.error("make the directory", path, cut.error))?;
        rustix::fs::mkdirat(&self.root, path, Mode::from_raw_mode(0o755))
            .map_err(|err| self.error("make the directory", path, err))
    }

    /// Makes a file, which must not exist, writes it and syncs it. The directory is not synced.
    ///
    /// Returns the number of bytes.
    pub(crate) fn write_new(&self, path: &str, contents: &mut dyn Read) -> Result<u64, AccessError> {
        let error = |err: io::Error| self.error("write", path, err);
        #[cfg(test)]
        if let Err(cut) = self.power.step() {
            power::torn_write(self, path, contents, cut.tear);
            return Err(error(cut.error));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&self.root, path, flags, Mode::from_raw_mode(0o644)).map_err(|err| error(err.into()))?;
        let mut file = File::from(fd);
        let written = io::copy(contents, &mut file).map_err(error)?;
        file.flush().map_err(error)?;
        file.sync_all().map_err(error)?;
        Ok(written)
    }

    /// Renames a file within its directory; never replaces another one. Durable after a [`barrier`](Self::barrier).
    pub(crate) fn rename_new(&self, dir: &str, from: &str, to: &str) -> Result<(), AccessError> {
        let error = |err: io::Error| self.error("rename a file to", &format!("{dir}/{to}"), err);
        let fd = self.open_dir(dir)?;
        #[cfg(test)]
        if let Err(cut) = self.power.step() {
            power::torn_rename(&fd, from, to, cut.tear);
            return Err(error(cut.error));
        }
        rustix::fs::renameat_with(&fd, from, &fd, to, RenameFlags::NOREPLACE).map_err(|err| error(err.into()))
    }

    /// Exchanges two files of a directory, so that at no moment one of the names is missing. Durable after a
    /// [`barrier`](Self::barrier).
    ///
    /// On FAT each entry is changed by one write to the medium; after a cut both names may have the same contents, either ones.
    /// Needs Linux 6.0.
    pub(crate) fn exchange(&self, dir: &str, one: &str, other: &str) -> Result<(), AccessError> {
        let error = |err: io::Error| self.error(EXCHANGE, &format!("{dir}/{other}"), err);
        let fd = self.open_dir(dir)?;
        #[cfg(test)]
        if let Err(cut) = self.power.step() {
            power::torn_exchange(&fd, one, other, cut.tear);
            return Err(error(cut.error));
        }
        rustix::fs::renameat_with(&fd, one, &fd, other, RenameFlags::EXCHANGE).map_err(|err| error(err.into()))
    }

    /// Removes a file; `false` if there is none. Durable after a [`barrier`](Self::barrier).
    pub(crate) fn remove_file(&self, path: &str) -> Result<bool, AccessError> {
        self.remove("remove", path, AtFlags::empty())
    }

    /// Removes an empty directory; `false` if there is none. Durable after a [`barrier`](Self::barrier).
    pub(crate) fn remove_dir(&self, path: &str) -> Result<bool, AccessError> {
        self.remove("remove the directory", path, AtFlags::REMOVEDIR)
    }

    fn remove(&self, action: &'static str, path: &str, flags: AtFlags) -> Result<bool, AccessError> {
        #[cfg(test)]
        self.power.step().map_err(|cut| self.error(action, path, cut.error))?;
        match rustix::fs::unlinkat(&self.root, path, flags) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(err) => Err(self.error(action, path, err)),
        }
    }

    /// Returns when all that was done so far is on the medium.
    ///
    /// `syncfs` writes all that is dirty, but vfat has no `sync_fs` operation, so nothing tells the device to empty its
    /// cache; `fsync` of a directory does (Linux 5.3, and older kernels with the fix). So first the one, then the other.
    pub(crate) fn barrier(&self) -> Result<(), AccessError> {
        #[cfg(test)]
        self.power.step().map_err(|cut| self.error("sync", "/", cut.error))?;
        // A path descriptor of a mount cannot be synced, and the root's may be one.
        let root = self.open_dir("")?;
        rustix::fs::syncfs(&root).and_then(|()| rustix::fs::fsync(&root)).map_err(|err| self.error("sync", "/", err))
    }
}
