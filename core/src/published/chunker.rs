//! Cuts the split stream of a layer into chunks, at places that its contents choose.
//!
//! A tar archive consists of blocks of 512 bytes. After each block that lies in the stream itself, whole and where blocks
//! of the archive are, the chunk ends if the xxHash (XXH32, seed 0) of the block is divisible by 8. What is before the
//! block has no part in it: after a change, the cuts are those of before from the next such block on. Chunks of headers
//! that never hash so, or of objects alone, end at fixed lengths.

use thiserror::Error;
use xxhash_rust::xxh32::xxh32;

use super::chunk::{CHUNK_MAX_BYTES, Part};
use crate::digest::Digest;
use crate::repository::{FileError, Repository};
use crate::splitstream::{self, Chunk, ReadError};

/// Unit of tar archives.
const BLOCK_BYTES: u64 = 512;
/// One of this many blocks ends a chunk: few enough that a changed file costs little more than its own header, and many
/// enough that the names of all chunks, 32 bytes each, cost less than those that change.
const BLOCKS: u32 = 8;
/// Most inline bytes of a chunk.
const INLINE_MAX_BYTES: u64 = 32 << 10;
/// Most objects in a chunk.
const EXTERNAL_MAX: usize = 64;

// The longest chunk: each object between inline parts.
const _: () =
    assert!(INLINE_MAX_BYTES as usize + EXTERNAL_MAX * (4 + 8 + 64) + (EXTERNAL_MAX + 1) * 4 <= CHUNK_MAX_BYTES);

/// Why a layer cannot be cut.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChunkerError {
    /// Its stream is damaged.
    #[error(transparent)]
    Stream(#[from] ReadError),
    /// An object is missing.
    #[error("there is no object {digest} in the repository")]
    NotFound {
        /// The object.
        digest: Digest,
    },
    /// An object cannot be examined.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The chunks of a layer that is in the repository, each with its parts. Needs memory for one chunk and a piece of the
/// stream. After an error there are no more.
pub fn chunks<'a>(repository: &'a Repository, stream: &'a splitstream::Reader) -> Chunks<'a> {
    Chunks { repository, stream: Some(stream.chunks()), inline: Vec::new(), taken: 0, position: 0 }
}

/// Iterator over the chunks of a layer; see [`chunks`].
#[derive(Debug)]
pub struct Chunks<'a> {
    repository: &'a Repository,
    /// `None` after an error.
    stream: Option<splitstream::Chunks<'a>>,
    /// The inline piece in hand, and how much of it is in chunks.
    inline: Vec<u8>,
    taken: usize,
    /// Place in the merged stream, to tell where blocks begin.
    position: u64,
}

/// A chunk that is being filled.
#[derive(Default)]
struct Filling {
    parts: Vec<Part>,
    inline_bytes: u64,
    external: usize,
    /// The block in work, if all of it so far is inline and in this chunk or the end of the one before.
    block: Vec<u8>,
}

impl Filling {
    fn inline(&mut self, bytes: &[u8]) {
        self.inline_bytes += bytes.len() as u64;
        match self.parts.last_mut() {
            Some(Part::Inline(last)) => last.extend(bytes),
            _ => self.parts.push(Part::Inline(bytes.to_vec())),
        }
    }
}

impl Chunks<'_> {
    fn read_next(&mut self) -> Result<Option<Vec<Part>>, ChunkerError> {
        let mut filling = Filling::default();
        while self.fill_piece(&mut filling)? {
            // To the end of the block, and no further.
            let left = BLOCK_BYTES - self.position % BLOCK_BYTES;
            let piece = &self.inline[self.taken..];
            let piece = &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
            filling.inline(piece);
            filling.block.extend(piece);
            self.taken += piece.len();
            self.position += piece.len() as u64;
            if self.position.is_multiple_of(BLOCK_BYTES) {
                let whole = filling.block.len() as u64 == BLOCK_BYTES;
                if (whole && xxh32(&filling.block, 0).is_multiple_of(BLOCKS)) || filling.is_full() {
                    break;
                }
                filling.block.clear();
            }
        }
        Ok((!filling.parts.is_empty()).then_some(filling.parts))
    }

    /// Takes objects until there are inline bytes in hand. False: the chunk ends here, by its length or the stream's.
    fn fill_piece(&mut self, filling: &mut Filling) -> Result<bool, ChunkerError> {
        while self.taken == self.inline.len() {
            if filling.external == EXTERNAL_MAX {
                return Ok(false);
            }
            let Some(stream) = &mut self.stream else { return Ok(false) };
            match stream.next().transpose()? {
                None => return Ok(false),
                Some(Chunk::Inline(piece)) => (self.inline, self.taken) = (piece, 0),
                Some(Chunk::External(digest)) => {
                    let size = self.repository.object_size(&digest)?.ok_or(ChunkerError::NotFound { digest })?;
                    filling.parts.push(Part::External { digest, size });
                    filling.external += 1;
                    filling.block.clear();
                    // Only where it is in its block matters.
                    self.position = (self.position % BLOCK_BYTES).wrapping_add(size % BLOCK_BYTES);
                }
            }
        }
        Ok(true)
    }
}

impl Filling {
    fn is_full(&self) -> bool {
        self.inline_bytes + BLOCK_BYTES > INLINE_MAX_BYTES
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Vec<Part>, ChunkerError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read_next().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.stream = None;
            self.inline.clear();
            self.taken = 0;
        }
        next
    }
}
