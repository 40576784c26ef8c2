//! A chunk: a slice of the split stream of a layer.
//!
//! Parts follow each other until the end. A part begins with a little-endian u32: the number of inline bytes that follow
//! it, or 0 for a whole object, of which its size (little-endian u64) and its fs-verity digest follow. The name of a chunk
//! is the SHA-256 of these bytes, and not of what they are compressed to: whoever has the layer knows the name, whichever
//! zstd it has.

use std::io;

use thiserror::Error;

use super::bounded::decompress;
use crate::digest::{Algorithm, Digest};
use crate::oci::ContentDigest;

/// Most bytes of a chunk that is not compressed. Those of [`super::chunks`] have at most 37 KiB.
pub const CHUNK_MAX_BYTES: usize = 64 << 10;

/// Why a chunk is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// It is not zstd.
    #[error("cannot decompress chunk {name}")]
    Decompress {
        /// Name of the chunk.
        name: ContentDigest,
        /// What zstd said.
        source: io::Error,
    },
    /// It is longer than chunks are.
    #[error("chunk {name} has more than {CHUNK_MAX_BYTES} bytes")]
    TooLong {
        /// Name of the chunk.
        name: ContentDigest,
    },
    /// It is another one.
    #[error("chunk {name} has the digest {actual}")]
    Digest {
        /// Name of the chunk.
        name: ContentDigest,
        /// What it is.
        actual: ContentDigest,
    },
    /// It ends within a part.
    #[error("chunk {name} ends within a part")]
    Truncated {
        /// Name of the chunk.
        name: ContentDigest,
    },
}

/// A part of the merged stream of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes of the stream itself, at least one.
    Inline(Vec<u8>),
    /// A whole object.
    External {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
}

/// The bytes of a chunk that has these parts. Empty inline parts leave nothing.
pub fn encode(parts: &[Part]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Part::Inline(inline) => {
                // A length of 0 is that of an object, and one beyond u32 cannot be written.
                for piece in inline.chunks(CHUNK_MAX_BYTES) {
                    bytes.extend((piece.len() as u32).to_le_bytes());
                    bytes.extend(piece);
                }
            }
            Part::External { digest, size } => {
                bytes.extend(0_u32.to_le_bytes());
                bytes.extend(size.to_le_bytes());
                bytes.extend(digest.as_bytes());
            }
        }
    }
    bytes
}

/// Decompresses the chunk of this name and returns its parts, of a tree with this algorithm. Takes a few
/// [`CHUNK_MAX_BYTES`] of memory, and the window of zstd.
///
/// # Errors
/// When it is another one, or none.
pub fn decode(compressed: &[u8], name: &ContentDigest, algorithm: Algorithm) -> Result<Vec<Part>, ChunkError> {
    let name = *name;
    let bytes = decompress(compressed, CHUNK_MAX_BYTES)
        .map_err(|source| ChunkError::Decompress { name, source })?
        .ok_or(ChunkError::TooLong { name })?;
    if !name.matches(&bytes) {
        return Err(ChunkError::Digest { name, actual: ContentDigest::sha256(&bytes) });
    }
    parse(&bytes, algorithm).ok_or(ChunkError::Truncated { name })
}

fn parse(bytes: &[u8], algorithm: Algorithm) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = u32::from_le_bytes(*take(&mut rest)?);
        parts.push(if length > 0 {
            let (inline, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            rest = after;
            Part::Inline(inline.to_vec())
        } else {
            let size = u64::from_le_bytes(*take(&mut rest)?);
            let (digest, after) = rest.split_at_checked(algorithm.digest_len())?;
            rest = after;
            Part::External { digest: Digest::new(algorithm, digest)?, size }
        });
    }
    Some(parts)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(first)
}
