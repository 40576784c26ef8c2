//! fs-verity digests computed in user space.
//!
//! The digest of a file is the hash of a 256-byte descriptor that holds its size and the root of a Merkle tree over its
//! 4096-byte blocks (no salt, no signature). It equals what the kernel measures for a file with fs-verity enabled with
//! the same parameters. Source: `Documentation/filesystems/fsverity.rst`, "fs-verity descriptor".

use std::io::{self, Read};

use sha2::{Digest as _, Sha256, Sha512};

use crate::digest::{Algorithm, Digest};

/// Size of data and tree blocks. Changing it changes every digest.
const BLOCK: usize = 4096;
const BLOCK_BITS: u8 = 12;

/// One block under construction.
#[derive(Clone)]
struct Block {
    bytes: Box<[u8; BLOCK]>,
    used: usize,
}

impl Block {
    fn new() -> Self {
        Self { bytes: Box::new([0; BLOCK]), used: 0 }
    }

    fn append(&mut self, bytes: &[u8]) {
        self.bytes[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    /// The whole block, its unused rest zero; the block is empty afterwards.
    fn take_padded(&mut self) -> &[u8; BLOCK] {
        self.bytes[self.used..].fill(0);
        self.used = 0;
        &self.bytes
    }
}

/// Hash of `bytes`, in the first `digest_len()` bytes of the result.
fn hash(algorithm: Algorithm, bytes: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    match algorithm {
        Algorithm::Sha256 => out[..32].copy_from_slice(&Sha256::digest(bytes)),
        Algorithm::Sha512 => out.copy_from_slice(&Sha512::digest(bytes)),
    }
    out
}

/// Computes an fs-verity digest from data that arrives in pieces.
///
/// Memory use is one block per tree level: at most 11 levels for SHA-512 and any file size.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    size: u64,
    data: Block,
    /// Hashes not yet combined: `levels[0]` those of data blocks, each further level those of the blocks below.
    levels: Vec<Block>,
}

impl Hasher {
    /// Starts with no data.
    pub fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, size: 0, data: Block::new(), levels: Vec::new() }
    }

    /// Adds the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if self.data.used > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(BLOCK - self.data.used));
            self.data.append(head);
            bytes = rest;
            if self.data.used == BLOCK {
                let digest = hash(self.algorithm, self.data.take_padded());
                self.push(0, digest);
            }
        }
        let mut blocks = bytes.chunks_exact(BLOCK);
        for block in &mut blocks {
            let digest = hash(self.algorithm, block);
            self.push(0, digest);
        }
        self.data.append(blocks.remainder());
    }

    /// Adds a hash to a level. A full level is combined only when a further hash comes, because the one hash of the top
    /// level is the root itself.
    fn push(&mut self, mut level: usize, mut digest: [u8; 64]) {
        loop {
            if level == self.levels.len() {
                self.levels.push(Block::new());
            }
            let block = &mut self.levels[level];
            let full = (block.used == BLOCK).then(|| hash(self.algorithm, block.take_padded()));
            block.append(&digest[..self.algorithm.digest_len()]);
            match full {
                Some(combined) => digest = combined,
                None => return,
            }
            level += 1;
        }
    }

    /// The digest of everything added.
    pub fn finish(mut self) -> Digest {
        if self.data.used > 0 {
            let digest = hash(self.algorithm, self.data.take_padded());
            self.push(0, digest);
        }
        let len = self.algorithm.digest_len();
        let mut level = 0;
        while level + 1 < self.levels.len() || self.levels.get(level).is_some_and(|block| block.used > len) {
            let digest = hash(self.algorithm, self.levels[level].take_padded());
            level += 1;
            self.push(level, digest);
        }

        let mut descriptor = [0; 256];
        descriptor[0] = 1; // descriptor version
        descriptor[1] = self.algorithm.kernel_id();
        descriptor[2] = BLOCK_BITS;
        descriptor[8..16].copy_from_slice(&self.size.to_le_bytes());
        if let Some(top) = self.levels.get(level) {
            descriptor[16..16 + len].copy_from_slice(&top.bytes[..len]);
        }
        let digest = hash(self.algorithm, &descriptor);
        Digest::new(self.algorithm, &digest[..len]).expect("the slice has the algorithm's length")
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
    let mut hasher = Hasher::new(algorithm);
    hasher.update(data);
    hasher.finish()
}

/// The fs-verity digest of everything that the reader has.
pub fn digest_reader(algorithm: Algorithm, mut reader: impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 32 * BLOCK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
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
        let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let whole = digest(algorithm, &data);
            for piece in [1, 4095, 4096, 4097, 100_000] {
                let mut hasher = Hasher::new(algorithm);
                data.chunks(piece).for_each(|bytes| hasher.update(bytes));
                assert_eq!(hasher.finish(), whole, "pieces of {piece} bytes");
            }
            assert_eq!(digest_reader(algorithm, &data[..]).unwrap(), whole);
        }
    }
}
