//! One layer of the repository: looked at, restored, or imported by itself.

use std::io::Read;
use std::sync::atomic::AtomicBool;

use thiserror::Error;

use super::apply::TreeBuilder;
use super::digest::ContentDigest;
use super::layer::{self, LayerError, StoredLayerError};
use super::proof;
use super::store::layer_name;
use crate::digest::Digest;
use crate::observer::Observer;
use crate::repository::{FileError, NotWritable, ObjectError, PublishError, Repository, StreamError};
use crate::splitstream::{Chunk, Reader};
use crate::tree::Tree;

/// Why a layer cannot be looked at.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenLayerError {
    /// There is none.
    #[error("there is no layer {diff_id} in the repository")]
    NotFound {
        /// What it should have been.
        diff_id: ContentDigest,
    },
    /// Its stream cannot be opened.
    #[error("cannot open layer {diff_id}")]
    Stream {
        /// The layer.
        diff_id: ContentDigest,
        /// Why.
        source: Box<StreamError>,
    },
    /// Its name cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a layer was not imported by itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportLayerError {
    /// It is another one.
    #[error("the archive has the digest {actual}, not {diff_id}")]
    Digest {
        /// What it should have been.
        diff_id: ContentDigest,
        /// What it is.
        actual: ContentDigest,
    },
    /// It is not a good layer.
    #[error("cannot import layer {diff_id}")]
    Layer {
        /// What it should have been.
        diff_id: ContentDigest,
        /// What is wrong.
        source: LayerError,
    },
    /// The repository may not be changed.
    #[error(transparent)]
    NotWritable(#[from] NotWritable),
    /// The layer was not named.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// A layer that is in the repository.
#[derive(Debug)]
pub struct StoredLayer {
    /// Digest of the uncompressed layer.
    pub diff_id: ContentDigest,
    /// Object of its split stream.
    pub digest: Digest,
    /// Its split stream.
    pub stream: Reader,
}

/// What a layer consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerFacts {
    /// Entries of the archive, those that remove files included.
    pub entries: u64,
    /// Size of the uncompressed archive in bytes.
    pub size_bytes: u64,
    /// Contents that are objects, as often as they are in the archive.
    pub external_objects: u64,
    /// Size of these in bytes.
    pub external_bytes: u64,
    /// Bytes that are in the split stream itself: headers, small files, padding.
    pub inline_bytes: u64,
}

/// Opens a layer of the repository.
///
/// # Errors
/// [`OpenLayerError::NotFound`] if there is none.
pub fn open_layer(repository: &Repository, diff_id: &ContentDigest) -> Result<StoredLayer, OpenLayerError> {
    let diff_id = *diff_id;
    let digest = repository.stream(&layer_name(&diff_id))?.ok_or(OpenLayerError::NotFound { diff_id })?;
    // Layers of artifacts are blobs of any type.
    let stream = repository
        .open_stream(&digest, None)
        .map_err(|source| OpenLayerError::Stream { diff_id, source: Box::new(source) })?;
    Ok(StoredLayer { diff_id, digest, stream })
}

impl StoredLayer {
    /// Counts what the layer consists of; the contents of files are not read.
    ///
    /// # Errors
    /// When the layer is damaged, or not an archive.
    pub fn facts(&self, repository: &Repository) -> Result<LayerFacts, StoredLayerError> {
        let mut facts = LayerFacts::default();
        layer::for_each_entry(repository, &self.stream, |_| {
            facts.entries += 1;
            Ok(())
        })?;
        for chunk in self.stream.chunks() {
            match chunk? {
                Chunk::Inline(bytes) => facts.inline_bytes += bytes.len() as u64,
                Chunk::External(digest) => {
                    facts.external_objects += 1;
                    let missing = ObjectError::NotFound { digest };
                    facts.external_bytes +=
                        repository.object_size(&digest).map_err(ObjectError::from)?.ok_or(missing)?;
                }
            }
        }
        facts.size_bytes = facts.inline_bytes + facts.external_bytes;
        Ok(facts)
    }

    /// The files that the layer has, with all their extended attributes, and its whiteouts (`.wh.NAME`) as files.
    ///
    /// # Errors
    /// When the layer is damaged, or a hard link in it leads to a lower layer.
    pub fn tree(&self, repository: &Repository) -> Result<Tree, StoredLayerError> {
        let mut builder = TreeBuilder::new(None).keeping_whiteouts();
        layer::apply(repository, &self.digest, &mut builder)?;
        Ok(builder.finish())
    }
}

/// Imports an uncompressed layer that belongs to no image yet, and names it. Durable on return; the next collection of
/// garbage removes it unless a ref keeps its stream, whose name is returned.
///
/// # Errors
/// When it does not have that diff_id; only objects without names are left then.
pub fn import_layer(
    repository: &Repository,
    diff_id: &ContentDigest,
    bytes: Box<dyn Read + Send + '_>,
    observer: &dyn Observer,
) -> Result<(String, Digest), ImportLayerError> {
    repository.check_writable()?;
    let stop = AtomicBool::new(false);
    let stream = layer::import_stream(repository, diff_id, bytes, &stop, observer).map_err(|source| match source {
        LayerError::BlobDigest { actual } => ImportLayerError::Digest { diff_id: *diff_id, actual },
        source => ImportLayerError::Layer { diff_id: *diff_id, source },
    })?;
    proof::remember(repository, &stream, diff_id);
    let name = layer_name(diff_id);
    repository.publish_streams(&[(name.clone(), stream)])?;
    Ok((name, stream))
}
