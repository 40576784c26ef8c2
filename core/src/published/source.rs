//! What a published tree is read through: HTTP is not this crate's business.

use std::io::Read;
use std::num::NonZeroUsize;

use super::files::object_path;
use super::index::Index;
use crate::digest::{Algorithm, Digest};
use crate::oci::{ContentDigest, SourceError};

/// An object as a tree has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectFile {
    /// The object.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Size of its zstd; `None`: it is there as it is.
    pub compressed_size: Option<u64>,
}

impl ObjectFile {
    /// How many bytes are fetched.
    pub fn file_bytes(&self) -> u64 {
        self.compressed_size.unwrap_or(self.size)
    }

    /// Its path below the tree.
    pub fn path(&self) -> String {
        object_path(&self.digest, self.compressed_size.is_some())
    }
}

/// An image in a published tree. Called from several threads at once.
pub trait PublishedSource: Sync {
    /// What the image is rebuilt from, and the algorithm of the objects.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not to be believed.
    fn index(&self) -> Result<(&Index, Algorithm), SourceError>;

    /// Serial of the summary that named the index, and what it is remembered by: the address of the tree, with the key that
    /// has signed the summary if one was demanded. What nobody has vouched for must not count for who demands that.
    ///
    /// # Errors
    /// As [`Self::index`].
    fn serial(&self) -> Result<(String, u64), SourceError>;

    /// The file of a chunk, which [`super::decode`] has found to be the one.
    ///
    /// # Errors
    /// When nobody has it.
    fn chunk(&self, name: &ContentDigest) -> Result<Vec<u8>, SourceError>;

    /// The file of an object from byte `offset` on. The caller verifies what it makes of it.
    ///
    /// # Errors
    /// When the transfer cannot begin.
    fn object(&self, object: &ObjectFile, offset: u64) -> Result<Box<dyn Read + Send + '_>, SourceError>;

    /// Is told that the file of an object, sent from its first byte on, is not the one that it should be. Whether somebody else
    /// would send it now; not without end for one file.
    fn blame(&self, object: &ObjectFile) -> bool;

    /// Whether fetching ends after some bytes. Then what has arrived of small files is kept, too: without it, the next time could
    /// end at the same point.
    fn is_limited(&self) -> bool;

    /// How many files should be fetched at once.
    fn connections(&self) -> NonZeroUsize;
}
