//! Why an image is not fetched from a published tree.

use std::io;

use thiserror::Error;

use crate::digest::{Algorithm, Digest};
use crate::oci::{ContentDigest, SourceError};
use crate::published::ChunkError;
use crate::repository::{FileError, ObjectError, SpaceError};

/// Why an image is not fetched from a published tree.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchTreeError {
    /// The index was not delivered.
    #[error("cannot fetch the index of the image")]
    Index(#[source] SourceError),
    /// The tree is of another kind than the repository.
    #[error("the objects of the tree are named by {tree} digests, those of the repository by {repository}")]
    Algorithm {
        /// The tree's.
        tree: Algorithm,
        /// The repository's.
        repository: Algorithm,
    },
    /// The index is of other layers than the configuration.
    #[error("the index names other layers than the configuration of the image")]
    Layers,
    /// The index names objects that the chunks do not have, or too few.
    #[error("the index names {named} objects, the chunks of the layers others than these")]
    Objects {
        /// What the index has.
        named: usize,
    },
    /// Chunks contradict each other.
    #[error("the chunks of the layers state two sizes of object {digest}")]
    TwoSizes {
        /// The object.
        digest: Digest,
    },
    /// Nobody publishes a compressed object that is not shorter.
    #[error("object {digest} of {size} bytes, says the index, is {compressed_size} bytes long when it is compressed")]
    CompressedSize {
        /// The object.
        digest: Digest,
        /// Its size.
        size: u64,
        /// What the index states.
        compressed_size: u64,
    },
    /// The metadata is too large for memory.
    #[error("the metadata of the layers has more than {max_bytes} bytes after compression")]
    TooMuch {
        /// The most.
        max_bytes: usize,
    },
    /// A chunk was not delivered.
    #[error("cannot fetch chunk {name}")]
    Chunk {
        /// The chunk.
        name: ContentDigest,
        /// What is wrong.
        source: SourceError,
    },
    /// A chunk is not what it should be.
    #[error(transparent)]
    DamagedChunk(#[from] ChunkError),
    /// An object was not delivered.
    #[error("cannot fetch object {digest}")]
    Transfer {
        /// The object.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was delivered as an object is none.
    #[error("what was fetched as object {digest} is another one: {problem}")]
    DamagedObject {
        /// The object.
        digest: Digest,
        /// What is wrong.
        problem: String,
    },
    /// Compression failed.
    #[error("cannot compress a chunk")]
    Hold(#[source] io::Error),
    /// What arrived cannot be stored.
    #[error("cannot write object {digest} to the repository")]
    Write {
        /// The object.
        digest: Digest,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no room.
    #[error("there is no room for the objects of the image")]
    Space(#[from] SpaceError),
    /// An object cannot be stored or examined.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another object failed first.
    #[error("stopped because another object failed")]
    Stopped,
}
