//! The index of an image: what it is rebuilt from, and what is attached to it.

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::VERSION;
use super::base64_bytes;
use super::bounded::decompress;
use crate::oci::ContentDigest;

/// Most bytes of an index that is not compressed: enough for layers of four million entries.
pub const INDEX_MAX_BYTES: usize = 64 << 20;

/// Most objects of an image.
pub const OBJECTS_MAX: usize = 4 << 20;

/// Most things that are attached to an image.
pub const ATTACHMENTS_MAX: usize = 128;

/// Most bytes of a blob of such a thing. Signatures have less than 2 KiB.
pub const ATTACHED_BLOB_MAX_BYTES: usize = 64 << 10;

/// Level of zstd; names of chunks cannot be compressed below 32 bytes at any.
const LEVEL: i32 = 12;

/// Why an index is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IndexError {
    /// It is another one.
    #[error("index {name} has the digest {actual}")]
    Digest {
        /// Name of the index.
        name: ContentDigest,
        /// What it is.
        actual: ContentDigest,
    },
    /// It is not zstd.
    #[error("cannot decompress index {name}")]
    Decompress {
        /// Name of the index.
        name: ContentDigest,
        /// What zstd said.
        source: io::Error,
    },
    /// It is longer than indexes are.
    #[error("index {name} has more than {INDEX_MAX_BYTES} bytes")]
    TooLong {
        /// Name of the index.
        name: ContentDigest,
    },
    /// It is not JSON, or not that of an index.
    #[error("cannot read index {name}")]
    Json {
        /// Name of the index.
        name: ContentDigest,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Made by a later version.
    #[error("index {name} has version {version}, only {VERSION} is supported")]
    Version {
        /// Name of the index.
        name: ContentDigest,
        /// Its version.
        version: u32,
    },
    /// It is of an image that nobody has.
    #[error("index {name} names more than {OBJECTS_MAX} objects")]
    Objects {
        /// Name of the index.
        name: ContentDigest,
    },
    /// A chunk is named by another hash.
    #[error("index {name} names chunk {chunk}, which is no SHA-256")]
    Chunk {
        /// Name of the index.
        name: ContentDigest,
        /// The chunk.
        chunk: ContentDigest,
    },
    /// More is attached to the image than is allowed.
    #[error(
        "index {name} has more than {ATTACHMENTS_MAX} attachments, or one with a blob of more than \
         {ATTACHED_BLOB_MAX_BYTES} bytes"
    )]
    Attachments {
        /// Name of the index.
        name: ContentDigest,
    },
    /// An attached blob is another one.
    #[error("blob {blob} of an attachment in index {name} has another digest")]
    Blob {
        /// Name of the index.
        name: ContentDigest,
        /// The blob.
        blob: ContentDigest,
    },
    /// The index cannot be written.
    #[error("cannot compress an index")]
    Compress(#[source] io::Error),
}

/// What an image is rebuilt from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Version of the format.
    pub version: u32,
    /// The manifest, byte for byte.
    pub manifest: String,
    /// The configuration, byte for byte.
    pub config: String,
    /// The layers, lowest first.
    pub layers: Vec<PublishedLayer>,
    /// For each object in the order of first use in the layers: how many bytes are fetched of it. 0: as many as it has,
    /// under its plain name.
    pub objects: Vec<u64>,
    /// Signatures and the like, which a registry would have beside the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
}

/// A layer of a published image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedLayer {
    /// Digest of the uncompressed layer.
    pub diff_id: ContentDigest,
    /// Its chunks in order.
    pub chunks: Vec<ContentDigest>,
}

/// An artifact that belongs to the image, such as a signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The tag that it has in the image's repository: `sha256-<digest of the manifest>.sig`. Without one, it is a referrer:
    /// its manifest names the image as `subject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Its manifest, byte for byte.
    pub manifest: String,
    /// The blobs that its manifest names: configuration and layers.
    pub blobs: Vec<AttachedBlob>,
}

/// A blob of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedBlob {
    /// Its digest.
    pub digest: ContentDigest,
    /// Its bytes, which have that digest; base64 in JSON.
    #[serde(with = "base64_bytes")]
    pub data: Vec<u8>,
}

impl Attachment {
    /// The bytes of a blob.
    pub fn blob(&self, digest: &ContentDigest) -> Option<&[u8]> {
        self.blobs.iter().find(|blob| blob.digest == *digest).map(|blob| &blob.data[..])
    }
}

impl Index {
    /// The attachment with this tag.
    pub fn tagged(&self, tag: &str) -> Option<&Attachment> {
        self.attachments.iter().find(|attachment| attachment.tag.as_deref() == Some(tag))
    }

    /// The file of the index, which is named by its SHA-256.
    ///
    /// # Errors
    /// When zstd fails.
    pub fn to_file(&self) -> Result<(ContentDigest, Vec<u8>), IndexError> {
        let json = serde_json::to_vec(self).map_err(|error| IndexError::Compress(error.into()))?;
        let file = zstd::encode_all(&json[..], LEVEL).map_err(IndexError::Compress)?;
        Ok((ContentDigest::sha256(&file), file))
    }

    /// Reads the file of the index that has this name. Takes a few [`INDEX_MAX_BYTES`] of memory at most.
    ///
    /// # Errors
    /// When it is another one, or none.
    pub fn from_file(file: &[u8], name: &ContentDigest) -> Result<Self, IndexError> {
        let name = *name;
        if !name.matches(file) {
            return Err(IndexError::Digest { name, actual: ContentDigest::sha256(file) });
        }
        let json = decompress(file, INDEX_MAX_BYTES)
            .map_err(|source| IndexError::Decompress { name, source })?
            .ok_or(IndexError::TooLong { name })?;
        let index: Self = serde_json::from_slice(&json).map_err(|source| IndexError::Json { name, source })?;
        if index.version != VERSION {
            return Err(IndexError::Version { name, version: index.version });
        }
        if index.objects.len() > OBJECTS_MAX {
            return Err(IndexError::Objects { name });
        }
        let mut names = index.layers.iter().flat_map(|layer| &layer.chunks);
        match names.find(|chunk| chunk.algorithm() != crate::Algorithm::Sha256) {
            Some(&chunk) => Err(IndexError::Chunk { name, chunk }),
            None => {
                index.check_attachments(name)?;
                Ok(index)
            }
        }
    }

    fn check_attachments(&self, name: ContentDigest) -> Result<(), IndexError> {
        let mut blobs = self.attachments.iter().flat_map(|attachment| &attachment.blobs);
        if self.attachments.len() > ATTACHMENTS_MAX
            || blobs.clone().any(|blob| blob.data.len() > ATTACHED_BLOB_MAX_BYTES)
        {
            return Err(IndexError::Attachments { name });
        }
        match blobs.find(|blob| !blob.digest.matches(&blob.data)) {
            Some(blob) => Err(IndexError::Blob { name, blob: blob.digest }),
            None => Ok(()),
        }
    }
}
