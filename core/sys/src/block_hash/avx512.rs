//! Sixteen SHA-256 or eight SHA-512 at once with AVX-512.

use std::arch::x86_64::*;

pub(super) use self::words32::sha256;
pub(super) use self::words64::sha512;

/// 64 bytes from anywhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_line(line: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that are read, and any alignment will do. All loads take pointers.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// The four 128-bit parts of four vectors, as the columns of a matrix whose rows they were.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let (even_ab, even_cd) = (_mm512_shuffle_i64x2::<EVEN>(a, b), _mm512_shuffle_i64x2::<EVEN>(c, d));
    let (odd_ab, odd_cd) = (_mm512_shuffle_i64x2::<ODD>(a, b), _mm512_shuffle_i64x2::<ODD>(c, d));
    [
        _mm512_shuffle_i64x2::<EVEN>(even_ab, even_cd),
        _mm512_shuffle_i64x2::<EVEN>(odd_ab, odd_cd),
        _mm512_shuffle_i64x2::<ODD>(even_ab, even_cd),
        _mm512_shuffle_i64x2::<ODD>(odd_ab, odd_cd),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn xor3(x: __m512i, y: __m512i, z: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(x, y, z)
}

/// Bits of `y` where `x` has a one, else of `z`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn choose(x: __m512i, y: __m512i, z: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0xCA>(x, y, z)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn majority(x: __m512i, y: __m512i, z: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0xE8>(x, y, z)
}

mod words64 {
    use super::super::constants::{H512, K512};
    use super::super::lanes::{round, sha2_lanes, sha512_lanes};
    use super::super::{BLOCK_BYTES, Block};
    use super::*;

    sha512_lanes!("avx512f,avx512bw", 8 lanes in __m512i);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load(blocks: &[&Block; 8], offset: usize) -> [__m512i; 16] {
        let swap = _mm512_set4_epi32(0x0809_0A0B, 0x0C0D_0E0F, 0x0001_0203, 0x0405_0607);
        let mut w = [_mm512_setzero_si512(); 16];
        for half in 0..2 {
            let line = |lane: usize| {
                let line = &blocks[lane].as_chunks::<64>().0[offset / 64 + half];
                _mm512_shuffle_epi8(load_line(line), swap)
            };
            // Pairs of words: of two blocks each, the even words and the odd words.
            let pair = |lane| {
                let (first, second) = (line(lane), line(lane + 1));
                (_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second))
            };
            let (pair0, pair2, pair4, pair6) = (pair(0), pair(2), pair(4), pair(6));
            let even = transpose_quarters([pair0.0, pair2.0, pair4.0, pair6.0]);
            let odd = transpose_quarters([pair0.1, pair2.1, pair4.1, pair6.1]);
            for i in 0..4 {
                w[8 * half + 2 * i] = even[i];
                w[8 * half + 2 * i + 1] = odd[i];
            }
        }
        w
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn words(vector: __m512i) -> [u64; 8] {
        let mut words = [0; 8];
        // SAFETY: the array has room for the 64 bytes that are written, and any alignment will do. All stores take
        // pointers.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) };
        words
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn splat(word: u64) -> __m512i {
        _mm512_set1_epi64(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn add(x: __m512i, y: __m512i) -> __m512i {
        _mm512_add_epi64(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn rotate_right<const RIGHT: i32, const LEFT: i32>(x: __m512i) -> __m512i {
        _mm512_ror_epi64::<RIGHT>(x)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn shift_right<const N: u32>(x: __m512i) -> __m512i {
        _mm512_srli_epi64::<N>(x)
    }
}

mod words32 {
    use super::super::constants::{H256, K256};
    use super::super::lanes::{round, sha2_lanes, sha256_lanes};
    use super::super::{BLOCK_BYTES, Block};
    use super::*;

    sha256_lanes!("avx512f,avx512bw", 16 lanes in __m512i);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load(blocks: &[&Block; 16], offset: usize) -> [__m512i; 16] {
        let swap = _mm512_set4_epi32(0x0C0D_0E0F, 0x0809_0A0B, 0x0405_0607, 0x0001_0203);
        let line = |lane: usize| _mm512_shuffle_epi8(load_line(&blocks[lane].as_chunks::<64>().0[offset / 64]), swap);
        // Of four blocks each, the words 0, 4, 8, 12; then 1, 5, 9, 13; and so on.
        let quad = |lane| {
            let (a, b, c, d) = (line(lane), line(lane + 1), line(lane + 2), line(lane + 3));
            let (low_ab, high_ab) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (low_cd, high_cd) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(low_ab, low_cd),
                _mm512_unpackhi_epi64(low_ab, low_cd),
                _mm512_unpacklo_epi64(high_ab, high_cd),
                _mm512_unpackhi_epi64(high_ab, high_cd),
            ]
        };
        let quads = [quad(0), quad(4), quad(8), quad(12)];
        let mut w = [_mm512_setzero_si512(); 16];
        for i in 0..4 {
            let columns = transpose_quarters([quads[0][i], quads[1][i], quads[2][i], quads[3][i]]);
            for (j, column) in columns.into_iter().enumerate() {
                w[4 * j + i] = column;
            }
        }
        w
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn words(vector: __m512i) -> [u32; 16] {
        let mut words = [0; 16];
        // SAFETY: the array has room for the 64 bytes that are written, and any alignment will do. All stores take
        // pointers.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) };
        words
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn splat(word: u32) -> __m512i {
        _mm512_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn add(x: __m512i, y: __m512i) -> __m512i {
        _mm512_add_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn rotate_right<const RIGHT: i32, const LEFT: i32>(x: __m512i) -> __m512i {
        _mm512_ror_epi32::<RIGHT>(x)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn shift_right<const N: u32>(x: __m512i) -> __m512i {
        _mm512_srli_epi32::<N>(x)
    }
}
