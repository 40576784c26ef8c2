//! Why layers are refused, or cannot be read again.

use std::io;

use thiserror::Error;

use crate::digest::Digest;
use crate::oci::apply::ApplyError;
use crate::oci::decompress::BlobFault;
use crate::oci::digest::ContentDigest;
use crate::repository::{ObjectError, SpaceError, StreamError};
use crate::splitstream::ReadError;
use crate::tar::FormatError;

/// Most bytes between two stored files: as many headers and small files as an image may have.
pub(super) const INLINE_RUN_MAX_BYTES: u64 = 4 << 30;
/// Most bytes of a layer, its stored files apart, after compression: they are in memory until the layer ends.
pub(super) const HELD_MAX_BYTES: usize = 256 << 20;

/// Why a layer was not imported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The source failed, before or during the transfer.
    #[error("the transfer failed")]
    Transfer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The source delivered too little.
    #[error("the transfer ended after {read_bytes} of {expected_bytes} bytes")]
    Short {
        /// What came.
        read_bytes: u64,
        /// What the manifest says.
        expected_bytes: u64,
    },
    /// The source delivered too much.
    #[error("the blob has more than the {expected_bytes} bytes that the manifest says")]
    Long {
        /// What the manifest says.
        expected_bytes: u64,
    },
    /// The bytes are not the right ones.
    #[error("the blob is damaged: its digest is {actual}")]
    BlobDigest {
        /// Digest of what was delivered.
        actual: ContentDigest,
    },
    /// The compressed data is malformed.
    #[error("the blob is damaged: it cannot be decompressed")]
    Decompress(#[source] io::Error),
    /// The layer is not the one that the configuration names.
    #[error("the uncompressed layer has digest {actual}, the image's configuration names {expected}")]
    DiffId {
        /// The configuration's.
        expected: ContentDigest,
        /// The layer's.
        actual: ContentDigest,
    },
    /// The archive is malformed.
    #[error("the layer is not a good tar archive")]
    Format(#[from] FormatError),
    /// Too many entries without large contents in a row.
    #[error("the layer has more than {INLINE_RUN_MAX_BYTES} bytes between two files of more than 64 bytes")]
    InlineRun,
    /// Headers and small files that do not compress.
    #[error("the headers and small files of the layer have more than {HELD_MAX_BYTES} bytes after compression")]
    Held,
    /// Contents cannot be written.
    #[error("cannot write to the repository")]
    Write(#[source] io::Error),
    /// The file system is nearly full.
    #[error("there is no room for the layer")]
    Space(#[source] SpaceError),
    /// An object cannot be stored.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Another layer failed first.
    #[error("stopped because another layer failed")]
    Stopped,
}

impl LayerError {
    /// What a fault of a blob of `expected_bytes` means; `error` is what reading it gave.
    pub(crate) fn of_fault(fault: BlobFault, expected_bytes: u64, error: io::Error) -> Self {
        match fault {
            BlobFault::Stopped => Self::Stopped,
            BlobFault::Source => Self::Transfer(error.into()),
            BlobFault::Short { read_bytes } => Self::Short { read_bytes, expected_bytes },
            BlobFault::Long => Self::Long { expected_bytes },
            BlobFault::Digest { actual } => Self::BlobDigest { actual },
        }
    }

    /// Whether the bytes are the wrong ones, as opposed to a failure to get or to store them.
    pub(crate) fn is_of_contents(&self) -> bool {
        match self {
            Self::Long { .. }
            | Self::BlobDigest { .. }
            | Self::Decompress(_)
            | Self::DiffId { .. }
            | Self::Format(_)
            | Self::InlineRun
            | Self::Held => true,
            Self::Transfer(_)
            | Self::Short { .. }
            | Self::Write(_)
            | Self::Space(_)
            | Self::Object(_)
            | Self::Stopped => false,
        }
    }

    /// Whether another blob may be meant, as opposed to the right one with wrong contents.
    pub(crate) fn is_of_blob(&self) -> bool {
        self.is_of_contents() && !matches!(self, Self::DiffId { .. })
    }
}

/// Why a layer of the repository cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoredLayerError {
    /// The stream cannot be opened.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The stream is malformed.
    #[error("the layer's split stream is damaged")]
    Chunks(#[from] ReadError),
    /// The archive is malformed.
    #[error("the layer is not a good tar archive")]
    Format(#[from] FormatError),
    /// An object stands where there should be headers, or the other way round.
    #[error("the layer's split stream does not follow its tar headers")]
    Chunking,
    /// The contents of a sparse file cannot be read.
    #[error("cannot read a sparse file of the layer")]
    Expand(#[source] io::Error),
    /// The contents of a sparse file are not kept by the stream.
    #[error("the layer's split stream does not refer to {digest}, which a sparse file of it expands to")]
    Expanded {
        /// The whole file.
        digest: Digest,
    },
    /// An object cannot be opened.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An entry does not fit into the tree.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}
