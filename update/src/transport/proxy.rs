//! Images that other programs keep on this machine, read through skopeo: `containers-storage:` and `docker-daemon:`.
//!
//! These programs keep layers unpacked or uncompressed, whatever the manifest says of them. So layers are asked for by
//! their diff_ids, and these are what they are verified by: the manifest names the configuration by its digest, and that
//! the diff_ids. For an image of Docker's types skopeo makes an OCI manifest and configuration, which then are the image's;
//! any other manifest is the one that the image was pulled or built with.
//!
//! The protocol's client is asynchronous. It runs in a runtime of its own, and all that leaves this module is a blocking
//! reader.

use std::io::{self, Read};
use std::sync::Arc;

use containers_image_proxy::oci_spec::image::Digest;
use containers_image_proxy::{Error, ImageProxy, OpenedImage};
use osupdate_core::oci::{
    BlobDescriptor, ContentDigest, ImageSource, LayerBytes, MANIFEST_MAX_BYTES, ManifestError, SourceError,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use super::reference::{LocalReference, LocalTransport};

/// Bytes that are handed over at once.
const CHUNK_BYTES: usize = 128 << 10;
/// Most pieces that wait to be read.
const CHUNKS_WAITING: usize = 4;

/// Why an image cannot be read through skopeo.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// There is no skopeo.
    #[error("skopeo is not installed, and images of {transport} are read with it")]
    NoSkopeo {
        /// Who keeps the image.
        transport: LocalTransport,
    },
    /// skopeo does not speak the protocol.
    #[error("skopeo is too old: it speaks version {found} of the protocol for images, at least {needed} is needed")]
    TooOld {
        /// Its version.
        found: String,
        /// The least.
        needed: String,
    },
    /// The image cannot be opened.
    #[error("skopeo cannot open {reference}")]
    Open {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// The manifest cannot be used.
    #[error("the manifest of {reference} cannot be used")]
    Manifest {
        /// The image.
        reference: String,
        /// Why.
        source: ManifestError,
    },
    /// A part of the image cannot be read.
    #[error("skopeo cannot read {what} of {reference}")]
    Read {
        /// The image.
        reference: String,
        /// The part.
        what: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// The asynchronous part cannot be started.
    #[error("cannot start a thread for skopeo")]
    Runtime(#[source] io::Error),
}

impl ProxyError {
    /// The next step for the user, in the imperative.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoSkopeo { .. } => Some("install the package skopeo".to_owned()),
            Self::TooOld { .. } => Some("install a newer version of the package skopeo".to_owned()),
            _ => None,
        }
    }
}

/// An image that another program keeps on this machine.
#[derive(Debug)]
pub struct ProxyImage {
    reference: String,
    manifest: Vec<u8>,
    image: Arc<OpenedImage>,
    proxy: Arc<ImageProxy>,
    /// `None` while this is dropped.
    runtime: Option<Runtime>,
}

impl ProxyImage {
    /// Starts skopeo and opens the image.
    pub fn open(reference: &LocalReference) -> Result<Self, ProxyError> {
        let transport = reference.transport;
        let runtime = Builder::new_multi_thread().worker_threads(1).build().map_err(ProxyError::Runtime)?;
        let reference = reference.to_string();
        let failed = |source| ProxyError::Open { reference: reference.clone(), source: Box::new(source) };
        let (proxy, image, manifest) = runtime.block_on(async {
            let proxy = ImageProxy::new().await.map_err(|error| match error {
                Error::SkopeoSpawnError(error) if error.kind() == io::ErrorKind::NotFound => {
                    ProxyError::NoSkopeo { transport }
                }
                Error::ProxyTooOld { requested_version, found_version } => {
                    ProxyError::TooOld { found: found_version.into(), needed: requested_version.into() }
                }
                other => failed(other),
            })?;
            let image = proxy.open_image(&reference).await.map_err(failed)?;
            let (_, manifest) = proxy.fetch_manifest_raw_oci(&image).await.map_err(failed)?;
            Ok((proxy, image, manifest))
        })?;
        let size = manifest.len() as u64;
        if size > MANIFEST_MAX_BYTES {
            let source = ManifestError::TooLarge { document: "manifest", size, max: MANIFEST_MAX_BYTES };
            return Err(ProxyError::Manifest { reference, source });
        }
        Ok(Self { reference, manifest, image: Arc::new(image), proxy: Arc::new(proxy), runtime: Some(runtime) })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until this is dropped")
    }

    /// Begins to read a blob. Without a size, the bytes alone tell whether they are complete.
    fn read(&self, digest: &ContentDigest, size: Option<u64>) -> Result<Chunks, ProxyError> {
        let what = format!("blob {digest}");
        let reference = self.reference.clone();
        let failed = move |source| ProxyError::Read {
            reference: reference.clone(),
            what: what.clone(),
            source: Box::new(source),
        };
        let digest: Digest =
            digest.to_string().parse().map_err(|error: containers_image_proxy::oci_spec::OciSpecError| {
                failed(Error::Other(error.to_string().into()))
            })?;
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
        let (proxy, image) = (Arc::clone(&self.proxy), Arc::clone(&self.image));
        self.runtime().spawn(async move {
            if let Err(error) = transfer(&proxy, &image, &digest, size, &sender).await {
                // Nobody reads any more.
                drop(sender.send(Err(io::Error::other(failed(error)))).await);
            }
        });
        Ok(Chunks { receiver, chunk: io::Cursor::new(Vec::new()) })
    }

    /// The configuration: as skopeo has made it, if that is what the manifest names, else the blob.
    fn config(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, ProxyError> {
        let config = self.runtime().block_on(self.proxy.fetch_config_raw(&self.image));
        match config {
            Ok(config) if descriptor.digest.matches(&config) => Ok(Box::new(io::Cursor::new(config))),
            _ => Ok(Box::new(self.read(&descriptor.digest, Some(descriptor.size))?)),
        }
    }
}

impl ImageSource for ProxyImage {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        Ok(self.manifest.clone())
    }

    /// Only configurations are read in this way.
    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.config(descriptor).map_err(SourceError::new)
    }

    fn layer(&self, descriptor: &BlobDescriptor, diff_id: &ContentDigest) -> Result<LayerBytes<'_>, SourceError> {
        let size = (descriptor.digest == *diff_id).then_some(descriptor.size);
        let chunks = self.read(diff_id, size).map_err(SourceError::new)?;
        Ok(LayerBytes::Uncompressed(Box::new(chunks)))
    }
}

impl Drop for ProxyImage {
    fn drop(&mut self) {
        // skopeo ends when its socket is closed; there is no reason to wait for that.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Hands over a blob piece by piece.
async fn transfer(
    proxy: &ImageProxy,
    image: &OpenedImage,
    digest: &Digest,
    size: Option<u64>,
    sender: &mpsc::Sender<io::Result<Vec<u8>>>,
) -> Result<(), Error> {
    if proxy.supports_get_raw_blob() {
        let (_, file, end) = proxy.get_raw_blob(image, digest).await?;
        let (sent, end) = tokio::join!(pump(file, sender), end);
        sent?;
        return Ok(end?);
    }
    let (reader, end) = proxy.get_blob(image, digest, size.unwrap_or(0)).await?;
    let (sent, end) = tokio::join!(pump(reader, sender), end);
    sent?;
    match (end, size) {
        // This version of the protocol must be told the size, and complains of another one. The diff_id will tell.
        (Err(error), None) => tracing::debug!("skopeo says of {digest}, whose size is not known: {error}, ignoring"),
        (end, _) => end?,
    }
    Ok(())
}

/// Sends what a reader gives, until its end or until nobody wants more.
async fn pump(mut reader: impl AsyncRead + Unpin, sender: &mpsc::Sender<io::Result<Vec<u8>>>) -> io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let mut part = (&mut reader).take(CHUNK_BYTES as u64);
        while part.read_buf(&mut chunk).await? > 0 {}
        if chunk.is_empty() || sender.send(Ok(chunk)).await.is_err() {
            return Ok(());
        }
    }
}

/// A blob on its way from skopeo.
struct Chunks {
    receiver: mpsc::Receiver<io::Result<Vec<u8>>>,
    chunk: io::Cursor<Vec<u8>>,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = Read::read(&mut self.chunk, buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = io::Cursor::new(chunk?),
                None => return Ok(0),
            }
        }
    }
}
