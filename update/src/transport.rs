//! Where images come from: registries, directories, archives, and what other programs keep on this machine.

mod layout_target;
pub mod limits;
pub mod proxy;
pub mod reference;
pub mod registry;
mod target;

use std::io::Read;

use osupdate_core::oci::{
    BlobDescriptor, ContentDigest, ImageArchive, ImageArchiveError, ImageDirectory, ImageDirectoryError, ImageSource,
    LayerBytes, Layout, LayoutError, Platform, RemoteSource, SourceError,
};
use thiserror::Error;

pub use layout_target::{ArchiveTarget, LayoutTarget, WriteLayoutError};
pub use limits::TransferLimits;
use proxy::{ProxyError, ProxyImage};
pub use reference::ImageReference;
use registry::{RegistryError, RegistryImage, RegistryOptions};
pub use target::{Target, TargetError, temporary_directory};

/// How a source is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceOptions {
    /// HTTP without TLS, if it is a registry.
    pub plain_http: bool,
    /// Which image is taken of one for several platforms; `None`: the one for this machine.
    pub platform: Option<Platform>,
    /// How fast and how much is fetched, if it is a registry.
    pub limits: TransferLimits,
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
    /// An archive.
    #[error(transparent)]
    Archive(#[from] ImageArchiveError),
    /// A directory of blobs.
    #[error(transparent)]
    Directory(#[from] ImageDirectoryError),
    /// What another program keeps.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
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
    /// In an archive.
    Archive(Box<ImageArchive>),
    /// In a directory of blobs.
    Directory(ImageDirectory),
    /// Kept by another program.
    Proxy(Box<ProxyImage>),
}

/// Opens what a reference stands for. A registry is not asked before something is fetched.
pub fn open_source(reference: &ImageReference, options: &SourceOptions) -> Result<Source, TransportError> {
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    match reference {
        ImageReference::Registry(reference) => {
            let SourceOptions { plain_http, limits, .. } = *options;
            let options = RegistryOptions { plain_http, platform, limits, ..RegistryOptions::default() };
            Ok(Source::Registry(Box::new(RegistryImage::new(reference, &options)?)))
        }
        ImageReference::OciLayout(reference) => {
            Ok(Source::Layout(Layout::open(&reference.path, reference.tag.as_deref(), &platform)?))
        }
        ImageReference::Archive(reference) => {
            let name = reference.name.as_deref();
            let archive = ImageArchive::open(&reference.path, reference.form, name, &platform)?;
            Ok(Source::Archive(Box::new(archive)))
        }
        ImageReference::Directory(path) => Ok(Source::Directory(ImageDirectory::open(path, &platform)?)),
        ImageReference::Local(reference) => Ok(Source::Proxy(Box::new(ProxyImage::open(reference)?))),
    }
}

impl Source {
    /// Digest of the manifest that a pull would store now; tells with little traffic whether there is something new.
    pub fn resolve(&self) -> Result<ContentDigest, TransportError> {
        match self {
            Self::Registry(image) => Ok(image.resolve()?),
            others => Ok(ContentDigest::sha256(&others.image().manifest()?)),
        }
    }

    fn image(&self) -> &dyn ImageSource {
        match self {
            Self::Registry(image) => &**image,
            Self::Layout(layout) => layout,
            Self::Archive(archive) => &**archive,
            Self::Directory(directory) => directory,
            Self::Proxy(image) => &**image,
        }
    }
}

impl ImageSource for Source {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        self.image().manifest()
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.image().blob(descriptor)
    }

    fn layer(&self, descriptor: &BlobDescriptor, diff_id: &ContentDigest) -> Result<LayerBytes<'_>, SourceError> {
        self.image().layer(descriptor, diff_id)
    }

    fn remote(&self) -> Option<&dyn RemoteSource> {
        self.image().remote()
    }
}
