//! Split streams: any bytes; any chunks and labels in a well-formed container; and any sequence of calls of the writer.

use osupdate_core::splitstream::{Chunk, ContentType, Reader, Writer};
use osupdate_core::{Algorithm, Digest, fsverity};

const ALGORITHM: Algorithm = Algorithm::Sha256;
/// More than this of a merged stream is not looked at; its length is hostile, and not kept by anybody.
const MERGED_MAX: usize = 64 << 20;

pub(crate) fn run(input: &[u8]) {
    let Some((mode, input)) = input.split_first() else { return };
    match mode % 4 {
        0 => read(input.to_vec(), Algorithm::Sha256),
        1 => read(input.to_vec(), Algorithm::Sha512),
        2 => {
            let (chunks, labels) = input.split_at(input.len() / 2);
            read(container(chunks, labels), ALGORITHM);
        }
        _ => write(input),
    }
}

fn read(stream: Vec<u8>, algorithm: Algorithm) {
    let Ok(reader) = Reader::new(stream, algorithm) else { return };
    let mut merged = 0;
    for chunk in reader.chunks() {
        match chunk {
            Ok(Chunk::Inline(bytes)) => merged += bytes.len(),
            Ok(Chunk::External(digest)) => assert!(reader.object_refs().contains(&digest)),
            Err(_) => return,
        }
        if merged > MERGED_MAX {
            return;
        }
    }
}

/// A stream of version 0 with two stream refs, two object refs, and these chunks and named refs, compressed.
pub(crate) fn container(chunks: &[u8], named_refs: &[u8]) -> Vec<u8> {
    let compress = |bytes| zstd::encode_all(bytes, 1).expect("memory can be compressed");
    let refs = [digest(0).as_bytes(), digest(1).as_bytes()].concat();
    let sections = [refs.clone(), refs, compress(chunks), compress(named_refs)];
    let mut stream = b"SplitStream\0\0\0\x01\x0c".to_vec();
    let info = 32_u64;
    stream.extend([info, info + 80].iter().flat_map(|at| at.to_le_bytes()));
    let mut at = info + 80;
    for section in &sections {
        let end = at + section.len() as u64;
        stream.extend([at, end].iter().flat_map(|at| at.to_le_bytes()));
        at = end;
    }
    stream.extend(b"ocilayer\0\0\0\0\0\0\0\0");
    stream.extend(sections.concat());
    stream
}

fn digest(number: u8) -> Digest {
    fsverity::digest(ALGORITHM, &[number])
}

/// Pairs of bytes are calls: with an odd first byte an object, with 0 a label, else that many bytes.
fn write(calls: &[u8]) {
    let mut writer = Writer::new(ALGORITHM, ContentType::Layer).expect("memory can be written to");
    let mut expected: Vec<Chunk> = Vec::new();
    let mut labels = std::collections::BTreeMap::new();
    let mut merged_size = 0;
    for call in calls.chunks_exact(2) {
        match (call[0], call[1]) {
            (0, number) => {
                let label = format!("{}:{number}", char::from(number.max(1)));
                writer.named_ref(&label, digest(number / 2));
                labels.insert(label, digest(number / 2));
            }
            (call, number) if call % 2 == 1 => {
                writer.external(digest(number), call.into()).expect("memory can be written to");
                merged_size += u64::from(call);
                expected.push(Chunk::External(digest(number)));
            }
            (call, byte) => {
                let bytes = vec![byte; usize::from(call) * 40];
                writer.inline(&bytes);
                merged_size += bytes.len() as u64;
                match expected.last_mut() {
                    Some(Chunk::Inline(last)) => last.extend(bytes),
                    _ => expected.push(Chunk::Inline(bytes)),
                }
            }
        }
    }
    let stream = writer.finish().expect("no label has a NUL");
    let reader = Reader::new(stream, ALGORITHM).expect("a stream of our own can be read");
    assert_eq!((reader.merged_size(), reader.named_refs()), (merged_size, &labels));
    let mut read: Vec<Chunk> = Vec::new();
    for chunk in reader.chunks() {
        match (read.last_mut(), chunk.expect("a chunk of our own can be read")) {
            // Long ones come in pieces.
            (Some(Chunk::Inline(last)), Chunk::Inline(more)) => last.extend(more),
            (_, chunk) => read.push(chunk),
        }
    }
    assert!(read == expected, "other chunks than were written");
}
