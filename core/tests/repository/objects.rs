use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::thread;

use osupdate_core::repository::ObjectError;
use osupdate_core::tree::Content;
use osupdate_core::{Algorithm, Digest, fsverity};

use crate::fixture::{empty, files};

fn digest(data: &[u8]) -> Digest {
    fsverity::digest(Algorithm::Sha512, data)
}

/// Larger than what a writer keeps in memory.
fn large() -> Vec<u8> {
    (0..1_100_001_u32).map(|i| (i % 253) as u8).collect()
}

#[test]
fn an_object_is_stored_once_under_its_digest() {
    let temporary = empty();
    for data in [&b""[..], b"x", &[7; 4096], &large()] {
        let stored = temporary.repository.put_object(data).unwrap();
        assert_eq!((stored.digest, stored.size_bytes, stored.new), (digest(data), data.len() as u64, true));
        let again = temporary.repository.put_object(data).unwrap();
        assert_eq!((again.digest, again.new), (stored.digest, false));
        assert_eq!(temporary.repository.read_object(&stored.digest).unwrap(), data);
        let path = temporary.path.join("objects").join(stored.digest.object_path());
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7733, 0o600);
    }
    assert_eq!(files(&temporary.path).len(), 5);
}

#[test]
fn a_writer_makes_the_same_objects() {
    let temporary = empty();
    for data in [&b""[..], b"x", &large()] {
        let mut writer = temporary.repository.new_object().unwrap();
        for piece in data.chunks(10_007) {
            writer.write_all(piece).unwrap();
        }
        let stored = writer.finish().unwrap();
        assert_eq!((stored.digest, stored.size_bytes, stored.new), (digest(data), data.len() as u64, true));
        assert!(!temporary.repository.put_object(data).unwrap().new);
        let mut writer = temporary.repository.new_object().unwrap();
        writer.write_all(data).unwrap();
        assert!(!writer.finish().unwrap().new);
        assert_eq!(temporary.repository.read_object(&stored.digest).unwrap(), data);
    }
}

#[test]
fn an_abandoned_writer_leaves_nothing() {
    let temporary = empty();
    let mut writer = temporary.repository.new_object().unwrap();
    writer.write_all(&large()).unwrap();
    drop(writer);
    assert_eq!(files(&temporary.path), ["meta.json"]);
}

#[test]
fn threads_may_store_the_same_object() {
    let temporary = empty();
    let data = large();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..50_u8 {
                    temporary.repository.put_object(&[n; 100]).unwrap();
                }
                let mut writer = temporary.repository.new_object().unwrap();
                writer.write_all(&data).unwrap();
                assert_eq!(writer.finish().unwrap().digest, digest(&data));
            });
        }
    });
    assert_eq!(files(&temporary.path).len(), 52);
}

#[test]
fn what_is_not_there_is_not_found() {
    let temporary = empty();
    let missing = digest(b"missing");
    let error = temporary.repository.open_object(&missing).unwrap_err();
    assert!(matches!(error, ObjectError::NotFound { digest } if digest == missing));
    assert!(!temporary.repository.has_object(&missing).unwrap());
    temporary.repository.put_object(b"missing").unwrap();
    assert!(temporary.repository.has_object(&missing).unwrap());
    let other = fsverity::digest(Algorithm::Sha256, b"missing");
    assert!(matches!(temporary.repository.open_object(&other), Err(ObjectError::Algorithm { .. })));
}

#[test]
fn damage_is_noticed_and_repaired_by_storing_again() {
    let temporary = empty();
    let large = large();
    for (data, by_writer) in [(&b"contents"[..], false), (&b"contents"[..], true), (&large[..], false), (&large, true)]
    {
        let stored = temporary.repository.put_object(data).unwrap();
        let path = temporary.path.join("objects").join(stored.digest.object_path());
        // Empty, as a crash may leave it; of the same size; longer.
        let mut same_size = data.to_vec();
        same_size[data.len() / 2] ^= 1;
        for damaged in [Vec::new(), same_size, [data, b"more"].concat()] {
            fs::write(&path, &damaged).unwrap();
            let error = temporary.repository.read_object(&stored.digest).unwrap_err();
            assert!(matches!(error, ObjectError::Mismatch { .. }), "{error}");
            let again = if by_writer {
                let mut writer = temporary.repository.new_object().unwrap();
                writer.write_all(data).unwrap();
                writer.finish().unwrap()
            } else {
                temporary.repository.put_object(data).unwrap()
            };
            assert!(again.new && again.digest == stored.digest);
            assert_eq!(temporary.repository.read_object(&stored.digest).unwrap(), data);
        }
    }
    assert_eq!(files(&temporary.path).len(), 3);
}

#[test]
fn contents_of_files_are_found_by_digest_or_path() {
    let temporary = empty();
    let stored = temporary.repository.put_object(b"outside").unwrap();
    let read = |content: &Content| {
        let mut data = Vec::new();
        temporary.repository.open_content(content).map(|mut reader| {
            reader.read_to_end(&mut data).unwrap();
            data
        })
    };
    assert_eq!(read(&Content::Inline(b"inside".to_vec().into())).unwrap(), b"inside");
    assert_eq!(read(&Content::object(stored.digest, 7)).unwrap(), b"outside");
    let payload = |path: &str| Content::External { size: 7, payload: Some(path.as_bytes().into()), digest: None };
    assert_eq!(read(&payload(&stored.digest.object_path())).unwrap(), b"outside");
    assert!(matches!(read(&payload("../meta.json")), Err(ObjectError::Payload { .. })));
    let stub = Content::External { size: 7, payload: None, digest: None };
    assert!(matches!(read(&stub), Err(ObjectError::Stub)));
}
