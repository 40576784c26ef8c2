//! One image in a directory of the form that `skopeo copy … dir:` writes.
//!
//! ```text
//! version               "Directory Transport Version: 1.1"
//! manifest.json         the manifest, or a list of manifests
//! <hex>.manifest.json   the manifests of a list
//! <hex>                 the blobs
//! ```

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::files::{Directory, Files as _, read_bounded};
use super::manifest::{BlobDescriptor, CheckedArtifact, MANIFEST_MAX_BYTES, ManifestError, parse_index};
use super::platform::Platform;
use super::source::{ImageSource, SourceError};

/// The manifest's file.
const MANIFEST: &str = "manifest.json";

/// Why there is no image in a directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageDirectoryError {
    /// It is not there, or something else.
    #[error(
        "{path} is not the directory of an image, there is no manifest.json in it, as skopeo copy … dir:{path} writes",
        path = path.display()
    )]
    NotImage {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of it cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest for this machine cannot be found.
    #[error("cannot select an image in {path}", path = path.display())]
    Manifest {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// A manifest is not what the list says.
    #[error("{path} is damaged, it does not match its digest", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// One image in a directory.
#[derive(Debug)]
pub struct ImageDirectory {
    path: PathBuf,
    files: Directory,
    manifest: Vec<u8>,
}

impl ImageDirectory {
    /// Opens the image in a directory. Of an image for several platforms, the one for `platform`.
    ///
    /// # Errors
    /// When there is no image, or none for the platform.
    pub fn open(path: &Path, platform: &Platform) -> Result<Self, ImageDirectoryError> {
        let not_image = |source| ImageDirectoryError::NotImage { path: path.to_owned(), source };
        let failed = |source| ImageDirectoryError::Manifest { path: path.to_owned(), source };
        let files = Directory::open(path).map_err(not_image)?;
        let manifest = read(&files, MANIFEST).map_err(not_image)?;
        if !matches!(CheckedArtifact::parse(&manifest), Err(ManifestError::Index)) {
            return Ok(Self { path: path.to_owned(), files, manifest });
        }
        let index = parse_index(&manifest).map_err(failed)?;
        let selected = platform.select(index.manifests()).map_err(failed)?;
        let selected = BlobDescriptor::try_from(selected)
            .map_err(|source| failed(ManifestError::Digest { document: "index", source }))?;
        let name = format!("{}.{MANIFEST}", selected.digest.hex());
        let of_file = || path.join(&name);
        let manifest = read(&files, &name).map_err(|source| ImageDirectoryError::Read { path: of_file(), source })?;
        if manifest.len() as u64 != selected.size || !selected.digest.matches(&manifest) {
            return Err(ImageDirectoryError::Damaged { path: of_file() });
        }
        Ok(Self { path: path.to_owned(), files, manifest })
    }
}

fn read(files: &Directory, name: &str) -> io::Result<Vec<u8>> {
    read_bounded(files.open(name)?, MANIFEST_MAX_BYTES)
}

impl ImageSource for ImageDirectory {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        Ok(self.manifest.clone())
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        let name = descriptor.digest.hex();
        let failed = |source| ImageDirectoryError::Read { path: self.path.join(&name), source };
        self.files.open(&name).map_err(|source| SourceError::new(failed(source)))
    }
}
