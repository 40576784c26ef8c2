//! Merged streams, and images made elsewhere.

use std::fs;
use std::io::Write;

use osupdate_core::erofs;
use osupdate_core::repository::{ImportError, MergeError, ObjectError};
use osupdate_core::splitstream::{ContentType, Writer};

use crate::fixture::{Temporary, empty, of_cfsctl};

/// A stream of inline bytes, an object, and inline bytes; returns the object's path and the opened stream.
fn stream(temporary: &Temporary, object: &[u8]) -> (std::path::PathBuf, osupdate_core::splitstream::Reader) {
    let repository = &temporary.repository;
    let stored = repository.put_object(object).unwrap();
    let mut writer = Writer::new(repository.algorithm(), ContentType::Layer).unwrap();
    writer.inline(b"before ");
    writer.external(stored.digest, stored.size_bytes).unwrap();
    writer.inline(b" after");
    let digest = repository.put_object(&writer.finish().unwrap()).unwrap().digest;
    let reader = repository.open_stream(&digest, Some(ContentType::Layer)).unwrap();
    (temporary.path.join("objects").join(stored.digest.object_path()), reader)
}

#[test]
fn a_merged_stream_has_everything_in_its_place() {
    let temporary = empty();
    let object: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    let (_, reader) = stream(&temporary, &object);
    let mut merged = Vec::new();
    let size = temporary.repository.write_merged(&reader, &mut merged).unwrap();
    assert_eq!(size, merged.len() as u64);
    assert!(merged == [&b"before "[..], &object, b" after"].concat());
}

#[test]
fn missing_and_damaged_parts_of_a_stream_are_noticed() {
    let temporary = empty();
    let (path, reader) = stream(&temporary, &[7; 5000]);
    fs::remove_file(&path).unwrap();
    let result = temporary.repository.write_merged(&reader, &mut Vec::new());
    assert!(matches!(result, Err(MergeError::Object(ObjectError::NotFound { .. }))), "{result:?}");
    fs::write(&path, [8; 5000]).unwrap();
    let result = temporary.repository.write_merged(&reader, &mut Vec::new());
    assert!(matches!(result, Err(MergeError::Object(ObjectError::Mismatch { .. }))), "{result:?}");
}

#[test]
fn a_reader_that_goes_away_ends_it() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let temporary = empty();
    let (_, reader) = stream(&temporary, &[7; 5000]);
    let result = temporary.repository.write_merged(&reader, &mut Full);
    assert!(matches!(result, Err(MergeError::Write(_))), "{result:?}");
}

#[test]
fn a_stream_is_found_by_its_name_and_by_a_ref() {
    let temporary = of_cfsctl();
    let repository = &temporary.repository;
    let names = repository.stream_names().unwrap();
    let manifest = names.iter().find(|name| name.starts_with("oci-manifest-")).unwrap();
    let stream = repository.find_stream(manifest).unwrap();
    assert!(stream.is_some());
    let refs = repository.refs(osupdate_core::repository::Namespace::Streams).unwrap();
    let (name, _) = refs.iter().find(|(_, target)| target == manifest).unwrap();
    assert_eq!(repository.find_stream(&format!("refs/{name}")).unwrap(), stream);
    for name in ["nothing", "refs/nothing", name.as_str()] {
        assert_eq!(repository.find_stream(name).unwrap(), None, "{name}");
    }
    assert!(repository.find_stream("refs/../x").is_err());
}

#[test]
fn an_image_is_imported_only_with_its_objects() {
    let source = of_cfsctl();
    let image = source.repository.image_digests().unwrap()[0];
    let bytes = source.repository.read_image(&image).unwrap();
    let objects = erofs::objects(&bytes).unwrap();
    assert!(!objects.is_empty());

    let temporary = empty();
    let result = temporary.repository.import_image(&bytes);
    assert!(
        matches!(&result, Err(ImportError::Missing { count, missing }) if *count == objects.len() && !missing.is_empty()),
        "{result:?}"
    );
    assert!(temporary.repository.image_digests().unwrap().is_empty());
    for object in &objects {
        temporary.repository.put_object(&source.repository.read_object(object).unwrap()).unwrap();
    }
    assert_eq!(temporary.repository.import_image(&bytes).unwrap(), image);
    assert_eq!(temporary.repository.image_digests().unwrap(), [image]);

    let result = temporary.repository.import_image(&bytes[..4096]);
    assert!(matches!(result, Err(ImportError::Format(_))), "{result:?}");
}
