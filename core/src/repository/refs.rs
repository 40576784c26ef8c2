//! Refs: names of the users' choice, in directories as they like, which keep streams and images from being collected.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, statat, unlinkat};
use rustix::io::Errno;
use thiserror::Error;

use super::link::{REFS, is_component, is_first_level_name, read_link};
use super::{FileError, NotWritable, Repository, make_directory, names};

/// Deepest directory below `refs/` that is searched.
const DEPTH_MAX: usize = 64;

/// What a name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespace {
    /// Split streams.
    Streams,
    /// EROFS images.
    Images,
}

impl Namespace {
    pub(super) const fn directory(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Images => "images",
        }
    }
}

/// Why refs cannot be read or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RefError {
    /// Not a relative path of plain components.
    #[error("{name:?} cannot be the name of a ref")]
    Name {
        /// The name.
        name: String,
    },
    /// It would keep nothing.
    #[error("cannot make the ref {name}: there is no {target} in {}", namespace.directory())]
    NoTarget {
        /// The ref.
        name: String,
        /// What it should name.
        target: String,
        /// Where.
        namespace: Namespace,
    },
    /// Something is among the refs that is neither a directory nor a symlink to a first-level name.
    #[error("{path} in the repository is not a ref")]
    Unexpected {
        /// Path in the repository.
        path: String,
    },
    /// The repository may not be changed.
    #[error(transparent)]
    NotWritable(#[from] NotWritable),
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Repository {
    /// Makes the ref `name`, a relative path, for a first-level name; re-points it if it exists. Durable on return.
    pub fn set_ref(&self, namespace: Namespace, name: &str, target: &str) -> Result<(), RefError> {
        self.check_writable()?;
        check_ref_name(name)?;
        if self.first_level(namespace, target)?.is_none() {
            return Err(RefError::NoTarget { name: name.to_owned(), target: target.to_owned(), namespace });
        }
        let path = format!("{}/{REFS}/{name}", namespace.directory());
        // Every directory on the way; the first one has the target and so exists.
        let parents: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
        for parent in &parents[1..] {
            make_directory(self.dir.as_fd(), parent).map_err(|errno| self.file_error("make", parent, errno))?;
        }
        let up = "../".repeat(parents.len() - 1);
        self.symlink(&format!("{up}{target}"), &path)?;
        for parent in parents.iter().rev() {
            self.sync_directory(parent)?;
        }
        Ok(())
    }

    /// Removes a ref; false if there is none. Durable on return. What it kept stays until the next collection.
    pub fn remove_ref(&self, namespace: Namespace, name: &str) -> Result<bool, RefError> {
        self.check_writable()?;
        check_ref_name(name)?;
        let path = format!("{}/{REFS}/{name}", namespace.directory());
        match unlinkat(&self.dir, &path, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            Err(errno) => return Err(self.file_error("remove", &path, errno).into()),
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.sync_directory(parent)?;
        Ok(true)
    }

    /// The first-level name that a ref stands for, which need not exist; `None` if there is no such ref.
    pub fn ref_target(&self, namespace: Namespace, name: &str) -> Result<Option<String>, RefError> {
        check_ref_name(name)?;
        let path = format!("{}/{REFS}/{name}", namespace.directory());
        match read_ref(self.dir.as_fd(), &path) {
            Ok(Some(target)) => Ok(Some(target)),
            // A directory of refs is not a ref.
            Ok(None) if self.file_type(&path)? == FileType::Directory => Ok(None),
            Ok(None) => Err(RefError::Unexpected { path }),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.file_error("read the symlink", path, errno).into()),
        }
    }

    /// All refs with the first-level names they stand for, which need not exist; in byte order.
    pub fn refs(&self, namespace: Namespace) -> Result<Vec<(String, String)>, RefError> {
        let mut refs = Vec::new();
        let top = format!("{}/{REFS}", namespace.directory());
        self.collect_refs(&top, top.len() + 1, DEPTH_MAX, &mut refs)?;
        Ok(refs)
    }

    fn collect_refs(
        &self,
        directory: &str,
        skip: usize,
        depth: usize,
        refs: &mut Vec<(String, String)>,
    ) -> Result<(), RefError> {
        let listed = names(self.dir.as_fd(), directory).map_err(|error| self.file_error("read", directory, error))?;
        for name in listed.unwrap_or_default() {
            let name = String::from_utf8(name).map_err(|error| RefError::Unexpected {
                path: format!("{directory}/{}", String::from_utf8_lossy(error.as_bytes())),
            })?;
            let path = format!("{directory}/{name}");
            match self.file_type(&path)? {
                FileType::Directory if depth > 0 => self.collect_refs(&path, skip, depth - 1, refs)?,
                FileType::Symlink => {
                    let target = read_ref(self.dir.as_fd(), &path)
                        .map_err(|errno| self.file_error("read the symlink", &path, errno))?
                        .ok_or_else(|| RefError::Unexpected { path: path.clone() })?;
                    refs.push((path[skip..].to_owned(), target));
                }
                _ => return Err(RefError::Unexpected { path }),
            }
        }
        Ok(())
    }

    /// The type of what has a name, without following it.
    pub(super) fn file_type(&self, path: &str) -> Result<FileType, FileError> {
        let stat = statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.file_error("examine", path, errno))?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }
}

/// The first-level name in a ref's target: its last component. `None`: there is none.
fn read_ref(dir: BorrowedFd<'_>, path: &str) -> rustix::io::Result<Option<String>> {
    let target = match read_link(dir, path) {
        Err(Errno::INVAL) => return Ok(None),
        target => target?,
    };
    let name = target.rsplit('/').next().unwrap_or_default();
    Ok(is_first_level_name(name).then(|| name.to_owned()))
}

fn check_ref_name(name: &str) -> Result<(), RefError> {
    let components = name.split('/').collect::<Vec<_>>();
    if components.len() <= DEPTH_MAX && components.iter().all(|component| is_component(component)) {
        Ok(())
    } else {
        Err(RefError::Name { name: name.to_owned() })
    }
}
