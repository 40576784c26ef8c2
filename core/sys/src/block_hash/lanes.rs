//! SHA-2 in the lanes of vectors, written once for all of them.
//!
//! Lane `n` of every vector belongs to block `n`. The modules that use [`sha2_lanes`] bring the vector operations under
//! these names, all with the same target features: `load` (the 16 message words of all blocks at an offset), `splat`,
//! `words`, `add`, `xor3`, `choose`, `majority`, `rotate_right::<N, BITS - N>` and `shift_right::<N>`.

/// One round. The names of the working variables move on by one from round to round, instead of their contents.
macro_rules! round {
    ($k:expr, $w:ident, $t:literal, $a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident) => {
        let sum = add(add($h, add($w[$t], splat($k[$t]))), add(choose($e, $f, $g), big_sigma1($e)));
        $d = add($d, sum);
        $h = add(sum, add(majority($a, $b, $c), big_sigma0($a)));
    };
}

/// Makes a function `$hash` that hashes as many blocks as `$vector` has lanes.
macro_rules! sha2_lanes {
    (
        $(#[$attribute:meta])*
        fn $hash:ident, $features:literal, $lanes:literal lanes of $word:ty as $vector:ty,
        constants $k:ident $initial:ident,
        big_sigma0 $b00:literal $b01:literal $b02:literal, big_sigma1 $b10:literal $b11:literal $b12:literal,
        sigma0 $s00:literal $s01:literal $s02:literal, sigma1 $s10:literal $s11:literal $s12:literal
    ) => {
        /// Bytes of a message block: 16 words.
        const CHUNK: usize = 16 * size_of::<$word>();
        const BITS: i32 = <$word>::BITS as i32;

        $(#[$attribute])*
        #[target_feature(enable = $features)]
        pub(in super::super) fn $hash(blocks: [&Block; $lanes]) -> [[u8; 8 * size_of::<$word>()]; $lanes] {
            let mut state = $initial.map(|word| splat(word));
            for offset in (0..BLOCK_BYTES).step_by(CHUNK) {
                compress(&mut state, load(&blocks, offset));
            }
            // What follows the message: a one, zeros, and the length in bits.
            let mut padding = [splat(0); 16];
            padding[0] = splat((1 as $word).rotate_right(1));
            padding[15] = splat(8 * BLOCK_BYTES as $word);
            compress(&mut state, padding);

            let mut digests = [[0; 8 * size_of::<$word>()]; $lanes];
            for (i, vector) in state.into_iter().enumerate() {
                for (digest, word) in digests.iter_mut().zip(words(vector)) {
                    digest[i * size_of::<$word>()..][..size_of::<$word>()].copy_from_slice(&word.to_be_bytes());
                }
            }
            digests
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn compress(state: &mut [$vector; 8], mut w: [$vector; 16]) {
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
            for (i, k) in $k.as_chunks::<16>().0.iter().enumerate() {
                if i > 0 {
                    schedule(&mut w);
                }
                round!(k, w, 0, a b c d e f g h);
                round!(k, w, 1, h a b c d e f g);
                round!(k, w, 2, g h a b c d e f);
                round!(k, w, 3, f g h a b c d e);
                round!(k, w, 4, e f g h a b c d);
                round!(k, w, 5, d e f g h a b c);
                round!(k, w, 6, c d e f g h a b);
                round!(k, w, 7, b c d e f g h a);
                round!(k, w, 8, a b c d e f g h);
                round!(k, w, 9, h a b c d e f g);
                round!(k, w, 10, g h a b c d e f);
                round!(k, w, 11, f g h a b c d e);
                round!(k, w, 12, e f g h a b c d);
                round!(k, w, 13, d e f g h a b c);
                round!(k, w, 14, c d e f g h a b);
                round!(k, w, 15, b c d e f g h a);
            }
            for (sum, vector) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                *sum = add(*sum, vector);
            }
        }

        /// The message words of the next 16 rounds.
        #[inline]
        #[target_feature(enable = $features)]
        fn schedule(w: &mut [$vector; 16]) {
            for t in 0..16 {
                let sum = add(w[t], w[(t + 9) % 16]);
                w[t] = add(sum, add(sigma0(w[(t + 1) % 16]), sigma1(w[(t + 14) % 16])));
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn big_sigma0(x: $vector) -> $vector {
            let (first, second) = (rotate_right::<$b00, { BITS - $b00 }>(x), rotate_right::<$b01, { BITS - $b01 }>(x));
            xor3(first, second, rotate_right::<$b02, { BITS - $b02 }>(x))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn big_sigma1(x: $vector) -> $vector {
            let (first, second) = (rotate_right::<$b10, { BITS - $b10 }>(x), rotate_right::<$b11, { BITS - $b11 }>(x));
            xor3(first, second, rotate_right::<$b12, { BITS - $b12 }>(x))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn sigma0(x: $vector) -> $vector {
            let (first, second) = (rotate_right::<$s00, { BITS - $s00 }>(x), rotate_right::<$s01, { BITS - $s01 }>(x));
            xor3(first, second, shift_right::<$s02>(x))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn sigma1(x: $vector) -> $vector {
            let (first, second) = (rotate_right::<$s10, { BITS - $s10 }>(x), rotate_right::<$s11, { BITS - $s11 }>(x));
            xor3(first, second, shift_right::<$s12>(x))
        }
    };
}

/// [`sha2_lanes`] for SHA-256.
macro_rules! sha256_lanes {
    ($features:literal, $lanes:literal lanes in $vector:ty) => {
        sha2_lanes! {
            fn sha256, $features, $lanes lanes of u32 as $vector,
            constants K256 H256,
            big_sigma0 2 13 22, big_sigma1 6 11 25,
            sigma0 7 18 3, sigma1 17 19 10
        }
    };
}

/// [`sha2_lanes`] for SHA-512.
macro_rules! sha512_lanes {
    ($features:literal, $lanes:literal lanes in $vector:ty) => {
        sha2_lanes! {
            fn sha512, $features, $lanes lanes of u64 as $vector,
            constants K512 H512,
            big_sigma0 28 34 39, big_sigma1 14 18 41,
            sigma0 1 8 7, sigma1 19 61 6
        }
    };
}

pub(super) use {round, sha2_lanes, sha256_lanes, sha512_lanes};
