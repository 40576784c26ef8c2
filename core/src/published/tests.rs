//! A layer goes through chunks and back; what is damaged is refused.

use std::collections::HashSet;
use std::io::Read;

use super::*;
use crate::digest::Algorithm;
use crate::observer::Silent;
use crate::oci::{ContentDigest, import_layer, open_layer};
use crate::repository::{Repository, Verity};

/// An archive of many files; `changed` has other contents.
fn archive(changed: usize) -> Vec<u8> {
    let mut tar = Vec::new();
    for number in 0..2000 {
        let contents = format!("file {number} {}", if number == changed { "new" } else { "old" }).repeat(20);
        let mut header = vec![0; 512];
        let name = format!("usr/{number}");
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..124].copy_from_slice(b"0000000\x000000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", contents.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend(header);
        tar.extend(contents.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn repository() -> (tempfile::TempDir, Repository) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repo");
    Repository::init(&path, Algorithm::Sha512, Verity::Unverified).unwrap();
    let repository = Repository::open(&path).unwrap();
    (folder, repository)
}

fn published(repository: &Repository, tar: &[u8]) -> Vec<Vec<u8>> {
    let diff_id = ContentDigest::sha256(tar);
    import_layer(repository, &diff_id, Box::new(tar), &Silent).unwrap();
    let layer = open_layer(repository, &diff_id).unwrap();
    chunks(repository, &layer.stream).map(|parts| encode(&parts.unwrap())).collect()
}

#[test]
fn a_layer_comes_back_from_its_chunks() {
    let (_folder, repository) = repository();
    let tar = archive(usize::MAX);
    let chunks = published(&repository, &tar);
    let parts = chunks.iter().map(|chunk| {
        let name = ContentDigest::sha256(chunk);
        decode(&zstd::encode_all(&chunk[..], 3).unwrap(), &name, Algorithm::Sha512)
    });
    let mut back = Vec::new();
    LayerBytes::new(&repository, parts).read_to_end(&mut back).unwrap();
    assert!(back == tar);
    assert!((100..400).contains(&chunks.len()), "{}", chunks.len());
}

#[test]
fn a_changed_file_changes_few_chunks() {
    let (_folder, repository) = repository();
    let before: HashSet<_> = published(&repository, &archive(usize::MAX)).into_iter().collect();
    let after = published(&repository, &archive(1000));
    let new = after.iter().filter(|chunk| !before.contains(*chunk)).count();
    assert!((1..=3).contains(&new), "{new}");
}

#[test]
fn damaged_chunks_are_refused() {
    let good = encode(&[Part::Inline(b"inline".to_vec())]);
    let name = ContentDigest::sha256(&good);
    let pack = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    assert!(decode(&pack(&good), &name, Algorithm::Sha512).is_ok());
    assert!(matches!(decode(b"no zstd", &name, Algorithm::Sha512), Err(ChunkError::Decompress { .. })));
    assert!(matches!(decode(&pack(b"other"), &name, Algorithm::Sha512), Err(ChunkError::Digest { .. })));
    let bomb = pack(&vec![0; 100 << 20]);
    assert!(matches!(decode(&bomb, &name, Algorithm::Sha512), Err(ChunkError::TooLong { .. })));
    for length in 1..good.len() {
        let name = ContentDigest::sha256(&good[..length]);
        let cut = decode(&pack(&good[..length]), &name, Algorithm::Sha512);
        assert!(matches!(cut, Err(ChunkError::Truncated { .. })), "{length}");
    }
}

fn index() -> Index {
    let data = b"what is signed".to_vec();
    let attachment = Attachment {
        tag: Some("sha256-00.sig".to_owned()),
        manifest: "{}".to_owned(),
        blobs: vec![AttachedBlob { digest: ContentDigest::sha256(&data), data }],
    };
    let diff_id = ContentDigest::sha256(b"layer");
    Index {
        version: VERSION,
        manifest: "{\"a\": 1}\n".to_owned(),
        config: "{}".to_owned(),
        layers: vec![PublishedLayer { diff_id, chunks: vec![ContentDigest::sha256(b"chunk")] }],
        objects: vec![0, 17],
        attachments: vec![attachment],
    }
}

#[test]
fn an_index_is_read_as_it_was_written_and_refused_when_it_is_another() {
    let (name, file) = index().to_file().unwrap();
    assert_eq!(Index::from_file(&file, &name).unwrap(), index());
    let attachment = index().tagged("sha256-00.sig").cloned().unwrap();
    assert_eq!(attachment.blob(&ContentDigest::sha256(b"what is signed")), Some(&b"what is signed"[..]));
    assert_eq!(index().tagged("sha256-01.sig"), None);
    let other = ContentDigest::sha256(b"other");
    assert!(matches!(Index::from_file(&file, &other), Err(IndexError::Digest { .. })));
    let refused = |change: &dyn Fn(&mut Index)| {
        let mut index = index();
        change(&mut index);
        let (name, file) = index.to_file().unwrap();
        Index::from_file(&file, &name).unwrap_err()
    };
    assert!(matches!(refused(&|index| index.version = 2), IndexError::Version { version: 2, .. }));
    let sha512 = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
    assert!(matches!(refused(&|index| index.layers[0].chunks[0] = sha512), IndexError::Chunk { .. }));
    assert!(matches!(refused(&|index| index.attachments[0].blobs[0].data[0] = 0), IndexError::Blob { .. }));
    let many = |index: &mut Index| index.attachments = vec![index.attachments[0].clone(); ATTACHMENTS_MAX + 1];
    assert!(matches!(refused(&many), IndexError::Attachments { .. }));
    let large = |index: &mut Index| index.attachments[0].blobs[0].data = vec![0; ATTACHED_BLOB_MAX_BYTES + 1];
    assert!(matches!(refused(&large), IndexError::Attachments { .. }));
}

fn summary() -> Summary {
    let digest = ContentDigest::sha256(b"x");
    let image = PublishedImage {
        name: "os".to_owned(),
        tag: "latest".to_owned(),
        platform: "linux/amd64".to_owned(),
        manifest: digest,
        index: PublishedFile { digest, size: 1 },
    };
    Summary {
        version: VERSION,
        serial: 3,
        created: "2026-01-01T00:00:00Z".to_owned(),
        expires: None,
        algorithm: "fsverity-sha512-12".to_owned(),
        images: vec![image],
    }
}

#[test]
fn a_summary_is_read_from_its_envelope_and_refused_when_it_is_malformed() {
    let parse = |summary: &Summary| Summary::parse(&serde_json::to_vec(summary).unwrap());
    let signature = EnvelopeSignature { keyid: "sha256:00".to_owned(), sig: vec![1, 2, 3] };
    let envelope = Envelope { payload: serde_json::to_vec(&summary()).unwrap(), signatures: vec![signature] };
    let read = Envelope::parse(&envelope.to_file().unwrap()).unwrap();
    assert_eq!(read, envelope);
    assert_eq!(Summary::parse(&read.payload).unwrap(), summary());
    // As in the document of the format.
    let hello = Envelope { payload: b"hello".to_vec(), signatures: Vec::new() };
    assert_eq!(hello.signed_bytes(), b"DSSEv1 37 application/vnd.osupdate.summary+json 5 hello");

    let file = String::from_utf8(envelope.to_file().unwrap()).unwrap();
    let other = file.replace("summary+json", "in-toto+json");
    assert!(matches!(Envelope::parse(other.as_bytes()), Err(EnvelopeError::PayloadType(_))));
    let long = vec![b' '; ENVELOPE_MAX_BYTES + 1];
    assert!(matches!(Envelope::parse(&long), Err(EnvelopeError::TooLong)));
    assert!(matches!(Envelope::parse(file.replace("\"AQID\"", "\"!\"").as_bytes()), Err(EnvelopeError::Json(_))));

    let mut twice = summary();
    twice.images.push(twice.images[0].clone());
    assert!(matches!(parse(&twice), Err(SummaryError::Twice { .. })));
    for (name, tag) in [("", "1"), ("../os", "1"), ("OS", "1"), ("os", ""), ("os", "a/b"), ("os", ".1"), ("os-", "1")] {
        let mut bad = summary();
        (bad.images[0].name, bad.images[0].tag) = (name.to_owned(), tag.to_owned());
        assert!(matches!(parse(&bad), Err(SummaryError::Name { .. })), "{name}:{tag}");
    }
}
