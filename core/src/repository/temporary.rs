//! A file without a name that gets one when it is complete.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Advice, AtFlags, CWD, Mode, OFlags, fadvise, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::{FileError, OBJECTS, Repository, link, names, partial};
use crate::durable::with_temporary_name;
use crate::proc_fd;

/// Begins the names of unfinished objects, where the file system has no `O_TMPFILE` or an object is replaced.
pub(super) const PREFIX: &str = ".tmp-object-";
/// Permissions of objects and of `meta.json`.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// A file under construction in `dir`; it vanishes unless it is given a name.
#[derive(Debug)]
pub(super) struct Temporary<'a> {
    dir: BorrowedFd<'a>,
    file: File,
    /// Its temporary name, if the file system cannot do without.
    name: Option<String>,
}

impl<'a> Temporary<'a> {
    /// Makes an empty file, open for reading and writing.
    pub(super) fn create(dir: BorrowedFd<'a>) -> rustix::io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match openat(dir, ".", flags | OFlags::TMPFILE, FILE_MODE) {
            Ok(file) => Ok(Self { dir, file: file.into(), name: None }),
            // What file systems without O_TMPFILE answer, EISDIR where the kernel does not know it either.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS | Errno::INVAL) => Self::create_named(dir),
            Err(errno) => Err(errno),
        }
    }

    fn create_named(dir: BorrowedFd<'a>) -> rustix::io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (file, name) = with_temporary_name(PREFIX, |name| openat(dir, name, flags, FILE_MODE))?;
        Ok(Self { dir, file: file.into(), name: Some(name) })
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Begins to write the file to disk without waiting for it, so that the disk is at work before the repository is synced. A
    /// wish: not all file systems can grant it.
    pub(super) fn begin_write_back(&self) {
        // What is still dirty is not dropped but sent on its way.
        if let Err(errno) = fadvise(&self.file, 0, None, Advice::DontNeed) {
            tracing::debug!("cannot begin to write an object to disk: {errno}, ignoring");
        }
    }

    /// Replaces the writable descriptor by a read-only one, as sealing demands.
    pub(super) fn make_read_only(&mut self) -> rustix::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        self.file = openat(CWD, proc_fd::path(self.file.as_fd()), flags, Mode::empty())?.into();
        Ok(())
    }

    /// Gives the file its name, a path below the directory. False if the name is taken.
    pub(super) fn link(&mut self, path: &str) -> rustix::io::Result<bool> {
        let linked = match &self.name {
            None => self.link_as(path),
            // The temporary name goes when `self` is dropped.
            Some(name) => linkat(self.dir, name, self.dir, path, AtFlags::empty()),
        };
        match linked {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            // No hard links. To replace a file of the same contents does no harm.
            Err(Errno::PERM | Errno::OPNOTSUPP) if self.name.is_some() => self.replace(path).map(|()| true),
            Err(errno) => Err(errno),
        }
    }

    /// Gives the file its name, a path below the directory, and takes that from the file which has it.
    pub(super) fn replace(&mut self, path: &str) -> rustix::io::Result<()> {
        let name = match self.name.take() {
            Some(name) => name,
            None => with_temporary_name(PREFIX, |name| self.link_as(name))?.1,
        };
        let renamed = renameat(self.dir, &name, self.dir, path);
        if renamed.is_err() {
            self.name = Some(name);
        }
        renamed
    }

    fn link_as(&self, path: &str) -> rustix::io::Result<()> {
        linkat(CWD, proc_fd::path(self.file.as_fd()), self.dir, path, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Write for Temporary<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(errno) = unlinkat(self.dir, name, AtFlags::empty())
        {
            tracing::warn!("cannot remove {name}: {errno}, ignoring: the next collection will");
        }
    }
}

impl Repository {
    /// Files of writers that have not finished, and what interrupted pulls have left. Under the exclusive lock: of writers that
    /// never will.
    pub(super) fn temporary_files(&self) -> Result<Vec<String>, FileError> {
        let mut found = Vec::new();
        for directory in [".", OBJECTS] {
            let listed =
                names(self.dir.as_fd(), directory).map_err(|error| self.file_error("read", directory, error))?;
            for name in listed.unwrap_or_default().into_iter().filter_map(|name| String::from_utf8(name).ok()) {
                let prefixes = [PREFIX, link::TEMPORARY_PREFIX, partial::PREFIX];
                if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                    found.push(if directory == "." { name } else { format!("{directory}/{name}") });
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn entries(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    type Create = for<'a> fn(BorrowedFd<'a>) -> rustix::io::Result<Temporary<'a>>;

    const BOTH: [Create; 2] = [|dir| Temporary::create(dir), |dir| Temporary::create_named(dir)];

    #[test]
    fn a_dropped_file_leaves_nothing() {
        for create in BOTH {
            let dir = tempfile::tempdir().unwrap();
            let fd = File::open(dir.path()).unwrap();
            create(fd.as_fd()).unwrap().write_all(b"lost").unwrap();
            assert_eq!(entries(dir.path()), 0);
        }
    }

    #[test]
    fn a_taken_name_is_kept_by_link_and_taken_by_replace() {
        for create in BOTH {
            let dir = tempfile::tempdir().unwrap();
            let fd = File::open(dir.path()).unwrap();
            let path = dir.path().join("object");
            let make = |contents: &[u8]| {
                let mut temporary = create(fd.as_fd()).unwrap();
                temporary.write_all(contents).unwrap();
                temporary.make_read_only().unwrap();
                temporary
            };
            assert!(make(b"first").link("object").unwrap());
            assert!(!make(b"second").link("object").unwrap());
            assert_eq!(fs::read(&path).unwrap(), b"first");
            make(b"third").replace("object").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"third");
            assert_eq!(entries(dir.path()), 1);
        }
    }

    #[test]
    fn a_read_only_file_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        let mut temporary = Temporary::create(fd.as_fd()).unwrap();
        temporary.make_read_only().unwrap();
        assert!(temporary.write_all(b"x").is_err());
    }
}
