//! Where an image is fetched from.

use std::error::Error;
use std::io::Read;
use std::num::NonZeroUsize;

use super::digest::ContentDigest;
use super::manifest::BlobDescriptor;
use crate::published::PublishedSource;

/// Why a source could not deliver.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SourceError(Box<dyn Error + Send + Sync>);

impl SourceError {
    /// Wraps what went wrong; its text should name the thing that was fetched.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// What went wrong, for those who know the source.
    pub fn get_ref(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

/// One image at its origin: a registry, a directory. Called from several threads at once.
pub trait ImageSource: Sync {
    /// The bytes of the image's manifest. The platform has been selected, and if the reference has a digest, the bytes
    /// have been checked against it.
    ///
    /// # Errors
    /// When it cannot be fetched.
    fn manifest(&self) -> Result<Vec<u8>, SourceError>;

    /// A blob's bytes as they are stored. The caller verifies their number and digest.
    ///
    /// # Errors
    /// When the transfer cannot begin.
    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError>;

    /// A layer's bytes: its blob, unless the origin has kept only what it unpacked. The caller verifies them.
    ///
    /// # Errors
    /// When the transfer cannot begin.
    fn layer(&self, descriptor: &BlobDescriptor, _diff_id: &ContentDigest) -> Result<LayerBytes<'_>, SourceError> {
        self.blob(descriptor).map(LayerBytes::Blob)
    }

    /// The same source if it is far away: then layers are fetched from it by [`RemoteSource::blob_from`], and what arrives is
    /// kept for the case that the pull is interrupted.
    fn remote(&self) -> Option<&dyn RemoteSource> {
        None
    }

    /// The same source if it is a published tree: then layers are not fetched from it but rebuilt.
    fn published(&self) -> Option<&dyn PublishedSource> {
        None
    }
}

/// A layer as a source delivers it.
#[allow(missing_debug_implementations, reason = "bytes that were not read have nothing to show")]
pub enum LayerBytes<'a> {
    /// The blob as the manifest describes it.
    Blob(Box<dyn Read + Send + 'a>),
    /// The tar archive without compression: the size and digest in the manifest may be of something that is not there, and
    /// the diff_id alone tells whether it is right.
    Uncompressed(Box<dyn Read + Send + 'a>),
}

/// A source from which nothing should be fetched twice.
pub trait RemoteSource: Sync {
    /// A blob's bytes from byte `offset` on, which is less than its size. The caller has what comes before, and verifies
    /// number and digest of all bytes together.
    ///
    /// # Errors
    /// When the transfer cannot begin.
    fn blob_from(&self, descriptor: &BlobDescriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, SourceError>;

    /// Is told that a blob that it sent from its first byte on is not the one that it should be. Whether somebody else would send
    /// it now, so that it is worth another attempt; not without end for one blob.
    fn blame(&self, _descriptor: &BlobDescriptor) -> bool {
        false
    }

    /// How many blobs should be fetched at once; `None` leaves it to the caller.
    fn connections(&self) -> Option<NonZeroUsize> {
        None
    }
}

/// A source whose manifest was fetched and looked at: what is pulled then is what was looked at, even if a tag is moved in
/// between.
#[allow(missing_debug_implementations, reason = "a source has nothing to show")]
pub struct FetchedManifest<'a> {
    source: &'a dyn ImageSource,
    manifest: Vec<u8>,
}

impl<'a> FetchedManifest<'a> {
    /// Fetches the manifest.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub fn fetch(source: &'a dyn ImageSource) -> Result<Self, SourceError> {
        Ok(Self { source, manifest: source.manifest()? })
    }

    /// The manifest.
    pub fn bytes(&self) -> &[u8] {
        &self.manifest
    }
}

impl ImageSource for FetchedManifest<'_> {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        Ok(self.manifest.clone())
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.source.blob(descriptor)
    }

    fn layer(&self, descriptor: &BlobDescriptor, diff_id: &ContentDigest) -> Result<LayerBytes<'_>, SourceError> {
        self.source.layer(descriptor, diff_id)
    }

    fn remote(&self) -> Option<&dyn RemoteSource> {
        self.source.remote()
    }

    fn published(&self) -> Option<&dyn PublishedSource> {
        self.source.published()
    }
}
