//! fs-verity digests computed in user space.
//!
//! The digest of a file is the hash of a 256-byte descriptor that holds its size and the root of a Merkle tree over its
//! 4096-byte blocks (no salt, no signature). It equals what the kernel measures for a file with fs-verity enabled with
//! the same parameters. Source: `Documentation/filesystems/fsverity.rst`, "fs-verity descriptor".
//!
//! Blocks of one level of the tree do not depend on each other. They are collected and hashed several at once on one
//! core, see [`osupdate_sys::block_hash`]: two to four times as fast as one after another.

use std::io::{self, Read};

use osupdate_sys::block_hash::{self, BATCH_BLOCKS, BLOCK_BYTES, Block};
use sha2::{Digest as _, Sha256, Sha512};

use crate::digest::{Algorithm, Digest};

/// log2 of the size of data and tree blocks. Changing it changes every digest.
const BLOCK_BITS: u8 = 12;
const _: () = assert!(BLOCK_BYTES == 1 << BLOCK_BITS);
/// Blocks are hashed as soon as there are so many bytes of them.
const BATCH_BYTES: usize = BATCH_BLOCKS * BLOCK_BYTES;
/// Bytes of a file that are read at once: they stay in the processor's cache until they are hashed.
const READ_BYTES: usize = 256 << 10;

/// Appends the hashes of whole blocks.
fn hash_blocks(algorithm: Algorithm, blocks: &[Block], hashes: &mut Vec<u8>) {
    for batch in blocks.chunks(BATCH_BLOCKS) {
        let mut refs = [&batch[0]; BATCH_BLOCKS];
        refs.iter_mut().zip(batch).for_each(|(slot, block)| *slot = block);
        let refs = &refs[..batch.len()];
        match algorithm {
            Algorithm::Sha256 => {
                let mut digests = [[0; 32]; BATCH_BLOCKS];
                block_hash::sha256(refs, &mut digests[..refs.len()]);
                hashes.extend_from_slice(digests[..refs.len()].as_flattened());
            }
            Algorithm::Sha512 => {
                let mut digests = [[0; 64]; BATCH_BLOCKS];
                block_hash::sha512(refs, &mut digests[..refs.len()]);
                hashes.extend_from_slice(digests[..refs.len()].as_flattened());
            }
        }
    }
}

/// Computes an fs-verity digest from data that arrives in pieces.
///
/// Memory use is 64 KiB for each tree level that the file has: at most 11 levels for SHA-512 and any file size, three
/// for 16 GiB.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    size: u64,
    /// Data that is not hashed yet, less than a batch.
    data: Vec<u8>,
    /// Hashes that are not combined yet: `levels[0]` those of data blocks, each further level those of the blocks below.
    levels: Vec<Vec<u8>>,
}

impl Hasher {
    /// Starts with no data.
    pub fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, size: 0, data: Vec::new(), levels: Vec::new() }
    }

    /// Adds the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if !self.data.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(BATCH_BYTES - self.data.len()));
            self.data.extend_from_slice(head);
            bytes = rest;
            if self.data.len() < BATCH_BYTES {
                return;
            }
            let mut data = std::mem::take(&mut self.data);
            self.push_blocks(0, data.as_chunks().0);
            data.clear();
            self.data = data;
        }
        let (now, later) = bytes.split_at(bytes.len() - bytes.len() % BATCH_BYTES);
        self.push_blocks(0, now.as_chunks().0);
        self.data.extend_from_slice(later);
    }

    /// Adds the hashes of blocks to a level. A level that is full is combined only when further hashes come, because the
    /// one hash of the top level is the root itself.
    fn push_blocks(&mut self, level: usize, blocks: &[Block]) {
        for batch in blocks.chunks(BATCH_BLOCKS) {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            if self.levels[level].len() + batch.len() * self.algorithm.digest_len() > BATCH_BYTES {
                let mut hashes = std::mem::take(&mut self.levels[level]);
                let whole = hashes.len() - hashes.len() % BLOCK_BYTES;
                self.push_blocks(level + 1, hashes[..whole].as_chunks().0);
                hashes.drain(..whole);
                self.levels[level] = hashes;
            }
            hash_blocks(self.algorithm, batch, &mut self.levels[level]);
        }
    }

    /// The digest of everything added.
    pub fn finish(mut self) -> Digest {
        let data = std::mem::take(&mut self.data);
        self.finish_with(&data)
    }

    /// The digest of everything added and these last bytes, which are not counted yet; nothing waits in `data`.
    fn finish_with(mut self, data: &[u8]) -> Digest {
        let (blocks, rest) = data.as_chunks();
        self.push_blocks(0, blocks);
        if !rest.is_empty() {
            let mut block = [0; BLOCK_BYTES];
            block[..rest.len()].copy_from_slice(rest);
            self.push_blocks(0, &[block]);
        }
        let len = self.algorithm.digest_len();
        let mut level = 0;
        while level + 1 < self.levels.len() || self.levels.get(level).is_some_and(|hashes| hashes.len() > len) {
            let mut hashes = std::mem::take(&mut self.levels[level]);
            hashes.resize(hashes.len().next_multiple_of(BLOCK_BYTES), 0);
            level += 1;
            self.push_blocks(level, hashes.as_chunks().0);
        }

        let mut descriptor = [0; 256];
        descriptor[0] = 1; // descriptor version
        descriptor[1] = self.algorithm.kernel_id();
        descriptor[2] = BLOCK_BITS;
        descriptor[8..16].copy_from_slice(&self.size.to_le_bytes());
        if let Some(top) = self.levels.get(level) {
            descriptor[16..16 + len].copy_from_slice(top);
        }
        let digest = match self.algorithm {
            Algorithm::Sha256 => Digest::new(self.algorithm, &Sha256::digest(descriptor)),
            Algorithm::Sha512 => Digest::new(self.algorithm, &Sha512::digest(descriptor)),
        };
        digest.expect("a hash has its algorithm's length")
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher").field("algorithm", &self.algorithm).field("size", &self.size).finish_non_exhaustive()
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The fs-verity digest of a file with these contents.
pub fn digest(algorithm: Algorithm, data: &[u8]) -> Digest {
    // Nothing is copied, as there is no need to collect anything.
    let hasher = Hasher { size: data.len() as u64, ..Hasher::new(algorithm) };
    hasher.finish_with(data)
}

/// The fs-verity digest of everything that the reader has. For many readers see [`FileHasher`].
pub fn digest_reader(algorithm: Algorithm, reader: impl Read) -> io::Result<Digest> {
    FileHasher::new(algorithm).digest(reader)
}

/// Computes the digests of one file after another, as a thread that has many to do wants it: with one buffer.
#[derive(Debug)]
pub struct FileHasher {
    algorithm: Algorithm,
    buffer: Vec<u8>,
}

impl FileHasher {
    /// Allocates the buffer, 256 KiB.
    pub fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, buffer: vec![0; READ_BYTES] }
    }

    /// The fs-verity digest of everything that the reader has.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn digest(&mut self, mut reader: impl Read) -> io::Result<Digest> {
        let mut hasher = Hasher::new(self.algorithm);
        loop {
            let mut filled = 0;
            while filled < self.buffer.len() {
                match reader.read(&mut self.buffer[filled..]) {
                    Ok(0) => {
                        hasher.size += filled as u64;
                        return Ok(hasher.finish_with(&self.buffer[..filled]));
                    }
                    Ok(n) => filled += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            // Whole batches: nothing is left waiting.
            hasher.update(&self.buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests() {
        let sha256 = |data| digest(Algorithm::Sha256, data).to_string();
        assert_eq!(sha256(b"hello world"), "1e2eaa4202d750a41174ee454970b92c1bc2f925b1e35076d8c7d5f56362ba64");
        assert_eq!(sha256(b"foo bar baz\n"), "91e7d88cb7bc9cf6d8db3b0ecf89af4abf204bef5b3ade5113d5b62ef374e70b");
        assert_eq!(sha256(b""), "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95");
    }

    #[test]
    fn pieces_do_not_matter() {
        let data: Vec<u8> = (0..=250).collect::<Vec<u8>>().repeat(20_000);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let whole = digest(algorithm, &data);
            for piece in [1, 4095, 4096, 4097, 65_536, 100_000, 300_000] {
                let mut hasher = Hasher::new(algorithm);
                data.chunks(piece).for_each(|bytes| hasher.update(bytes));
                assert_eq!(hasher.finish(), whole, "pieces of {piece} bytes");
            }
            assert_eq!(digest_reader(algorithm, &data[..]).unwrap(), whole);
        }
    }

    /// The digest by the definition, level by level.
    fn plain(algorithm: Algorithm, data: &[u8]) -> Digest {
        let hash = |bytes: &[u8]| match algorithm {
            Algorithm::Sha256 => Sha256::digest(bytes).to_vec(),
            Algorithm::Sha512 => Sha512::digest(bytes).to_vec(),
        };
        let mut level = data.to_vec();
        loop {
            level.resize(level.len().next_multiple_of(BLOCK_BYTES), 0);
            level = level.chunks(BLOCK_BYTES).flat_map(hash).collect();
            if level.len() <= algorithm.digest_len() {
                break;
            }
        }
        let mut descriptor = [&[1, algorithm.kernel_id(), 12, 0, 0, 0, 0, 0][..], &data.len().to_le_bytes()].concat();
        descriptor.extend_from_slice(&level);
        descriptor.resize(256, 0);
        Digest::new(algorithm, &hash(&descriptor)).unwrap()
    }

    #[test]
    fn sizes_around_every_boundary_give_the_digest_of_the_definition() {
        // A block has 64 or 128 hashes; a batch has 16 blocks, of data and of hashes.
        let boundaries = [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1023, 1024, 2047, 2048, 4096];
        let data = (0..=252).collect::<Vec<u8>>().repeat(4098 * BLOCK_BYTES / 253);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for blocks in boundaries {
                for size in [blocks * BLOCK_BYTES, blocks * BLOCK_BYTES + 1, (blocks + 1) * BLOCK_BYTES - 1] {
                    let data = &data[..size];
                    let expected = plain(algorithm, data);
                    assert_eq!(digest(algorithm, data), expected, "{size} bytes");
                    assert_eq!(digest_reader(algorithm, data).unwrap(), expected, "{size} bytes from a reader");
                }
            }
        }
    }
}
