//! Copies a directory with all that belongs to it, as the upper layer of an overlay needs it.
//!
//! Contents (holes stay holes), symbolic links, devices (a whiteout is the character device 0:0), pipes, sockets, hard
//! links, owners, modes, times and extended attributes. Of the attributes of overlayfs itself only those are kept that
//! say what the user did; the others point into the layers of the old overlay and would be wrong in a new one.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawMode, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, ftruncate, lgetxattr, linkat, llistxattr, lsetxattr, mkdirat, mknodat, openat, readlinkat, seek, statat,
    symlinkat, utimensat,
};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory in `parent`, itself and not what a link points to.
pub(crate) fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, DIRECTORY, Mode::empty())
}

/// Copies the directory `source` to the new directory `name` in `parent`. Not durable before a sync.
pub(crate) fn copy_directory(source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
    mkdirat(parent, name, Mode::RWXU).with_context(|| format!("cannot create {name:?}"))?;
    let root = open_directory(parent, name).with_context(|| format!("cannot open {name:?}"))?;
    let mut copier = Copier { root: root.as_fd(), first_names: HashMap::new() };
    copier.entries(source, root.as_fd(), Path::new(""))?;
    copy_metadata(source, parent, name).with_context(|| format!("cannot copy the metadata of {name:?}"))
}

/// Creates the directory `name` in `parent` with the metadata of the directory `model`, but empty.
pub(crate) fn create_directory_like(model: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
    mkdirat(parent, name, Mode::RWXU).with_context(|| format!("cannot create {name:?}"))?;
    copy_metadata(model, parent, name).with_context(|| format!("cannot copy the metadata to {name:?}"))
}

fn copy_metadata(source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
    let stat = statat(source, "", AtFlags::EMPTY_PATH)?;
    let name = CString::new(name)?;
    Node { directory: source, name: c".", stat: &stat }.copy_metadata(parent, &name)
}

/// The state of one copy.
struct Copier<'a> {
    root: BorrowedFd<'a>,
    /// Files with several links, by device and inode, and the name that each got first, relative to `root`.
    first_names: HashMap<(u64, u64), PathBuf>,
}

impl Copier<'_> {
    /// Copies what is in `source` to `destination`, the directory `path` of the copy.
    fn entries(&mut self, source: BorrowedFd<'_>, destination: BorrowedFd<'_>, path: &Path) -> Result<()> {
        let unreadable = || format!("cannot read the directory {path:?}");
        for entry in Dir::read_from(source).with_context(unreadable)? {
            let entry = entry.with_context(unreadable)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            self.entry(source, destination, name, &path).with_context(|| format!("cannot copy {path:?}"))?;
        }
        Ok(())
    }

    fn entry(&mut self, source: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<()> {
        let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.first_names.get(&(stat.st_dev, stat.st_ino)) {
                return Ok(linkat(self.root, first, to, name, AtFlags::empty())?);
            }
            self.first_names.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        match kind {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let (source, to) = (open_directory(source, name)?, open_directory(to, name)?);
                self.entries(source.as_fd(), to.as_fd(), path)?;
            }
            FileType::RegularFile => copy_contents(source, to, name, &stat)?,
            FileType::Symlink => symlinkat(readlinkat(source, name, Vec::new())?, to, name)?,
            kind => mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?,
        }
        // After the entries: a default ACL must not be inherited, and each entry changes the directory's time.
        Node { directory: source, name, stat: &stat }.copy_metadata(to, name)
    }
}

/// Copies a regular file's contents, holes as holes.
fn copy_contents(source: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
    let read_flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = File::from(openat(source, name, read_flags, Mode::empty())?);
    let write_flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = File::from(openat(to, name, write_flags, Mode::RUSR | Mode::WUSR)?);
    let size = stat.st_size.try_into().context("the size is negative")?;
    ftruncate(&to, size)?;

    let mut buffer = vec![0; 64 * 1024];
    let mut offset = 0;
    while offset < size {
        offset = match seek(&source, SeekFrom::Data(offset)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(err) => return Err(err.into()),
        };
        let end = seek(&source, SeekFrom::Hole(offset))?.min(size);
        while offset < end {
            let room = buffer.len().min(usize::try_from(end - offset).unwrap_or(buffer.len()));
            let read = source.read_at(&mut buffer[..room], offset)?;
            anyhow::ensure!(read > 0, "the file became shorter while it was read");
            to.write_all_at(&buffer[..read], offset)?;
            offset += read as u64;
        }
    }
    Ok(())
}

/// A file whose metadata is copied.
struct Node<'a> {
    directory: BorrowedFd<'a>,
    name: &'a CStr,
    stat: &'a Stat,
}

impl Node<'_> {
    fn copy_metadata(&self, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let Self { stat, .. } = self;
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        // The owner first: a change of owner removes set-user-ID bits and capabilities.
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).context("cannot set the owner")?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            let mode = Mode::from_raw_mode(stat.st_mode as RawMode);
            chmodat(to, name, mode, AtFlags::empty()).context("cannot set the mode")?;
        }
        self.copy_xattrs(to, name)?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec.cast_signed() },
            last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() },
        };
        utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW).context("cannot set the times")
    }

    fn copy_xattrs(&self, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let (from, to) = (path_through_fd(self.directory, self.name), path_through_fd(to, name));
        for attribute in list_xattrs(&from).context("cannot list the extended attributes")? {
            if is_carried(attribute.to_bytes()) {
                get_xattr(&from, &attribute)
                    .and_then(|value| lsetxattr(&to, &*attribute, &value, XattrFlags::empty()))
                    .with_context(|| format!("cannot copy the extended attribute {attribute:?}"))?;
            }
        }
        Ok(())
    }
}

/// Whether an extended attribute means the same in another overlay.
///
/// Of overlayfs's own, `opaque` (a directory that was replaced) and `protattr` (chattr +i and +a) are what the user did,
/// and `trusted.overlay.overlay.*` is how the user's own `trusted.overlay.*` attributes are stored. The rest (`origin`,
/// `impure`, `nlink`, `uuid`, ...) describes the relation to the old lower layer.
fn is_carried(name: &[u8]) -> bool {
    match name.strip_prefix(b"trusted.overlay.") {
        Some(own) => matches!(own, b"opaque" | b"protattr") || own.starts_with(b"overlay."),
        None => true,
    }
}

/// A path for the calls that take no directory descriptor and cannot work on symbolic links or devices otherwise.
fn path_through_fd(directory: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(OsStr::from_bytes(name.to_bytes()))
}

/// Largest list of names and largest value that the kernel has (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 * 1024;

fn list_xattrs(path: &Path) -> rustix::io::Result<Vec<CString>> {
    let mut names = vec![0; XATTR_MAX];
    let length = match llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(err) => return Err(err),
    };
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(OsStr::from_bytes(name).to_owned().into_vec()).ok()).collect())
}

fn get_xattr(path: &Path, name: &CStr) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0; XATTR_MAX];
    let length = lgetxattr(path, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

#[cfg(test)]
mod tests;
