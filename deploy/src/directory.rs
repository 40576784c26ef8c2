//! [`Directory`]: file operations relative to an open directory.
//!
//! The physical root is reached through one file descriptor, so that no mount or rename elsewhere can redirect a change.
//! Symbolic links are never followed in the last component of a path.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// An open directory.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Opens the directory that a descriptor stands for, which may be one for paths only, such as that of a mount.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(fd, ".", flags, Mode::empty())?))
    }

    /// Opens a directory by path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens a directory below this one.
    pub fn directory(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(Self(rustix::fs::openat(&self.0, path.as_ref(), flags, Mode::empty())?))
    }

    /// Opens a file below this directory for reading.
    pub fn file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.0, path.as_ref(), flags, Mode::empty())?.into())
    }

    /// Whole contents of a text file below this directory.
    pub fn read_text(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let mut text = String::new();
        self.file(path)?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Whether a name exists below this directory, of any type.
    pub fn exists(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        match rustix::fs::statat(&self.0, path.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(err) => Err(err.into()),
        }
    }

    /// All names in this directory that are UTF-8, sorted. Others are none that we make.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            match entry?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes a directory below this one, with its missing parents; those that are there stay as they are.
    pub fn create_directories(&self, path: &str, mode: u32) -> io::Result<Self> {
        let mut at = Self(self.0.try_clone()?);
        for name in path.split('/') {
            at.create_directory(name, mode)?;
            at = at.directory(name)?;
        }
        Ok(at)
    }

    /// Makes one directory with exactly this mode, durably, unless it is there.
    pub fn create_directory(&self, name: &str, mode: u32) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode)) {
            // The process's umask must not decide who can read /sysroot/state.
            Ok(()) => rustix::fs::chmodat(&self.0, name, Mode::from_raw_mode(mode), AtFlags::empty())?,
            Err(Errno::EXIST) => return Ok(()),
            Err(err) => return Err(err.into()),
        }
        self.sync()
    }

    /// Writes a file completely and durably, replacing an earlier one: a crash leaves the old or the new.
    pub fn write_file(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        osupdate_core::durable::write_file(self.0.as_fd(), name, 0o644, contents)
    }

    /// Overwrites a file in place, without durability: for hints only.
    pub(crate) fn overwrite(file: &File, contents: &[u8]) -> io::Result<()> {
        file.set_len(0)?;
        file.write_all_at(contents, 0)
    }

    /// Renames within this directory, replacing what has the new name. Not durable before [`Self::sync`].
    pub fn rename(&self, old: &str, new: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, old, &self.0, new)?)
    }

    /// Removes a file, durably; it may be missing already.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) => self.sync(),
            Err(Errno::NOENT) => Ok(()),
            Err(err) => Err(err.into()),
        }
    }

    /// Removes a directory below this one with everything in it.
    pub fn remove_tree(&self, name: &str) -> io::Result<()> {
        remove_contents(&self.directory(name)?.0)?;
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Sets the mode of this directory.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }

    /// Makes the names in this directory durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Makes everything on this directory's file system durable.
    pub fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

/// Empties a directory. Names are bytes: users make files in /etc with names that are no text.
fn remove_contents(directory: &OwnedFd) -> rustix::io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let child = entry.file_name();
        if matches!(child.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_directory = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, child, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            file_type => file_type == FileType::Directory,
        };
        if is_directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            remove_contents(&rustix::fs::openat(directory, child, flags, Mode::empty())?)?;
            rustix::fs::unlinkat(directory, child, AtFlags::REMOVEDIR)?;
        } else {
            rustix::fs::unlinkat(directory, child, AtFlags::empty())?;
        }
    }
    Ok(())
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_removed_without_following_links() {
        use std::os::unix::ffi::OsStrExt as _;
        let temp = tempfile::tempdir().unwrap();
        let root = Directory::open(temp.path()).unwrap();
        root.create_directories("a/b/c", 0o755).unwrap();
        std::fs::write(temp.path().join("kept"), "x").unwrap();
        std::fs::write(temp.path().join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink("../../kept", temp.path().join("a/b/link")).unwrap();
        std::os::unix::fs::symlink("..", temp.path().join("a/up")).unwrap();
        let no_text = std::ffi::OsStr::from_bytes(b"not-\xff-text");
        std::fs::create_dir_all(temp.path().join("a").join(no_text).join("b")).unwrap();
        root.remove_tree("a").unwrap();
        assert_eq!(root.names().unwrap(), ["kept"]);
    }

    #[test]
    fn directories_get_the_asked_mode() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let root = Directory::open(temp.path()).unwrap();
        root.create_directories("x/y", 0o777).unwrap();
        let mode = std::fs::metadata(temp.path().join("x/y")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
    }
}
