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
use osupdate_core::published::PublishedSource;
use osupdate_core::repository::{FileError, Repository};
use thiserror::Error;

pub use layout_target::{ArchiveTarget, LayoutTarget, WriteLayoutError};
pub use limits::TransferLimits;
use proxy::{ProxyError, ProxyImage};
pub use reference::ImageReference;
use registry::{RegistryError, RegistryImage, RegistryOptions, TreeImage, TreeOptions};
pub use target::{Target, TargetError, temporary_directory};

use crate::trust::SummaryKeys;

/// How a source is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceOptions {
    /// HTTP without TLS, if it is a registry.
    pub plain_http: bool,
    /// Which image is taken of one for several platforms; `None`: the one for this machine.
    pub platform: Option<Platform>,
    /// How fast and how much is fetched, if it is a registry or a published tree.
    pub limits: TransferLimits,
    /// What is demanded of it if it is a published tree.
    pub tree: TreeOptions,
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
    /// In a published tree.
    Published(Box<TreeImage>),
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
        ImageReference::Published(reference) => {
            let SourceOptions { plain_http, limits, .. } = *options;
            let tree = options.tree.clone();
            let options = RegistryOptions { plain_http, platform, limits, ..RegistryOptions::default() };
            Ok(Source::Published(Box::new(TreeImage::new(reference, &options, tree)?)))
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

impl SourceOptions {
    /// Demands of a published tree that one of these public keys has signed its summary.
    #[must_use]
    pub fn with_summary_key(mut self, pem: Option<String>) -> Self {
        self.tree.summary_key = pem;
        self
    }

    /// Demands of a published tree that it is not older than what was pulled from it into a repository; where keys are demanded,
    /// which must be said before, than what they have signed.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub fn not_older_than(mut self, repository: &Repository, reference: &ImageReference) -> Result<Self, FileError> {
        if let ImageReference::Published(reference) = reference {
            let names = match &self.tree.summary_key {
                None => vec![reference.remembered_by(None)],
                // What is no key is an error when the tree is opened.
                Some(pem) => SummaryKeys::parse(pem)
                    .map(|keys| keys.fingerprints().map(|key| reference.remembered_by(Some(key))).collect())
                    .unwrap_or_default(),
            };
            let mut seen = Vec::new();
            for name in names {
                seen.extend(repository.seen_serial(&name)?);
            }
            self.tree.seen = seen.into_iter().max_by_key(|seen| seen.serial);
        }
        Ok(self)
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
            Self::Published(image) => &**image,
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

    fn published(&self) -> Option<&dyn PublishedSource> {
        self.image().published()
    }
}
