//! Eight SHA-256 or four SHA-512 at once with AVX2.

use std::arch::x86_64::*;

pub(super) use self::words32::sha256;
pub(super) use self::words64::sha512;

/// 32 bytes from anywhere.
#[inline]
#[target_feature(enable = "avx2")]
fn load_line(line: &[u8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that are read, and any alignment will do. All loads take pointers.
    unsafe { _mm256_loadu_si256(line.as_ptr().cast()) }
}

/// The lower halves of two vectors, and the upper ones.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_halves(a: __m256i, b: __m256i) -> [__m256i; 2] {
    [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor3(x: __m256i, y: __m256i, z: __m256i) -> __m256i {
    _mm256_xor_si256(_mm256_xor_si256(x, y), z)
}

/// Bits of `y` where `x` has a one, else of `z`.
#[inline]
#[target_feature(enable = "avx2")]
fn choose(x: __m256i, y: __m256i, z: __m256i) -> __m256i {
    _mm256_xor_si256(z, _mm256_and_si256(x, _mm256_xor_si256(y, z)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn majority(x: __m256i, y: __m256i, z: __m256i) -> __m256i {
    _mm256_xor_si256(y, _mm256_and_si256(_mm256_xor_si256(x, y), _mm256_xor_si256(y, z)))
}

mod words64 {
    use super::super::constants::{H512, K512};
    use super::super::lanes::{round, sha2_lanes, sha512_lanes};
    use super::super::{BLOCK_BYTES, Block};
    use super::*;

    sha512_lanes!("avx2", 4 lanes in __m256i);

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(blocks: &[&Block; 4], offset: usize) -> [__m256i; 16] {
        let swap = _mm256_broadcastsi128_si256(_mm_set_epi32(0x0809_0A0B, 0x0C0D_0E0F, 0x0001_0203, 0x0405_0607));
        let mut w = [_mm256_setzero_si256(); 16];
        for part in 0..4 {
            let line = |lane: usize| {
                let line = &blocks[lane].as_chunks::<32>().0[offset / 32 + part];
                _mm256_shuffle_epi8(load_line(line), swap)
            };
            let (a, b, c, d) = (line(0), line(1), line(2), line(3));
            let even = transpose_halves(_mm256_unpacklo_epi64(a, b), _mm256_unpacklo_epi64(c, d));
            let odd = transpose_halves(_mm256_unpackhi_epi64(a, b), _mm256_unpackhi_epi64(c, d));
            for i in 0..2 {
                w[4 * part + 2 * i] = even[i];
                w[4 * part + 2 * i + 1] = odd[i];
            }
        }
        w
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn words(vector: __m256i) -> [u64; 4] {
        let mut words = [0; 4];
        // SAFETY: the array has room for the 32 bytes that are written, and any alignment will do. All stores take
        // pointers.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) };
        words
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn splat(word: u64) -> __m256i {
        _mm256_set1_epi64x(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(x: __m256i, y: __m256i) -> __m256i {
        _mm256_add_epi64(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn rotate_right<const RIGHT: i32, const LEFT: i32>(x: __m256i) -> __m256i {
        _mm256_or_si256(_mm256_srli_epi64::<RIGHT>(x), _mm256_slli_epi64::<LEFT>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn shift_right<const N: i32>(x: __m256i) -> __m256i {
        _mm256_srli_epi64::<N>(x)
    }
}

mod words32 {
    use super::super::constants::{H256, K256};
    use super::super::lanes::{round, sha2_lanes, sha256_lanes};
    use super::super::{BLOCK_BYTES, Block};
    use super::*;

    sha256_lanes!("avx2", 8 lanes in __m256i);

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(blocks: &[&Block; 8], offset: usize) -> [__m256i; 16] {
        let swap = _mm256_broadcastsi128_si256(_mm_set_epi32(0x0C0D_0E0F, 0x0809_0A0B, 0x0405_0607, 0x0001_0203));
        let mut w = [_mm256_setzero_si256(); 16];
        for half in 0..2 {
            let line = |lane: usize| {
                let line = &blocks[lane].as_chunks::<32>().0[offset / 32 + half];
                _mm256_shuffle_epi8(load_line(line), swap)
            };
            // Of four blocks each, the words 0 and 4; 1 and 5; and so on.
            let quad = |lane| {
                let (a, b, c, d) = (line(lane), line(lane + 1), line(lane + 2), line(lane + 3));
                let (low_ab, high_ab) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let (low_cd, high_cd) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                [
                    _mm256_unpacklo_epi64(low_ab, low_cd),
                    _mm256_unpackhi_epi64(low_ab, low_cd),
                    _mm256_unpacklo_epi64(high_ab, high_cd),
                    _mm256_unpackhi_epi64(high_ab, high_cd),
                ]
            };
            let (lower, upper) = (quad(0), quad(4));
            for i in 0..4 {
                let columns = transpose_halves(lower[i], upper[i]);
                w[8 * half + i] = columns[0];
                w[8 * half + 4 + i] = columns[1];
            }
        }
        w
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn words(vector: __m256i) -> [u32; 8] {
        let mut words = [0; 8];
        // SAFETY: the array has room for the 32 bytes that are written, and any alignment will do. All stores take
        // pointers.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) };
        words
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn splat(word: u32) -> __m256i {
        _mm256_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(x: __m256i, y: __m256i) -> __m256i {
        _mm256_add_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn rotate_right<const RIGHT: i32, const LEFT: i32>(x: __m256i) -> __m256i {
        _mm256_or_si256(_mm256_srli_epi32::<RIGHT>(x), _mm256_slli_epi32::<LEFT>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn shift_right<const N: i32>(x: __m256i) -> __m256i {
        _mm256_srli_epi32::<N>(x)
    }
}
