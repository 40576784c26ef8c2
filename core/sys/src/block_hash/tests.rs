use super::*;

/// Blocks that differ in every bit position somewhere; xorshift is random enough.
fn blocks(count: usize) -> Vec<Block> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(|_| std::array::from_fn(|_| next())).collect()
}

/// Every way that this processor has, alone and together, and the way without any.
#[cfg(target_arch = "x86_64")]
fn processors() -> Vec<Processor> {
    let all = Processor::detect();
    println!("this processor: {all:?}; the ways it lacks are not tested");
    let none = Processor::default();
    let alone = [
        Processor { avx512: all.avx512, ..none },
        Processor { avx2: all.avx2, ..none },
        Processor { sha_ni: all.sha_ni, ..none },
    ];
    [none, all].into_iter().chain(alone).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn processors() -> Vec<Processor> {
    vec![Processor]
}

#[test]
fn every_way_gives_the_digests_of_sha2() {
    let blocks = blocks(37);
    let sha256: Vec<[u8; 32]> = blocks.iter().map(|block| Sha256::digest(block).into()).collect();
    let sha512: Vec<[u8; 64]> = blocks.iter().map(|block| Sha512::digest(block).into()).collect();
    let blocks: Vec<&Block> = blocks.iter().collect();
    for processor in processors() {
        for count in 0..=blocks.len() {
            let mut digests = vec![[0; 32]; count];
            sha256_on(processor, &blocks[..count], &mut digests);
            assert_eq!(digests, sha256[..count], "SHA-256 of {count} blocks, {processor:?}");
            let mut digests = vec![[0; 64]; count];
            sha512_on(processor, &blocks[..count], &mut digests);
            assert_eq!(digests, sha512[..count], "SHA-512 of {count} blocks, {processor:?}");
        }
    }
}

#[test]
#[should_panic(expected = "each block has one digest")]
fn a_digest_for_each_block_is_demanded() {
    sha256(&[&[0; BLOCK_BYTES]], &mut []);
}
