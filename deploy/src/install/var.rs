//! Filling the shared /var of a new system with what the image has there.
//!
//! This happens once. Later images do not touch /var: what they need there they create at boot (tmpfiles.d).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use osupdate_core::repository::{ObjectError, Repository};
use osupdate_core::tree::{Directory as TreeDirectory, Entry, Leaf, LeafId, LeafKind, Stat, Tree};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use thiserror::Error;

use crate::directory::Directory;

/// Why /var could not be filled.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VarError {
    /// Something could not be made.
    #[error("cannot create /var/{}", path.display())]
    Create {
        /// Path below /var.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file's contents are not in the repository or are damaged.
    #[error("cannot read /var/{} of the image", path.display())]
    Contents {
        /// Path below /var.
        path: PathBuf,
        /// Why.
        #[source]
        source: ObjectError,
    },
}

/// Fills the empty directory `var` with the image's /var: owners, modes, times, extended attributes, hard links.
pub(crate) fn populate(repository: &Repository, tree: &Tree, var: &Directory) -> Result<(), VarError> {
    let Some(directory) = tree.directory("var") else { return Ok(()) };
    let mut writer = Writer { repository, tree, var, links: HashMap::new() };
    writer.directory(directory, var, Path::new(""))
}

struct Writer<'a> {
    repository: &'a Repository,
    tree: &'a Tree,
    var: &'a Directory,
    /// Where a leaf got its first name.
    links: HashMap<LeafId, PathBuf>,
}

impl Writer<'_> {
    /// Fills `to` and gives it its metadata last, because filling changes its time.
    fn directory(&mut self, from: &TreeDirectory, to: &Directory, path: &Path) -> Result<(), VarError> {
        for (name, entry) in &from.entries {
            let name = OsStr::from_bytes(name);
            let path = path.join(name);
            match entry {
                Entry::Directory(child) => {
                    let made = rustix::fs::mkdirat(to, name, Mode::RWXU)
                        .map_err(io::Error::from)
                        .and_then(|()| to.directory(name));
                    let directory = made.map_err(|source| VarError::Create { path: path.clone(), source })?;
                    self.directory(child, &directory, &path)?;
                }
                Entry::Leaf(id) => self.leaf(*id, to, name, &path)?,
            }
        }
        set_metadata(to.as_fd(), &from.stat).map_err(|source| VarError::Create { path: path.into(), source })
    }

    fn leaf(&mut self, id: LeafId, to: &Directory, name: &OsStr, path: &Path) -> Result<(), VarError> {
        let create = |source: io::Error| VarError::Create { path: path.to_owned(), source };
        if let Some(first) = self.links.get(&id) {
            return rustix::fs::linkat(self.var, first, to, name, AtFlags::empty()).map_err(|err| create(err.into()));
        }
        let Leaf { stat, kind, .. } = self.tree.leaf(id);
        let node = |file_type, device| {
            rustix::fs::mknodat(to, name, file_type, Mode::RUSR, device)?;
            set_metadata_at(to.as_fd(), name, stat, true)
        };
        match kind {
            LeafKind::Regular(content) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR);
                let mut file = File::from(file.map_err(|err| create(err.into()))?);
                let mut reader = self
                    .repository
                    .open_content(content)
                    .map_err(|source| VarError::Contents { path: path.to_owned(), source })?;
                io::copy(&mut reader, &mut file).map_err(create)?;
                set_metadata(file.as_fd(), stat).map_err(create)?;
            }
            LeafKind::Symlink(target) => rustix::fs::symlinkat(OsStr::from_bytes(target), to, name)
                .map_err(io::Error::from)
                .and_then(|()| set_metadata_at(to.as_fd(), name, stat, false))
                .map_err(create)?,
            LeafKind::CharDevice(device) => node(FileType::CharacterDevice, decode_device(*device)).map_err(create)?,
            LeafKind::BlockDevice(device) => node(FileType::BlockDevice, decode_device(*device)).map_err(create)?,
            LeafKind::Fifo => node(FileType::Fifo, 0).map_err(create)?,
            LeafKind::Socket => node(FileType::Socket, 0).map_err(create)?,
        }
        self.links.insert(id, path.to_owned());
        Ok(())
    }
}

/// Sets metadata of an open file or directory. The mode comes after the owner, whose change clears set-id bits.
fn set_metadata(fd: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid)))?;
    rustix::fs::fchmod(fd, mode(stat))?;
    for (name, value) in &stat.xattrs {
        rustix::fs::fsetxattr(fd, name.as_ref(), value, XattrFlags::empty())?;
    }
    Ok(rustix::fs::futimens(fd, &times(stat))?)
}

/// Sets metadata of something that is not opened: links, which have no mode, and special files.
fn set_metadata_at(directory: BorrowedFd<'_>, name: &OsStr, stat: &Stat, has_mode: bool) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if has_mode {
        rustix::fs::chmodat(directory, name, mode(stat), AtFlags::empty())?;
    }
    if !stat.xattrs.is_empty() {
        // There is no setxattrat in all supported kernels.
        let path = proc_path(directory, name);
        for (name, value) in &stat.xattrs {
            rustix::fs::lsetxattr(&path, name.as_ref(), value, XattrFlags::empty())?;
        }
    }
    Ok(rustix::fs::utimensat(directory, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A path to a name in an open directory.
fn proc_path(directory: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.mode.into())
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.mtime_secs, tv_nsec: stat.mtime_nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// From the kernel's 32-bit form, as images have it, to the C library's.
fn decode_device(device: u32) -> u64 {
    rustix::fs::makedev((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use osupdate_core::Algorithm;
    use osupdate_core::repository::Verity;
    use osupdate_core::tree::Content;

    use super::*;

    #[test]
    fn var_is_as_in_the_image() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("repository");
        Repository::init(&path, Algorithm::Sha512, Verity::Unverified).unwrap();
        let repository = Repository::open(&path).unwrap();
        let object = repository.put_object(&[b'x'; 5000]).unwrap();

        let stat = |mode| Stat {
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime_secs: 1_000_000_000,
            ..Stat::default()
        };
        let mut tree = Tree::default();
        let content = Content::object(object.digest, 5000);
        let file = tree.push_leaf(Leaf::new(stat(0o4755), LeafKind::Regular(content)));
        let link = tree.push_leaf(Leaf::new(stat(0o777), LeafKind::Symlink(b"/run".as_slice().into())));
        let fifo = tree.push_leaf(Leaf::new(stat(0o600), LeafKind::Fifo));
        let mut var = TreeDirectory { stat: stat(0o1777), ..TreeDirectory::default() };
        for (name, id) in [("file", file), ("hard", file), ("run", link), ("fifo", fifo)] {
            var.entries.insert(name.as_bytes().into(), Entry::Leaf(id));
        }
        let mut lib = TreeDirectory { stat: stat(0o500), ..TreeDirectory::default() };
        lib.entries.insert(b"other".as_slice().into(), Entry::Leaf(file));
        var.entries.insert(b"lib".as_slice().into(), Entry::Directory(lib));
        tree.root.entries.insert(b"var".as_slice().into(), Entry::Directory(var));

        let target = temp.path().join("var");
        std::fs::create_dir(&target).unwrap();
        populate(&repository, &tree, &Directory::open(&target).unwrap()).unwrap();
        let metadata = |name: &str| std::fs::symlink_metadata(target.join(name)).unwrap();
        assert_eq!(metadata("").mode() & 0o7777, 0o1777);
        assert_eq!(metadata("lib").mode() & 0o7777, 0o500);
        assert_eq!(metadata("file").mode() & 0o7777, 0o4755);
        assert_eq!(metadata("fifo").mode() & 0o7777, 0o600);
        for name in ["", "lib", "file", "run", "fifo"] {
            assert_eq!(metadata(name).mtime(), 1_000_000_000, "{name}");
        }
        assert_eq!(std::fs::read(target.join("lib/other")).unwrap(), [b'x'; 5000]);
        assert_eq!(metadata("file").ino(), metadata("lib/other").ino());
        assert_eq!(metadata("file").nlink(), 3);
        assert_eq!(std::fs::read_link(target.join("run")).unwrap(), Path::new("/run"));
    }
}
