//! Round trips, both headers, and hostile bytes.

use super::*;
use crate::digest::{Algorithm, Digest};

const ALGORITHM: Algorithm = Algorithm::Sha256;

fn digest(seed: u8) -> Digest {
    Digest::new(ALGORITHM, &[seed; 32]).unwrap()
}

/// Inline, object 1, inline, object 2, object 1; two labels.
fn sample() -> Vec<u8> {
    let mut writer = Writer::new(ALGORITHM, ContentType::Layer).unwrap();
    writer.inline(b"head");
    writer.inline(b"er");
    writer.external(digest(1), 100).unwrap();
    writer.inline(b"between");
    writer.external(digest(2), 200).unwrap();
    writer.external(digest(1), 100).unwrap();
    writer.named_ref("z: last", digest(9));
    writer.named_ref("a", digest(8));
    writer.named_ref("also a", digest(8));
    writer.finish().unwrap()
}

fn chunks(reader: &Reader) -> Vec<Chunk> {
    reader.chunks().collect::<Result<_, _>>().unwrap()
}

fn open(data: Vec<u8>) -> Result<Reader, ReadError> {
    Reader::new(data, ALGORITHM)
}

#[test]
fn what_is_written_is_read() {
    let reader = open(sample()).unwrap();
    assert_eq!(reader.content_type(), ContentType::Layer);
    assert_eq!(reader.merged_size(), 6 + 100 + 7 + 200 + 100);
    assert_eq!(reader.object_refs(), [digest(1), digest(2)]);
    let labels: Vec<_> = reader.named_refs().iter().map(|(label, digest)| (label.as_str(), *digest)).collect();
    assert_eq!(labels, [("a", digest(8)), ("also a", digest(8)), ("z: last", digest(9))]);
    let expected = [
        Chunk::Inline(b"header".to_vec()),
        Chunk::External(digest(1)),
        Chunk::Inline(b"between".to_vec()),
        Chunk::External(digest(2)),
        Chunk::External(digest(1)),
    ];
    assert_eq!(chunks(&reader), expected);
    assert!(is_splitstream(&sample()[..32]));
}

#[test]
fn an_empty_stream_has_nothing() {
    let data = Writer::new(ALGORITHM, ContentType::Blob).unwrap().finish().unwrap();
    let reader = open(data).unwrap();
    assert_eq!((chunks(&reader).len(), reader.merged_size()), (0, 0));
    assert!(reader.named_refs().is_empty());
    assert!(matches!(reader.expect(ContentType::Config), Err(ReadError::ContentType { .. })));
}

#[test]
fn long_inline_runs_come_in_pieces() {
    let long: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut writer = Writer::new(ALGORITHM, ContentType::Layer).unwrap();
    writer.inline(&long);
    writer.external(digest(1), 1).unwrap();
    let reader = open(writer.finish().unwrap()).unwrap();
    let mut merged = Vec::new();
    let mut pieces = 0;
    for chunk in reader.chunks() {
        if let Chunk::Inline(bytes) = chunk.unwrap() {
            assert!(bytes.len() <= 1 << 20);
            merged.extend(bytes);
            pieces += 1;
        }
    }
    assert_eq!(pieces, 3);
    assert!(merged == long);
}

#[test]
fn the_old_header_is_read() {
    let mut data = sample();
    let header = Header::read_from_prefix(&data).unwrap().0;
    let old = OldHeader {
        info: header.info,
        flags: header.flags,
        magic: MAGIC,
        version: VERSION,
        algorithm: header.algorithm,
        lg_block_size: header.lg_block_size,
    };
    data[..32].copy_from_slice(old.as_bytes());
    assert!(is_splitstream(&data[..32]));
    assert_eq!(chunks(&open(data).unwrap()).len(), 5);
}

/// A stream with these raw sections.
fn raw(stream: &[u8], named_refs: &[u8], info_extra: usize) -> Vec<u8> {
    let pack = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let sections = [digest(7).as_bytes().to_vec(), digest(1).as_bytes().to_vec(), pack(named_refs), pack(stream)];
    let mut end = 32 + 80 + info_extra as u64;
    let [stream_refs, object_refs, named_refs, stream] = sections.each_ref().map(|section| {
        // A gap before each section, as the format permits.
        let start = end + 3;
        end = start + section.len() as u64;
        Range { start: start.into(), end: end.into() }
    });
    let header = Header {
        magic: MAGIC,
        version: 0,
        flags: 0xffff.into(),
        algorithm: ALGORITHM.kernel_id(),
        lg_block_size: 12,
        info: Range { start: 32.into(), end: (32 + 80 + info_extra as u64).into() },
    };
    let info =
        Info { stream_refs, object_refs, stream, named_refs, content_type: 5.into(), merged_size: u64::MAX.into() };
    let mut data = header.as_bytes().to_vec();
    data.extend(info.as_bytes());
    data.extend(vec![0xee; info_extra]);
    for section in sections {
        data.extend([0xdd; 3]);
        data.extend(section);
    }
    data
}

fn external(index: i64) -> [u8; 8] {
    index.to_le_bytes()
}

#[test]
fn what_other_writers_may_do_is_accepted() {
    let data = raw(&external(0), b"0:b\x000:a:with colon\0", 16);
    let reader = open(data).unwrap();
    assert_eq!(reader.content_type(), ContentType::Other(5));
    assert_eq!(reader.named_refs().keys().collect::<Vec<_>>(), ["a:with colon", "b"]);
    assert_eq!(chunks(&reader), [Chunk::External(digest(1))]);
}

#[test]
fn several_frames_are_one_section() {
    let mut data = raw(&external(0), b"", 0);
    let second = zstd::encode_all(&external(0)[..], 19).unwrap();
    data.extend(&second);
    let end = (data.len() as u64).to_le_bytes();
    // The end of the stream section: third range of the info block.
    data[32 + 32 + 8..32 + 32 + 16].copy_from_slice(&end);
    assert_eq!(chunks(&open(data).unwrap()).len(), 2);
}

#[test]
fn broken_named_refs_are_refused() {
    for bad in ["1:beyond the table\0", "0:no end", "no colon\0", "x:y\0", "-1:y\0", ":y\0"] {
        assert!(matches!(open(raw(b"", bad.as_bytes(), 0)), Err(ReadError::NamedRef)), "{bad:?}");
    }
    assert!(matches!(open(raw(b"", b"0:\xff\0", 0)), Err(ReadError::NamedRef)));
    let bomb = vec![b'0'; 20 << 20];
    assert!(matches!(open(raw(b"", &bomb, 0)), Err(ReadError::Section { section: "named refs" })));
}

#[test]
fn broken_chunks_end_the_stream_with_an_error() {
    let first_error = |stream: &[u8]| {
        let reader = open(raw(stream, b"", 0)).unwrap();
        let mut results: Vec<_> = reader.chunks().collect();
        assert!(results.len() < 3);
        results.pop().unwrap().unwrap_err()
    };
    assert!(matches!(first_error(&external(1)), ReadError::ObjectIndex { index: 1, count: 1 }));
    assert!(matches!(first_error(&external(i64::MAX)), ReadError::ObjectIndex { .. }));
    assert!(matches!(first_error(&[0; 7]), ReadError::Truncated));
    // 2^63 bytes are announced; nothing of that size is allocated.
    let mut announced = external(i64::MIN).to_vec();
    announced.extend(b"but there are few");
    assert!(matches!(first_error(&announced), ReadError::Truncated));
}

#[test]
fn foreign_headers_are_refused() {
    let change = |at: usize, byte: u8| {
        let mut data = sample();
        data[at] = byte;
        open(data).unwrap_err()
    };
    assert!(matches!(change(0, b'X'), ReadError::Magic));
    assert!(matches!(change(11, 1), ReadError::Version(1)));
    assert!(matches!(change(14, 2), ReadError::Algorithm { found: 2, .. }));
    assert!(matches!(change(15, 16), ReadError::BlockSize(16)));
    // The info block ends one byte early.
    assert!(matches!(change(24, 111), ReadError::Section { section: "info block" }));
    for length in [0, 10, 31, 32, 100, 111] {
        assert!(open(sample()[..length].to_vec()).is_err(), "{length}");
    }
}

#[test]
fn no_single_changed_byte_does_harm() {
    let good = sample();
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut data = good.clone();
            data[at] ^= flip;
            if let Ok(reader) = open(data) {
                assert!(reader.chunks().count() <= good.len());
            }
        }
    }
    for length in 0..good.len() {
        if let Ok(reader) = open(good[..length].to_vec()) {
            assert!(reader.chunks().count() <= good.len());
        }
    }
}

#[test]
fn labels_with_nul_are_refused() {
    let mut writer = Writer::new(ALGORITHM, ContentType::Manifest).unwrap();
    writer.named_ref("a\0b", digest(1));
    assert!(writer.finish().is_err());
}

#[test]
fn inline_bytes_are_compressed() {
    let mut writer = Writer::new(ALGORITHM, ContentType::Layer).unwrap();
    for _ in 0..1000 {
        writer.inline(&[0; 512]);
    }
    let data = writer.finish().unwrap();
    assert!(data.len() < 2000, "{}", data.len());
}

/// Long runs are compressed before they end; what is read is one chunk all the same.
#[test]
fn long_inline_runs_take_little_memory() {
    let object = digest(1);
    let noise = |len: usize, seed: u32| -> Vec<u8> {
        let mut state = seed;
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(step).collect()
    };
    let mut writer = Writer::new(Algorithm::Sha256, ContentType::Layer).unwrap();
    let runs = [noise(5, 1), noise((1 << 20) - 1, 2), noise(1 << 20, 3), noise(3_500_000, 4), vec![b'z'; 40 << 20]];
    for run in &runs {
        writer.external(object, 6).unwrap();
        for piece in run.chunks(300_000) {
            writer.inline(piece);
        }
    }
    assert!(writer.held_bytes() < 8 << 20, "{}", writer.held_bytes());
    let reader = Reader::new(writer.finish().unwrap(), Algorithm::Sha256).unwrap();
    let total: usize = runs.iter().map(|run| run.len() + 6).sum();
    assert_eq!(reader.merged_size(), total as u64);
    let mut merged: Vec<Vec<u8>> = Vec::new();
    for chunk in reader.chunks() {
        match chunk.unwrap() {
            Chunk::External(_) => merged.push(Vec::new()),
            Chunk::Inline(bytes) => merged.last_mut().unwrap().extend(bytes),
        }
    }
    assert!(merged == runs);
}
