//! Images and artifacts of a repository, put somewhere else.
//!
//! The repository has layers as they are uncompressed, bit for bit, and the documents byte by byte. So an image whose layers are
//! not compressed is pushed as it was pulled; and so is one of which the target has, or can take over, the compressed blobs.
//! Other layers are compressed anew, which makes other bytes of them: the manifest then names other blobs and has another digest.
//! The configuration, the layers' diff_ids, and the digests of the files and of what is booted are the same in any case.

mod manifest;

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, Write};
use std::sync::Arc;

use osupdate_core::Algorithm;
use osupdate_core::observer::{Event, Observer};
use osupdate_core::oci::{
    BlobDescriptor, Compression, Compressor, ContentDigest, ContentHasher, ImageSource, OpenLayerError, SourceError,
    StoreError, Stored, StoredImage, documents, open_layer,
};
use osupdate_core::repository::{MergeError, Repository};
use thiserror::Error;

use crate::seal::{ConfigError, SealedLayer};
use crate::transport::reference::RegistryReference;
use crate::transport::{Target, TargetError, temporary_directory};
pub use manifest::EditError;
use manifest::Manifest;

/// Progress is reported after so many bytes.
const REPORT_BYTES: u64 = 256 << 10;

/// How an image is pushed.
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// How layers are compressed; `None`: as they were when the image was pulled.
    pub compression: Option<Compression>,
    /// Fail rather than give the image another digest.
    pub preserve_digest: bool,
    /// Where the image came from, as its blobs may still be there.
    pub origin: Option<RegistryReference>,
}

/// What became of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerPush {
    /// The target had it.
    Present,
    /// It was sent as it was pulled.
    Sent,
    /// It was compressed anew, and sent.
    Compressed(Compression),
}

impl LayerPush {
    /// In words, for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Sent => "sent",
            Self::Compressed(_) => "compressed",
        }
    }
}

/// A layer at the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedLayer {
    /// Of the layer without compression; of an artifact's, the same as `digest`.
    pub diff_id: ContentDigest,
    /// Of the blob.
    pub digest: ContentDigest,
    /// Of the blob.
    pub size_bytes: u64,
    /// What was done.
    pub push: LayerPush,
}

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the manifest in the repository.
    pub stored_digest: ContentDigest,
    /// Digest of the manifest at the target.
    pub manifest_digest: ContentDigest,
    /// Digest of the configuration, the same at both.
    pub config_digest: ContentDigest,
    /// The layers, the lowest first.
    pub layers: Vec<PushedLayer>,
    /// Bytes that were sent, those of manifest and configuration not counted.
    pub sent_bytes: u64,
}

/// Why an image was not pushed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PushError {
    /// Its documents cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer cannot be opened.
    #[error(transparent)]
    OpenLayer(#[from] OpenLayerError),
    /// A layer cannot be restored.
    #[error("cannot restore layer {diff_id}")]
    Restore {
        /// The layer.
        diff_id: ContentDigest,
        /// Why.
        source: MergeError,
    },
    /// A layer in the repository is not what its name says.
    #[error("layer {diff_id} of the repository is damaged: it has the digest {found}")]
    Damaged {
        /// The layer.
        diff_id: ContentDigest,
        /// What it has.
        found: ContentDigest,
    },
    /// There is no room for a layer.
    #[error("cannot write a layer to a temporary file in {}", temporary_directory().display())]
    Temporary(#[source] io::Error),
    /// The manifest would change.
    #[error("the image would have another digest, as {layers} of its layers must be compressed anew")]
    DigestChanges {
        /// How many.
        layers: usize,
    },
    /// The manifest cannot be changed.
    #[error("cannot change the manifest")]
    Edit(#[from] EditError),
    /// The configuration cannot be changed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A blob cannot be had where the image is from.
    #[error("cannot fetch a layer again, to send it")]
    Fetch(#[source] SourceError),
    /// A blob was not copied.
    #[error("cannot copy blob {digest}")]
    Copy {
        /// The blob.
        digest: ContentDigest,
        /// Why.
        source: io::Error,
    },
    /// A blob is not what it was.
    #[error("blob {digest} has another digest now: {found}")]
    Blob {
        /// The blob.
        digest: ContentDigest,
        /// What it has.
        found: ContentDigest,
    },
    /// The target does not take it.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// Puts an image or artifact under a name somewhere else. What was sent when it fails remains there without a name.
///
/// # Errors
/// When something is missing or damaged in the repository, or the target does not take it.
pub fn push(
    repository: &Repository,
    stored: &Stored,
    target: Target,
    options: &PushOptions,
    observer: &Arc<dyn Observer>,
) -> Result<Pushed, PushError> {
    let (digest, diff_ids) = match stored {
        Stored::Image(image) => (image.manifest_digest, diff_ids(image)),
        Stored::Artifact(artifact) => (artifact.manifest_digest, vec![None; artifact.layers.len()]),
    };
    let (manifest, config) = documents(repository, &digest)?;
    let push = Push { repository, source: None, target, options, observer, sent_bytes: 0 };
    push.run(Manifest::parse(&manifest)?, &config, &diff_ids, None)
}

/// An image that gets a layer on top.
#[allow(missing_debug_implementations, reason = "a source has nothing to show")]
pub struct Sealed<'a> {
    /// The image.
    pub image: &'a StoredImage,
    /// Where it is from, if its layers are there as its manifest has them. Then they stay so; only without a source, what was
    /// compressed is compressed anew.
    pub source: Option<&'a dyn ImageSource>,
    /// The layer with the UKI.
    pub layer: &'a SealedLayer,
    /// More annotations of the manifest.
    pub annotations: &'a [(String, String)],
}

/// Puts an image under a name somewhere else, with a layer on top.
///
/// # Errors
/// As [`push`], and when the source does not deliver.
pub fn push_sealed(
    repository: &Repository,
    sealed: &Sealed<'_>,
    target: Target,
    options: &PushOptions,
    observer: &Arc<dyn Observer>,
) -> Result<Pushed, PushError> {
    let (manifest, config) = documents(repository, &sealed.image.manifest_digest)?;
    let mut manifest = Manifest::parse(&manifest)?;
    for (name, value) in sealed.annotations {
        manifest.annotate(name, value);
    }
    let push = Push { repository, source: sealed.source, target, options, observer, sent_bytes: 0 };
    push.run(manifest, &config, &diff_ids(sealed.image), Some(sealed.layer))
}

fn diff_ids(image: &StoredImage) -> Vec<Option<ContentDigest>> {
    image.layers.iter().map(|(diff_id, _)| Some(*diff_id)).collect()
}

/// What is to be done for a layer.
enum Step {
    /// The target has the blob.
    Nothing { blob: BlobDescriptor, diff_id: ContentDigest },
    /// The blob is the layer without compression.
    Send { blob: BlobDescriptor },
    /// The blob is where the image is from.
    Copy { blob: BlobDescriptor, diff_id: ContentDigest },
    /// A blob is made.
    Compress { diff_id: ContentDigest, compression: Compression },
}

struct Push<'a> {
    repository: &'a Repository,
    source: Option<&'a dyn ImageSource>,
    target: Target,
    options: &'a PushOptions,
    observer: &'a Arc<dyn Observer>,
    sent_bytes: u64,
}

impl Push<'_> {
    fn run(
        mut self,
        mut manifest: Manifest,
        config: &[u8],
        diff_ids: &[Option<ContentDigest>],
        on_top: Option<&SealedLayer>,
    ) -> Result<Pushed, PushError> {
        let stored_digest = manifest.stored_digest();
        let plan = self.plan(&manifest, diff_ids)?;
        let anew = plan.iter().filter(|step| matches!(step, Step::Compress { .. })).count();
        if self.options.preserve_digest && anew > 0 {
            return Err(PushError::DigestChanges { layers: anew });
        }
        let mut layers = Vec::with_capacity(plan.len() + 1);
        for (number, step) in plan.into_iter().enumerate() {
            let layer = self.layer(step)?;
            if let LayerPush::Compressed(compression) = layer.push {
                manifest.replace_layer(number, compression, &layer.digest, layer.size_bytes)?;
            }
            layers.push(layer);
        }
        let own_config;
        let config = match on_top {
            None => config,
            Some(on_top) => {
                own_config = on_top.add_to_config(config)?;
                layers.push(self.add(&mut manifest, on_top)?);
                manifest.replace_config(&ContentDigest::sha256(&own_config), own_config.len() as u64);
                &own_config
            }
        };
        self.document(manifest.config(), config)?;
        let (config_digest, media_type) = (manifest.config().digest, manifest.media_type().to_owned());
        let bytes = manifest.into_bytes();
        self.target.put_manifest(&bytes, &media_type)?;
        let (manifest_digest, sent_bytes) = (ContentDigest::sha256(&bytes), self.sent_bytes);
        Ok(Pushed { stored_digest, manifest_digest, config_digest, layers, sent_bytes })
    }

    /// Sends a layer that comes on top of the others, compressed as these are.
    fn add(&mut self, manifest: &mut Manifest, layer: &SealedLayer) -> Result<PushedLayer, PushError> {
        let last = manifest.layers().last().and_then(|last| Compression::of_media_type(&last.media_type));
        let compression = self.options.compression.or(last).unwrap_or(Compression::Gzip);
        let made = self.make(compression, &layer.diff_id, "compressing the UKI", |tar| {
            tar.write_all(&layer.tar).map_err(PushError::Temporary)
        })?;
        let BlobDescriptor { digest, size, .. } = made.blob;
        if !self.target.has_blob(&digest, None)? {
            self.send(&made)?;
        }
        manifest.add_layer(compression, &digest, size)?;
        Ok(PushedLayer { diff_id: layer.diff_id, digest, size_bytes: size, push: LayerPush::Compressed(compression) })
    }

    fn plan(&self, manifest: &Manifest, diff_ids: &[Option<ContentDigest>]) -> Result<Vec<Step>, PushError> {
        let mut plan = Vec::with_capacity(diff_ids.len());
        for (blob, diff_id) in manifest.layers().iter().zip(diff_ids) {
            // What an artifact has is not looked into.
            let now = match diff_id {
                Some(_) => Compression::of_media_type(&blob.media_type).unwrap_or(Compression::None),
                None => Compression::None,
            };
            let wanted = diff_id.and(self.options.compression).unwrap_or(now);
            let (diff_id, blob) = (diff_id.unwrap_or(blob.digest), blob.clone());
            plan.push(if wanted == now && self.target.has_blob(&blob.digest, self.options.origin.as_ref())? {
                Step::Nothing { blob, diff_id }
            } else if wanted == now && blob.digest == diff_id {
                Step::Send { blob }
            } else if wanted == now && self.source.is_some() {
                Step::Copy { blob, diff_id }
            } else {
                Step::Compress { diff_id, compression: wanted }
            });
        }
        Ok(plan)
    }

    fn layer(&mut self, step: Step) -> Result<PushedLayer, PushError> {
        let (diff_id, compression) = match step {
            Step::Nothing { blob, diff_id } => {
                let what = format!("layer {}", diff_id.short());
                self.observer.event(Event::Skipped { id: &blob.digest.to_string(), what: &what });
                let (digest, size_bytes) = (blob.digest, blob.size);
                return Ok(PushedLayer { diff_id, digest, size_bytes, push: LayerPush::Present });
            }
            Step::Copy { blob, diff_id } => {
                let made = self.copy(blob)?;
                self.send(&made)?;
                let (digest, size_bytes) = (made.blob.digest, made.blob.size);
                return Ok(PushedLayer { diff_id, digest, size_bytes, push: LayerPush::Sent });
            }
            Step::Send { blob } => (blob.digest, None),
            Step::Compress { diff_id, compression } => (diff_id, Some(compression)),
        };
        let made = self.restore(&diff_id, compression.unwrap_or(Compression::None))?;
        let push = compression.map_or(LayerPush::Sent, LayerPush::Compressed);
        // That of an earlier push.
        if compression.is_none() || !self.target.has_blob(&made.blob.digest, None)? {
            self.send(&made)?;
        }
        Ok(PushedLayer { diff_id, digest: made.blob.digest, size_bytes: made.blob.size, push })
    }

    /// Writes a layer of the repository to a temporary file.
    fn restore(&self, diff_id: &ContentDigest, compression: Compression) -> Result<Made, PushError> {
        let layer = open_layer(self.repository, diff_id)?;
        let what = format!("reading layer {}", diff_id.short());
        self.make(compression, diff_id, &what, |tar| {
            let result = self.repository.write_merged(&layer.stream, tar);
            result.map_err(|source| PushError::Restore { diff_id: *diff_id, source })?;
            Ok(())
        })
    }

    /// Makes a blob of the layer that `write` writes.
    fn make(
        &self,
        compression: Compression,
        diff_id: &ContentDigest,
        what: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<(), PushError>,
    ) -> Result<Made, PushError> {
        let file = tempfile::tempfile_in(temporary_directory()).map_err(PushError::Temporary)?;
        let out = BufWriter::with_capacity(128 << 10, file);
        let out = Counted { out, hasher: ContentHasher::new(Algorithm::Sha256), bytes: 0, observer: None };
        let compressor = Compressor::new(compression, out).map_err(PushError::Temporary)?;
        let id = diff_id.to_string();
        self.observer.event(Event::Started { id: &id, what, total_bytes: None });
        let observer = Some((id.as_str(), &**self.observer));
        let mut tar = Counted { out: compressor, hasher: ContentHasher::new(diff_id.algorithm()), bytes: 0, observer };
        write(&mut tar)?;
        let found = tar.hasher.finish();
        if found != *diff_id {
            return Err(PushError::Damaged { diff_id: *diff_id, found });
        }
        let Counted { out, hasher, bytes, .. } = tar.out.finish().map_err(PushError::Temporary)?;
        let file = out.into_inner().map_err(|error| PushError::Temporary(error.into_error()))?;
        self.observer.event(Event::Finished { id: &id });
        // An artifact's blob may be named by another hash.
        let digest = if compression == Compression::None { *diff_id } else { hasher.finish() };
        Ok(Made { blob: BlobDescriptor { media_type: String::new(), digest, size: bytes }, file })
    }

    /// Writes a blob to a temporary file as it is where the image is from.
    fn copy(&self, blob: BlobDescriptor) -> Result<Made, PushError> {
        let source = self.source.expect("a copy has a source");
        let file = tempfile::tempfile_in(temporary_directory()).map_err(PushError::Temporary)?;
        let id = blob.digest.to_string();
        let what = format!("fetching blob {}", blob.digest.short());
        self.observer.event(Event::Started { id: &id, what: &what, total_bytes: Some(blob.size) });
        let mut out = Counted {
            out: BufWriter::with_capacity(128 << 10, file),
            hasher: ContentHasher::new(blob.digest.algorithm()),
            bytes: 0,
            observer: Some((id.as_str(), &**self.observer)),
        };
        let mut contents = source.blob(&blob).map_err(PushError::Fetch)?.take(blob.size + 1);
        io::copy(&mut contents, &mut out).map_err(|source| PushError::Copy { digest: blob.digest, source })?;
        let (file, found) = (out.out.into_inner(), out.hasher.finish());
        if found != blob.digest || out.bytes != blob.size {
            return Err(PushError::Blob { digest: blob.digest, found });
        }
        self.observer.event(Event::Finished { id: &id });
        Ok(Made { blob, file: file.map_err(|error| PushError::Temporary(error.into_error()))? })
    }

    fn send(&mut self, Made { blob, file }: &Made) -> Result<(), PushError> {
        let id = blob.digest.to_string();
        let what = format!("blob {}", blob.digest.short());
        self.observer.event(Event::Started { id: &id, what: &what, total_bytes: Some(blob.size) });
        self.target.put_blob(blob, file, self.observer)?;
        self.observer.event(Event::Finished { id: &id });
        self.sent_bytes += blob.size;
        Ok(())
    }

    /// Sends a configuration, unless it is there.
    fn document(&self, blob: &BlobDescriptor, bytes: &[u8]) -> Result<(), PushError> {
        if self.target.has_blob(&blob.digest, self.options.origin.as_ref())? {
            return Ok(());
        }
        let mut file = tempfile::tempfile_in(temporary_directory()).map_err(PushError::Temporary)?;
        file.write_all(bytes).and_then(|()| file.rewind()).map_err(PushError::Temporary)?;
        Ok(self.target.put_blob(blob, &file, self.observer)?)
    }
}

/// A blob in a temporary file.
struct Made {
    blob: BlobDescriptor,
    file: File,
}

/// Writes what it hashes and counts.
struct Counted<'a, W: Write> {
    out: W,
    hasher: ContentHasher,
    bytes: u64,
    /// Is told of progress.
    observer: Option<(&'a str, &'a dyn Observer)>,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        let before = self.bytes;
        self.bytes += written as u64;
        if let Some((id, observer)) = self.observer.filter(|_| before / REPORT_BYTES != self.bytes / REPORT_BYTES) {
            observer.event(Event::Progress { id, done_bytes: self.bytes });
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
