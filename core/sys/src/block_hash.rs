//! SHA-2 of many blocks of the same size, several of them at once on one processor.
//!
//! The blocks of a Merkle tree do not depend on each other, so the lanes of a vector register can work on one block
//! each, or two chains of SHA instructions can run side by side. What to use is decided when the program runs, from what
//! the processor has; everything else, other architectures included, goes through the `sha2` crate.
//!
//! Best first: for SHA-512 AVX-512 (8 lanes), then AVX2 (4 lanes); for SHA-256 the SHA instructions (2 chains), then
//! AVX-512 (16 lanes), then AVX2 (8 lanes). On one core of a Zen 4 processor that has both threads busy, in GB/s:
//!
//! | | `sha2` | AVX2 | AVX-512 | SHA instructions |
//! |---|---|---|---|---|
//! | SHA-512 | 0.6 | 1.4 | 2.5 | |
//! | SHA-256 | 1.8 (with SHA instructions) | 1.7 | 2.9 | 3.3 |
//!
//! Vectors that are not filled cost as much as full ones, so a single block is left to `sha2`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod constants;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod sha_ni;
#[cfg(test)]
mod tests;

use sha2::{Digest as _, Sha256, Sha512};

/// Size of a block in bytes: that of fs-verity's data and tree blocks.
pub const BLOCK_BYTES: usize = 4096;
/// So many blocks at once, or a multiple, fill the vectors of every processor.
pub const BATCH_BLOCKS: usize = 16;

/// What is hashed.
pub type Block = [u8; BLOCK_BYTES];

/// The SHA-256 of each block.
///
/// # Panics
/// If there are not as many digests as blocks.
pub fn sha256(blocks: &[&Block], digests: &mut [[u8; 32]]) {
    sha256_on(Processor::detect(), blocks, digests);
}

/// The SHA-512 of each block.
///
/// # Panics
/// If there are not as many digests as blocks.
pub fn sha512(blocks: &[&Block], digests: &mut [[u8; 64]]) {
    sha512_on(Processor::detect(), blocks, digests);
}

/// What the processor has, and the system saves. A field is true only if that was detected: callers rely on it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, Default)]
struct Processor {
    avx512: bool,
    avx2: bool,
    sha_ni: bool,
}

#[cfg(target_arch = "x86_64")]
impl Processor {
    fn detect() -> Self {
        Self {
            avx512: is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            avx2: is_x86_feature_detected!("avx2"),
            sha_ni: is_x86_feature_detected!("sha")
                && is_x86_feature_detected!("ssse3")
                && is_x86_feature_detected!("sse4.1"),
        }
    }
}

/// Nothing is known about other architectures.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Clone, Copy, Debug, Default)]
struct Processor;

#[cfg(not(target_arch = "x86_64"))]
impl Processor {
    fn detect() -> Self {
        Self
    }
}

fn sha256_on(processor: Processor, blocks: &[&Block], digests: &mut [[u8; 32]]) {
    assert_eq!(blocks.len(), digests.len(), "each block has one digest");
    let mut work = Work { blocks, digests };
    #[cfg(target_arch = "x86_64")]
    {
        if processor.sha_ni {
            // SAFETY: the processor has the features that the function needs.
            work.run(2, |blocks| unsafe { sha_ni::sha256(blocks) });
        } else if processor.avx512 {
            // SAFETY: the processor has the features that the function needs.
            work.run(3, |blocks| unsafe { avx512::sha256(blocks) });
        } else if processor.avx2 {
            // SAFETY: the processor has the features that the function needs.
            work.run(3, |blocks| unsafe { avx2::sha256(blocks) });
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let Processor = processor;
    work.run(1, |[block]| [Sha256::digest(block).into()]);
}

fn sha512_on(processor: Processor, blocks: &[&Block], digests: &mut [[u8; 64]]) {
    assert_eq!(blocks.len(), digests.len(), "each block has one digest");
    let mut work = Work { blocks, digests };
    #[cfg(target_arch = "x86_64")]
    {
        if processor.avx512 {
            // SAFETY: the processor has the features that the function needs.
            work.run(2, |blocks| unsafe { avx512::sha512(blocks) });
        } else if processor.avx2 {
            // SAFETY: the processor has the features that the function needs.
            work.run(2, |blocks| unsafe { avx2::sha512(blocks) });
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let Processor = processor;
    work.run(1, |[block]| [Sha512::digest(block).into()]);
}

/// Blocks that are yet to be hashed, and where their digests go.
struct Work<'a, const LEN: usize> {
    blocks: &'a [&'a Block],
    digests: &'a mut [[u8; LEN]],
}

impl<const LEN: usize> Work<'_, LEN> {
    /// Takes `LANES` blocks at a time as long as there are at least `least`; lanes that are left over repeat a block.
    fn run<const LANES: usize>(&mut self, least: usize, hash: impl Fn([&Block; LANES]) -> [[u8; LEN]; LANES]) {
        while self.blocks.len() >= least {
            let (now, blocks) = self.blocks.split_at(LANES.min(self.blocks.len()));
            let (slots, digests) = std::mem::take(&mut self.digests).split_at_mut(now.len());
            let hashed = hash(std::array::from_fn(|lane| now[lane.min(now.len() - 1)]));
            slots.copy_from_slice(&hashed[..now.len()]);
            (self.blocks, self.digests) = (blocks, digests);
        }
    }
}
