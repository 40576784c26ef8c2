//! Names in `streams/` and `images/`: symlinks to objects, made only when what they name is on disk.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, fsync, readlinkat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;
use thiserror::Error;

use super::{FileError, Namespace, NotWritable, OBJECTS, ObjectError, Repository, make_directory, open_directory};
use crate::digest::Digest;
use crate::durable::with_temporary_name;

/// Begins the names of symlinks that are about to replace others; they are in the repository directory.
pub(super) const TEMPORARY_PREFIX: &str = ".symlink-";
/// Directory of refs within a namespace; not a name of a stream or image.
pub(super) const REFS: &str = "refs";
/// Longest file name in bytes.
const NAME_MAX: usize = 255;

/// Why names were not published.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Not a file name that streams and images may have.
    #[error("{name:?} cannot be the name of a stream or image")]
    Name {
        /// The name.
        name: String,
    },
    /// The object cannot be named because it is not there or damaged.
    #[error("cannot publish {name}")]
    Object {
        /// The name.
        name: String,
        /// What is wrong with the object.
        source: ObjectError,
    },
    /// The repository may not be changed.
    #[error(transparent)]
    NotWritable(#[from] NotWritable),
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Repository {
    /// Makes first-level names durable: objects, then names, then the directory that has them.
    pub(super) fn publish(&self, namespace: Namespace, names: &[(&str, Digest)]) -> Result<(), PublishError> {
        self.check_writable()?;
        for (name, digest) in names {
            if !is_first_level_name(name) {
                return Err(PublishError::Name { name: (*name).to_owned() });
            }
            let error = |source| PublishError::Object { name: (*name).to_owned(), source };
            // Opened, not only looked up: a damaged object gets no name.
            self.open_object(digest).map_err(error)?;
        }
        if names.is_empty() {
            return Ok(());
        }
        self.sync_files()?;
        let directory = namespace.directory();
        if make_directory(self.dir.as_fd(), directory).map_err(|errno| self.file_error("make", directory, errno))? {
            fsync(&self.dir).map_err(|errno| self.file_error("sync", "", errno))?;
        }
        for (name, digest) in names {
            let path = format!("{directory}/{name}");
            self.symlink(&format!("../{OBJECTS}/{}", digest.object_path()), &path)?;
        }
        self.sync_directory(directory).map_err(PublishError::from)
    }

    /// The object that a first-level name stands for; `None` if there is no such name.
    pub(super) fn first_level(&self, namespace: Namespace, name: &str) -> Result<Option<Digest>, FileError> {
        if !is_first_level_name(name) {
            return Ok(None);
        }
        let path = format!("{}/{name}", namespace.directory());
        let error = |errno| self.file_error("read the symlink", &path, errno);
        match read_link(self.dir.as_fd(), &path) {
            Ok(target) => object_of(&target).map(Some).ok_or_else(|| error(Errno::INVAL)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(error(errno)),
        }
    }

    /// Makes a symlink, or replaces one that has another target, atomically.
    pub(super) fn symlink(&self, target: &str, path: &str) -> Result<(), FileError> {
        let error = |errno| self.file_error("make the symlink", path, errno);
        match symlinkat(target, &self.dir, path) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(error(errno)),
        }
        if read_link(self.dir.as_fd(), path).map_err(error)? == target {
            return Ok(());
        }
        let ((), temporary) =
            with_temporary_name(TEMPORARY_PREFIX, |name| symlinkat(target, &self.dir, name)).map_err(error)?;
        renameat(&self.dir, &temporary, &self.dir, path).map_err(|errno| {
            if let Err(errno) = unlinkat(&self.dir, &temporary, AtFlags::empty()) {
                tracing::warn!("cannot remove {temporary}: {errno}, ignoring: the next collection will");
            }
            error(errno)
        })
    }

    pub(super) fn sync_directory(&self, path: &str) -> Result<(), FileError> {
        open_directory(self.dir.as_fd(), path).and_then(fsync).map_err(|errno| self.file_error("sync", path, errno))
    }
}

/// True for names that streams and images may have: one component that is not special.
pub(super) fn is_first_level_name(name: &str) -> bool {
    is_component(name) && name != REFS
}

/// True for a plain component of a path.
pub(super) fn is_component(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// The target of a symlink; `EINVAL` if it is not one, or not text.
pub(super) fn read_link(dir: BorrowedFd<'_>, path: &str) -> rustix::io::Result<String> {
    readlinkat(dir, path, Vec::new())?.into_string().map_err(|_| Errno::INVAL)
}

/// The object in the last two components of a target that leaves its directory.
pub(super) fn object_of(target: &str) -> Option<Digest> {
    let slashes: Vec<usize> = target.strip_prefix("../")?.match_indices('/').map(|(at, _)| at).collect();
    // The last two components begin after the last slash but one.
    let start = "../".len() + slashes.len().checked_sub(2).map_or(0, |at| slashes[at] + 1);
    Digest::from_object_path(&target[start..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_in_the_last_two_components() {
        let digest = crate::fsverity::digest(crate::Algorithm::Sha256, b"x");
        let path = digest.object_path();
        assert_eq!(object_of(&format!("../objects/{path}")), Some(digest));
        assert_eq!(object_of(&format!("../../elsewhere/objects/{path}")), Some(digest));
        assert_eq!(object_of(&format!("../{path}")), Some(digest));
        assert_eq!(object_of(&format!("objects/{path}")), None);
        assert_eq!(object_of("../objects/short"), None);
        assert_eq!(object_of("../"), None);
    }

    #[test]
    fn names_are_single_plain_components() {
        for good in ["oci-layer-sha256:00", "a", "...", "ref", &"x".repeat(255)] {
            assert!(is_first_level_name(good), "{good}");
        }
        for bad in ["", ".", "..", "refs", "a/b", "/a", "a\0b", &"x".repeat(256)] {
            assert!(!is_first_level_name(bad), "{bad}");
        }
    }
}
