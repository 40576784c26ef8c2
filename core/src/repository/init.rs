//! Making a repository.

use std::fs::{DirBuilder, create_dir_all};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, fsync, syncfs};
use thiserror::Error;

use super::metadata::{FILE_NAME, Metadata, MetadataError};
use super::temporary::Temporary;
use super::{FileError, FileSystem, Repository, Verity, infer, open_directory, read_metadata, verity};
use crate::digest::Algorithm;
use crate::erofs::Format;

/// What [`Repository::init`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitOutcome {
    /// Nothing; now there is a repository.
    Created,
    /// A repository of the same kind; it is as it was.
    AlreadyThere,
}

/// Why a repository was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InitError {
    /// There is one of another kind.
    #[error(
        "{} is already a repository with {found} and fs-verity {}, not with {wanted} and fs-verity {}",
        path.display(), on_or_off(*found_verity), on_or_off(*wanted_verity)
    )]
    Different {
        /// The directory.
        path: PathBuf,
        /// The algorithm it has.
        found: Algorithm,
        /// Whether its objects have fs-verity.
        found_verity: Verity,
        /// The algorithm that was asked for.
        wanted: Algorithm,
        /// What was asked for.
        wanted_verity: Verity,
    },
    /// There is one that stores images in other formats.
    #[error("the repository {} has images in {}, not in {}", path.display(), names(found), names(wanted))]
    OtherFormats {
        /// The directory.
        path: PathBuf,
        /// The formats it has, the default first.
        found: Vec<Format>,
        /// The formats that were asked for.
        wanted: Vec<Format>,
    },
    /// There is one whose `meta.json` cannot be used.
    #[error("the meta.json of the repository {} is refused", path.display())]
    Metadata {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: MetadataError,
    },
    /// fs-verity was asked for and cannot be had. [`FileSystem::verity_hint`] tells what to do.
    #[error("the {file_system} file system at {} has no fs-verity", path.display())]
    NoVerity {
        /// The directory.
        path: PathBuf,
        /// Where it is.
        file_system: FileSystem,
        /// What the kernel said.
        source: io::Error,
    },
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

fn names(formats: &[Format]) -> String {
    let names: Vec<String> = formats.iter().map(|format| format!("V{}", format.number())).collect();
    names.join(" and ")
}

fn on_or_off(verity: Verity) -> &'static str {
    match verity {
        Verity::Required => "on",
        Verity::Unverified => "off",
    }
}

impl Repository {
    /// Makes a repository, with its parent directories; it survives a crash after return.
    ///
    /// `meta.json` is complete and, with [`Verity::Required`], sealed before it gets its name; it is never replaced. A
    /// directory with objects but without `meta.json` becomes a repository that goes on as it was.
    pub fn init(path: &Path, algorithm: Algorithm, verity: Verity) -> Result<InitOutcome, InitError> {
        Self::init_with_formats(path, algorithm, verity, &[])
    }

    /// The same, for images in these formats, the default first. None: V1, or what the repository has that is there.
    pub fn init_with_formats(
        path: &Path,
        algorithm: Algorithm,
        verity: Verity,
        formats: &[Format],
    ) -> Result<InitOutcome, InitError> {
        let error = |action| move |source: io::Error| FileError { action, path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            create_dir_all(parent).map_err(error("make the parent directories of"))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(error("make")(source).into()),
            _ => {}
        }
        let dir = open_directory(CWD, path).map_err(|errno| error("open")(errno.into()))?;

        loop {
            let existing = read_metadata(dir.as_fd()).map_err(error("read the meta.json of"))?;
            if let Some((json, sealed)) = existing {
                let found =
                    Metadata::parse(&json).map_err(|source| InitError::Metadata { path: path.to_owned(), source })?;
                let found_verity = if sealed.is_some() { Verity::Required } else { Verity::Unverified };
                check_same(path, (found.algorithm, found_verity), (algorithm, verity))?;
                let (there, wanted) = (found.formats(), Metadata::new(algorithm, formats).formats());
                if !formats.is_empty() && there != wanted {
                    let (found, wanted) = (there.list(), wanted.list());
                    return Err(InitError::OtherFormats { path: path.to_owned(), found, wanted });
                }
                return Ok(InitOutcome::AlreadyThere);
            }
            let metadata = match infer(dir.as_fd()).map_err(error("read the objects of"))? {
                Some(found) => {
                    check_same(path, found, (algorithm, verity))?;
                    if formats.is_empty() {
                        Metadata::before_metadata(algorithm)
                    } else {
                        Metadata::new(algorithm, formats)
                    }
                }
                None => Metadata::new(algorithm, formats),
            };
            if write_metadata(dir.as_fd(), path, &metadata, verity)? {
                // The file, its name, the directory and its parents.
                syncfs(&dir).map_err(|errno| error("sync")(errno.into()))?;
                return Ok(InitOutcome::Created);
            }
            // Somebody else was quicker.
        }
    }
}

fn check_same(path: &Path, found: (Algorithm, Verity), wanted: (Algorithm, Verity)) -> Result<(), InitError> {
    if found == wanted {
        return Ok(());
    }
    Err(InitError::Different {
        path: path.to_owned(),
        found: found.0,
        found_verity: found.1,
        wanted: wanted.0,
        wanted_verity: wanted.1,
    })
}

/// False if there is a `meta.json` already.
fn write_metadata(dir: BorrowedFd<'_>, path: &Path, metadata: &Metadata, mode: Verity) -> Result<bool, InitError> {
    let error = |source: io::Error| FileError { action: "write", path: path.join(FILE_NAME), source };
    let json = metadata.to_json().map_err(|source| error(source.into()))?;
    let mut temporary = Temporary::create(dir).map_err(|errno| error(errno.into()))?;
    temporary.write_all(&json).map_err(error)?;
    fsync(temporary.file()).map_err(|errno| error(errno.into()))?;
    temporary.make_read_only().map_err(|errno| error(errno.into()))?;
    if mode == Verity::Required {
        verity::enable(temporary.file().as_fd(), metadata.algorithm).map_err(|source| {
            if verity::is_unsupported(&source) {
                InitError::NoVerity { path: path.to_owned(), file_system: FileSystem::of(dir), source }
            } else {
                error(source).into()
            }
        })?;
    }
    Ok(temporary.link(FILE_NAME).map_err(|errno| error(errno.into()))?)
}
