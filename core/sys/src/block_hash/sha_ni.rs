//! Two SHA-256 side by side with the SHA instructions.
//!
//! One chain of these instructions waits for its own results half of the time; a second one fills the gaps.

use std::arch::x86_64::*;

use super::constants::{H256, K256};
use super::{BLOCK_BYTES, Block};

/// Bytes of a message block.
const CHUNK: usize = 64;

/// One chain: the state in the order that the instructions want, and four words of the message in each vector.
#[derive(Clone, Copy)]
struct Chain {
    abef: __m128i,
    cdgh: __m128i,
}

/// Hashes two blocks.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
pub(super) fn sha256([first, second]: [&Block; 2]) -> [[u8; 32]; 2] {
    let [a, b, c, d, e, f, g, h] = H256.map(u32::cast_signed);
    let initial = Chain { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) };
    let mut chains = [initial; 2];
    let (first, second) = (first.as_chunks().0, second.as_chunks().0);
    for (first, second) in first.iter().zip(second) {
        compress(&mut chains, [load(first), load(second)]);
    }
    // What follows the message: a one, zeros, and the length in bits.
    let zero = _mm_setzero_si128();
    let length = _mm_set_epi32(8 * BLOCK_BYTES as i32, 0, 0, 0);
    let padding = [_mm_set_epi32(0, 0, 0, i32::MIN), zero, zero, length];
    compress(&mut chains, [padding, padding]);
    chains.map(|chain| digest(chain))
}

/// Four rounds of both chains. The names of the words move on by one from call to call, instead of their contents.
macro_rules! rounds {
    ($chains:ident, $w:ident, $k:ident, $schedule:expr, $w0:literal $w1:literal $w2:literal $w3:literal) => {
        let [k0, k1, k2, k3] = $k[$w0].map(u32::cast_signed);
        let k = _mm_set_epi32(k3, k2, k1, k0);
        let words = [_mm_add_epi32($w[0][$w0], k), _mm_add_epi32($w[1][$w0], k)];
        for i in 0..2 {
            $chains[i].cdgh = _mm_sha256rnds2_epu32($chains[i].cdgh, $chains[i].abef, words[i]);
        }
        for i in 0..2 {
            // The upper two words to the lower half.
            let words = _mm_shuffle_epi32::<0b11_10>(words[i]);
            $chains[i].abef = _mm_sha256rnds2_epu32($chains[i].abef, $chains[i].cdgh, words);
        }
        if $schedule {
            for w in $w.iter_mut() {
                let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[$w0], w[$w1]), _mm_alignr_epi8::<4>(w[$w3], w[$w2]));
                w[$w0] = _mm_sha256msg2_epu32(sum, w[$w3]);
            }
        }
    };
}

#[inline]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn compress(chains: &mut [Chain; 2], mut w: [[__m128i; 4]; 2]) {
    let before = *chains;
    let mut after = before;
    for (i, k) in K256.as_chunks::<4>().0.as_chunks::<4>().0.iter().enumerate() {
        let schedule = i < 3;
        rounds!(after, w, k, schedule, 0 1 2 3);
        rounds!(after, w, k, schedule, 1 2 3 0);
        rounds!(after, w, k, schedule, 2 3 0 1);
        rounds!(after, w, k, schedule, 3 0 1 2);
    }
    for i in 0..2 {
        chains[i].abef = _mm_add_epi32(before[i].abef, after[i].abef);
        chains[i].cdgh = _mm_add_epi32(before[i].cdgh, after[i].cdgh);
    }
}

/// The sixteen words of a message block.
#[inline]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn load(chunk: &[u8; CHUNK]) -> [__m128i; 4] {
    let swap = _mm_set_epi32(0x0C0D_0E0F, 0x0809_0A0B, 0x0405_0607, 0x0001_0203);
    let mut words = [_mm_setzero_si128(); 4];
    for (words, bytes) in words.iter_mut().zip(chunk.as_chunks::<16>().0) {
        // SAFETY: the reference covers the 16 bytes that are read, and any alignment will do. All loads take pointers.
        let line = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        *words = _mm_shuffle_epi8(line, swap);
    }
    words
}

#[inline]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn digest(chain: Chain) -> [u8; 32] {
    let words = [
        _mm_extract_epi32::<3>(chain.abef),
        _mm_extract_epi32::<2>(chain.abef),
        _mm_extract_epi32::<3>(chain.cdgh),
        _mm_extract_epi32::<2>(chain.cdgh),
        _mm_extract_epi32::<1>(chain.abef),
        _mm_extract_epi32::<0>(chain.abef),
        _mm_extract_epi32::<1>(chain.cdgh),
        _mm_extract_epi32::<0>(chain.cdgh),
    ];
    let mut digest = [0; 32];
    for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_be_bytes();
    }
    digest
}
