//! The files of published trees: what is accepted is the same after it was written and read again.

use std::io::Read;

use osupdate_core::Algorithm;
use osupdate_core::oci::ContentDigest;
use osupdate_core::published::{CHUNK_MAX_BYTES, Envelope, Index, Summary, decode, encode};

fn compress(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).expect("memory can be compressed")
}

/// The file of a chunk, or what one has inside, for either algorithm.
pub(crate) fn chunk(input: &[u8]) {
    let Some((mode, input)) = input.split_first() else { return };
    let algorithm = if mode & 1 == 0 { Algorithm::Sha256 } else { Algorithm::Sha512 };
    let (file, plain) = if mode & 2 == 0 {
        (compress(input), input.to_vec())
    } else {
        let mut plain = Vec::new();
        let Ok(decoder) = zstd::Decoder::with_buffer(input) else { return };
        // Its name is that of what can be read of it.
        if decoder.take(CHUNK_MAX_BYTES as u64 + 1).read_to_end(&mut plain).is_err() {
            plain.clear();
        }
        (input.to_vec(), plain)
    };
    if let Ok(parts) = decode(&file, &ContentDigest::sha256(&plain), algorithm) {
        assert!(encode(&parts) == plain, "other parts than there are");
    }
}

/// The file of an index, or its JSON.
pub(crate) fn index(input: &[u8]) {
    let Some((mode, input)) = input.split_first() else { return };
    let file = if mode & 1 == 0 { compress(input) } else { input.to_vec() };
    let Ok(index) = Index::from_file(&file, &ContentDigest::sha256(&file)) else { return };
    let (name, file) = index.to_file().expect("it has a form");
    assert!(Index::from_file(&file, &name).expect("what is written is accepted") == index);
}

/// An envelope, or the summary in one.
pub(crate) fn summary(input: &[u8]) {
    let payload = match Envelope::parse(input) {
        Ok(envelope) => {
            let file = envelope.to_file().expect("it has a form");
            assert!(Envelope::parse(&file).expect("what is written is accepted") == envelope);
            assert!(envelope.signed_bytes().ends_with(&envelope.payload));
            envelope.payload
        }
        Err(_) => input.to_vec(),
    };
    let Ok(summary) = Summary::parse(&payload) else { return };
    let written = serde_json::to_vec(&summary).expect("it has a form");
    assert!(Summary::parse(&written).expect("what is written is accepted") == summary);
}
