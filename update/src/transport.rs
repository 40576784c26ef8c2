//! Where images come from: registries and OCI directories.

pub mod reference;
pub mod registry;

use std::io::Read;

use osupdate_core::oci::{BlobDescriptor, ContentDigest, ImageSource, Layout, LayoutError, Platform, SourceError};
use thiserror::Error;

pub use reference::ImageReference;
use registry::{RegistryError, RegistryImage, RegistryOptions};

/// How a source is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceOptions {
    /// HTTP without TLS, if it is a registry.
    pub plain_http: bool,
}

/// Why a source cannot be opened or asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// An OCI layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// What an open source says.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// An image at its origin.
#[derive(Debug)]
pub enum Source {
    /// In a registry.
    Registry(Box<RegistryImage>),
    /// In an OCI layout.
    Layout(Layout),
}

/// Opens what a reference stands for. A registry is not asked before something is fetched.
pub fn open_source(reference: &ImageReference, options: &SourceOptions) -> Result<Source, TransportError> {
    match reference {
        ImageReference::Registry(reference) => {
            let options = RegistryOptions { plain_http: options.plain_http, ..RegistryOptions::default() };
            Ok(Source::Registry(Box::new(RegistryImage::new(reference, &options)?)))
        }
        ImageReference::OciLayout(reference) => {
            Ok(Source::Layout(Layout::open(&reference.path, reference.tag.as_deref(), &Platform::host())?))
        }
    }
}

impl Source {
    /// Digest of the manifest that a pull would store now; tells with little traffic whether there is something new.
    pub fn resolve(&self) -> Result<ContentDigest, TransportError> {
        match self {
            Self::Registry(image) => Ok(image.resolve()?),
            Self::Layout(layout) => Ok(ContentDigest::sha256(&layout.manifest()?)),
        }
    }
}

impl ImageSource for Source {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        match self {
            Self::Registry(image) => ImageSource::manifest(&**image),
            Self::Layout(layout) => layout.manifest(),
        }
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        match self {
            Self::Registry(image) => ImageSource::blob(&**image, descriptor),
            Self::Layout(layout) => layout.blob(descriptor),
        }
    }
}
