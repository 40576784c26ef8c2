//! One image in an archive: what `skopeo copy … oci-archive:`, `docker save`, `podman save` and their like write.
//!
//! Which of the two forms it is, its contents tell. An archive that is both, as a recent `docker save` writes, is taken as
//! an OCI layout, which has the image's own manifest.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use thiserror::Error;

use super::archive::{Archive, IndexError};
use super::docker_archive::{self, DockerArchive, DockerArchiveError};
use super::layout::{self, Layout, LayoutError};
use super::manifest::BlobDescriptor;
use super::platform::Platform;
use super::source::{ImageSource, SourceError};

/// Where the magic number of a tar archive is, and how it begins.
const TAR_MAGIC: (u64, &[u8; 5]) = (257, b"ustar");

/// What an archive is expected to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveForm {
    /// Its contents tell.
    Any,
    /// An OCI image layout.
    Oci,
    /// What `docker save` writes.
    Docker,
}

/// Why an image cannot be found in an archive.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageArchiveError {
    /// It cannot be opened.
    #[error("cannot open {path}", path = path.display())]
    Open {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such file.
    #[error("there is no file {path}, expected the tar archive of an image", path = path.display())]
    NoFile {
        /// The archive.
        path: PathBuf,
    },
    /// It is a directory, or a device.
    #[error("{path} is not a regular file, expected the tar archive of an image", path = path.display())]
    NotFile {
        /// The archive.
        path: PathBuf,
    },
    /// It is compressed.
    #[error(
        "{path} is compressed with {program}, and images are read from the archive where it is; decompress it first: \
         {program} --decompress --keep {path}",
        path = path.display()
    )]
    Compressed {
        /// The archive.
        path: PathBuf,
        /// What decompresses it.
        program: &'static str,
    },
    /// It is not an archive.
    #[error("cannot look into {path}", path = path.display())]
    Index {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: IndexError,
    },
    /// It is the archive of something else.
    #[error("there is no image in {path}: {}", expected(*form), path = path.display())]
    NoImage {
        /// The archive.
        path: PathBuf,
        /// What was looked for.
        form: ArchiveForm,
    },
    /// The OCI layout in it.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// What `docker save` wrote.
    #[error(transparent)]
    Docker(#[from] DockerArchiveError),
}

fn expected(form: ArchiveForm) -> &'static str {
    match form {
        ArchiveForm::Any => "it has neither the file oci-layout nor the file manifest.json of an image archive",
        ArchiveForm::Oci => "it has no file oci-layout, which every OCI archive has",
        ArchiveForm::Docker => "it has no file manifest.json, which every Docker archive has",
    }
}

/// One image in an archive.
#[derive(Debug)]
pub enum ImageArchive {
    /// Of an OCI image layout.
    Oci(Layout),
    /// Of what `docker save` writes.
    Docker(DockerArchive),
}

impl ImageArchive {
    /// Finds the image with this name; without a name, the only one of the archive. Of an image for several platforms, the
    /// one for `platform`. Nothing is unpacked.
    ///
    /// # Errors
    /// When the file is no archive of images, is compressed, or does not have this image.
    pub fn open(
        path: &Path,
        form: ArchiveForm,
        name: Option<&str>,
        platform: &Platform,
    ) -> Result<Self, ImageArchiveError> {
        let file = open_file(path)?;
        if let Some(program) = compressed_with(&file) {
            return Err(ImageArchiveError::Compressed { path: path.to_owned(), program });
        }
        let archive =
            Archive::index(file).map_err(|source| ImageArchiveError::Index { path: path.to_owned(), source })?;
        if form != ArchiveForm::Docker && archive.has(layout::MARKER) {
            return Ok(Self::Oci(Layout::of_files(path, Box::new(archive), name, platform)?));
        }
        if form != ArchiveForm::Oci && archive.has(docker_archive::MARKER) {
            return Ok(Self::Docker(DockerArchive::open(path, archive, name)?));
        }
        Err(ImageArchiveError::NoImage { path: path.to_owned(), form })
    }

    /// Whether a file looks like a tar archive, compressed or not.
    pub fn is_archive(path: &Path) -> bool {
        let Ok(file) = open_file(path) else { return false };
        let (offset, magic) = TAR_MAGIC;
        let mut start = [0; 5];
        compressed_with(&file).is_some() || file.read_exact_at(&mut start, offset).is_ok() && start == *magic
    }
}

/// Opens a file that must be a regular one; a pipe would wait for a writer.
fn open_file(path: &Path) -> Result<File, ImageArchiveError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ImageArchiveError::NoFile { path: path.to_owned() },
        _ => ImageArchiveError::Open { path: path.to_owned(), source },
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(openat(CWD, path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?);
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(file),
        false => Err(ImageArchiveError::NotFile { path: path.to_owned() }),
    }
}

/// The program that decompresses a file; `None` if it is not compressed.
fn compressed_with(file: &File) -> Option<&'static str> {
    let mut start = [0; 6];
    let n = file.read_at(&mut start, 0).ok()?;
    program_of(&start[..n])
}

/// The program that decompresses what begins with these bytes.
pub(super) fn program_of(start: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 4] =
        [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2")];
    MAGIC.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, program)| *program)
}

impl ImageSource for ImageArchive {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        match self {
            Self::Oci(layout) => layout.manifest(),
            Self::Docker(archive) => archive.manifest(),
        }
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        match self {
            Self::Oci(layout) => layout.blob(descriptor),
            Self::Docker(archive) => archive.blob(descriptor),
        }
    }
}
