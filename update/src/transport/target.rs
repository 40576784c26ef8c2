//! Where images are put: registries, directories, archives.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use osupdate_core::observer::Observer;
use osupdate_core::oci::{ArchiveForm, BlobDescriptor, ContentDigest};
use thiserror::Error;

use super::layout_target::{ArchiveTarget, LayoutTarget, WriteLayoutError};
use super::reference::{ImageReference, RegistryReference};
use super::registry::{RegistryError, RegistryOptions, RegistryTarget};

/// Why an image cannot be put somewhere.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Nothing can be put there.
    #[error("images are not written to {0}; where they are: docker://, oci:, oci-archive:")]
    Transport(ImageReference),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A directory or archive.
    #[error(transparent)]
    Layout(#[from] WriteLayoutError),
}

/// A name under which an image is put.
#[derive(Debug)]
pub enum Target {
    /// In a registry.
    Registry(Box<RegistryTarget>),
    /// In an OCI layout.
    Layout(LayoutTarget),
    /// In an archive of one.
    Archive(ArchiveTarget),
}

impl Target {
    /// Opens the place that a reference names. A registry is not asked before something is sent.
    ///
    /// # Errors
    /// When nothing can be put there.
    pub fn open(reference: &ImageReference, plain_http: bool) -> Result<Self, TargetError> {
        match reference {
            ImageReference::Registry(reference) => {
                let options = RegistryOptions { plain_http, ..RegistryOptions::default() };
                Ok(Self::Registry(Box::new(RegistryTarget::new(reference, &options)?)))
            }
            ImageReference::OciLayout(layout) => {
                Ok(Self::Layout(LayoutTarget::open(&layout.path, layout.tag.as_deref())?))
            }
            ImageReference::Archive(archive) if archive.form != ArchiveForm::Docker => {
                Ok(Self::Archive(ArchiveTarget::open(&archive.path, archive.name.as_deref())?))
            }
            other => Err(TargetError::Transport(other.clone())),
        }
    }

    /// Whether a blob is there, or can be had there without being sent: from `origin`, if that is in the same registry.
    ///
    /// # Errors
    /// When the target does not tell.
    pub fn has_blob(&self, digest: &ContentDigest, origin: Option<&RegistryReference>) -> Result<bool, TargetError> {
        match self {
            Self::Registry(registry) => {
                if registry.has_blob(digest)? {
                    return Ok(true);
                }
                match origin.filter(|origin| registry.is_beside(origin)) {
                    Some(origin) => Ok(registry.mount_blob(digest, &origin.repository)?),
                    None => Ok(false),
                }
            }
            Self::Layout(layout) => Ok(layout.has_blob(digest)),
            Self::Archive(archive) => Ok(archive.layout.has_blob(digest)),
        }
    }

    /// Puts a blob there: the contents of a file, which have been verified.
    ///
    /// # Errors
    /// When it is not taken.
    pub fn put_blob(
        &self,
        blob: &BlobDescriptor,
        contents: &File,
        observer: &Arc<dyn Observer>,
    ) -> Result<(), TargetError> {
        match self {
            Self::Registry(registry) => registry.put_blob(blob, contents, observer)?,
            Self::Layout(layout) => layout.put_blob(&blob.digest, contents)?,
            Self::Archive(archive) => archive.layout.put_blob(&blob.digest, contents)?,
        }
        Ok(())
    }

    /// Puts a manifest there, under the name of the image; the last thing to do.
    ///
    /// # Errors
    /// When it is not taken.
    pub fn put_manifest(self, manifest: &[u8], media_type: &str) -> Result<(), TargetError> {
        match self {
            Self::Registry(registry) => registry.put_manifest(manifest, media_type)?,
            Self::Layout(layout) => layout.put_manifest(manifest, media_type)?,
            Self::Archive(archive) => archive.put_manifest(manifest, media_type)?,
        }
        Ok(())
    }
}

/// Where large temporary files go: `$TMPDIR`, else `/var/tmp`.
pub fn temporary_directory() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}
