//! What a pull fetches, writes and reports.

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{
    BlobDescriptor, ContentDigest, ImageSource, Platform, PullOptions, RemoteSource, SourceError, image_tree,
    open_image, pull,
};
use osupdate_core::repository::Namespace;
use osupdate_core::splitstream::Chunk;
use osupdate_core::transform::XattrFilter;
use osupdate_core::tree::Content;

use crate::fixture::{Fixture, Image, Record, chain, layer, repository, snapshot};

const PLAIN: PullOptions<'static> = PullOptions {
    bootable: false,
    xattrs: XattrFilter::AllowlistOnly,
    expected_boot_image: None,
    tag: None,
    keep_as: None,
    platform: None,
};

#[test]
fn a_second_pull_fetches_and_writes_nothing() {
    let image = Image::new(&[layer(&[("usr/a", 100)]), layer(&[("usr/b", 200)])]);
    let (dir, repository) = repository(Algorithm::Sha512);
    let options = PullOptions { tag: Some("a/b:1"), keep_as: Some("kept/x"), ..PLAIN };
    pull(&repository, &image, &options, &Silent).unwrap();
    assert_eq!(image.take_fetched().len(), 3);
    let before = snapshot(dir.path());
    let again = pull(&repository, &image, &options, &Silent).unwrap();
    assert_eq!(image.take_fetched(), []);
    assert_eq!(snapshot(dir.path()), before);
    let name = format!("oci-manifest-{}", again.manifest_digest);
    let refs = [("kept/x".to_owned(), name.clone()), ("oci/a%2Fb:1".to_owned(), name)];
    assert_eq!(repository.refs(Namespace::Streams).unwrap(), refs);
}

#[test]
fn shared_and_repeated_layers_are_fetched_once() {
    let shared = layer(&[("usr/a", 100)]);
    let (_dir, repository) = repository(Algorithm::Sha512);
    let first = Image::new(&[shared.clone(), shared.clone(), layer(&[("usr/b", 100)])]);
    let stored = pull(&repository, &first, &PLAIN, &Silent).unwrap();
    assert_eq!(first.take_fetched().len(), 3);
    assert_eq!(stored.layers.len(), 3);
    let second = Image::new(&[shared, layer(&[("usr/c", 100)])]);
    let record = Record::default();
    pull(&repository, &second, &PLAIN, &record).unwrap();
    assert_eq!(second.take_fetched(), [second.config_digest, second.layers[1]]);
    let events = record.0.into_inner().unwrap();
    assert!(events[0].starts_with("Skipped { id: \"sha256:"), "{events:?}");
    assert!(events[1].starts_with("Started {") && events[1].contains("total_bytes: Some("), "{events:?}");
    assert!(events[2].starts_with("Finished {"), "{events:?}");
    assert!(events[3].starts_with("Step("), "{events:?}");
}

#[test]
fn progress_is_told_in_compressed_bytes() {
    let big = layer(&[("usr/big", 1 << 20)]);
    let image = Image::new(std::slice::from_ref(&big));
    let (_dir, repository) = repository(Algorithm::Sha512);
    let record = Record::default();
    pull(&repository, &image, &PLAIN, &record).unwrap();
    let events = record.0.into_inner().unwrap();
    let steps = events.iter().filter(|event| event.starts_with("Progress")).count();
    assert!((3..=5).contains(&steps), "{events:?}");
}

#[test]
fn the_boot_image_can_be_added_later_and_all_manifests_of_the_configuration_know_it() {
    let fixture = Fixture::unpack("oci/bootable.tar");
    let (_dir, repository) = repository(Algorithm::Sha512);
    let first = pull(&repository, &fixture.layout("bA"), &PullOptions { tag: Some("a"), ..PLAIN }, &Silent).unwrap();
    assert_eq!(first.boot_image, None);
    let options = PullOptions { bootable: true, tag: Some("b"), ..PLAIN };
    let second = pull(&repository, &fixture.layout("bB"), &options, &Silent).unwrap();
    assert_ne!(first.manifest_digest, second.manifest_digest);
    assert_eq!(first.image, second.image);
    // Both refer to the only stream of the configuration there is now, so that nothing of it can be lost.
    let config = repository.stream(&format!("oci-config-{}", first.config_digest)).unwrap().unwrap();
    for tag in ["a", "b"] {
        let image = open_image(&repository, tag).unwrap();
        assert_eq!(image.boot_image, second.boot_image);
        let manifest = repository.stream(&format!("oci-manifest-{}", image.manifest_digest)).unwrap().unwrap();
        let stream = repository.open_stream(&manifest, None).unwrap();
        assert_eq!(stream.named_refs()[&format!("config:{}", image.config_digest)], config);
    }
    // A later pull that does not ask for it keeps it.
    let third = pull(&repository, &fixture.layout("bA"), &PLAIN, &Silent).unwrap();
    assert_eq!(third.boot_image, second.boot_image);
    assert_eq!(repository.stream(&format!("oci-config-{}", first.config_digest)).unwrap(), Some(config));
}

#[test]
fn every_member_and_frame_of_a_layer_is_imported() {
    let plain = layer(&[("usr/a", 600), ("usr/b", 5), ("usr/c", 2000)]);
    // Cut at a header: a reader that stops after the first part sees a good archive.
    let (first, second) = plain.split_at(512 + 512 + 1024);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::stream::encode_all(bytes, 0).unwrap();
    let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"skip"].concat();
    let members = [gzip(first), gzip(second)].concat();
    let frames = [&skippable[..], &zstd(first), &skippable, &zstd(second)].concat();
    for (form, blob) in [("tar+gzip", members), ("tar+zstd", frames)] {
        let image = Image::compressed(&[(form, plain.clone(), blob)]);
        let (_dir, repository) = repository(Algorithm::Sha512);
        let stored = pull(&repository, &image, &PLAIN, &Silent).unwrap();
        let tree = image_tree(&repository, &stored).unwrap();
        assert_eq!(tree.directory("usr").unwrap().entries.len(), 3, "{form}");
    }
}

#[test]
fn the_stored_stream_is_the_layer_byte_by_byte() {
    let mut bytes = layer(&[("usr/64", 64), ("usr/65", 65), ("usr/512", 512), ("usr/0", 0), ("usr/9999", 9999)]);
    bytes.extend_from_slice(&[0; 9000]);
    bytes.extend_from_slice(b"left over");
    let image = Image::new(std::slice::from_ref(&bytes));
    let (_dir, repository) = repository(Algorithm::Sha512);
    let stored = pull(&repository, &image, &PLAIN, &Silent).unwrap();
    let stream = repository.open_stream(&stored.layers[0].1, None).unwrap();
    let mut merged = Vec::new();
    let mut objects = 0;
    for chunk in stream.chunks() {
        match chunk.unwrap() {
            Chunk::Inline(bytes) => merged.extend(bytes),
            Chunk::External(digest) => {
                objects += 1;
                merged.extend(repository.read_object(&digest).unwrap());
            }
        }
    }
    assert_eq!(ContentDigest::sha256(&merged), image.diff_ids[0]);
    assert_eq!(merged, bytes);
    assert_eq!(objects, 3);
    let tree = image_tree(&repository, &stored).unwrap();
    assert!(matches!(tree.regular_file("usr/64"), Some(Content::Inline(_))));
    let mut contents = Vec::new();
    let file = tree.regular_file("usr/9999").unwrap();
    repository.open_content(file).unwrap().read_to_end(&mut contents).unwrap();
    assert_eq!(contents.len(), 9999);
}

#[test]
fn an_image_for_other_machines_is_refused_before_its_layers_are_fetched() {
    let image = Image::new(&[layer(&[("usr/a", 100)])]);
    let (_dir, repository) = repository(Algorithm::Sha512);
    let platform: Platform = "linux/arm64".parse().unwrap();
    let error = pull(&repository, &image, &PullOptions { platform: Some(&platform), ..PLAIN }, &Silent).unwrap_err();
    let expected = ["the image cannot be used", "there is no image for linux/arm64, only for linux/amd64"];
    assert_eq!(chain(&error), expected);
    assert_eq!(image.take_fetched(), [image.config_digest]);
}

#[test]
fn an_image_that_cannot_be_booted_gets_no_name() {
    let image = Image::new(&[layer(&[("usr/a", 100)])]);
    let (_dir, repository) = repository(Algorithm::Sha512);
    let options = PullOptions { bootable: true, tag: Some("x"), ..PLAIN };
    let error = pull(&repository, &image, &options, &Silent).unwrap_err();
    let expected = ["the image is not bootable", "the image has no directory /boot, which an OS image needs"];
    assert_eq!(chain(&error), expected);
    assert!(repository.stream_names().unwrap().is_empty());
    assert!(repository.refs(Namespace::Streams).unwrap().is_empty());
}

/// Sends nothing of a layer before another one is asked for.
struct Pairs {
    image: Image,
    asked: AtomicUsize,
}

impl ImageSource for Pairs {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        self.image.manifest()
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.image.blob(descriptor)
    }

    fn remote(&self) -> Option<&dyn RemoteSource> {
        Some(self)
    }
}

impl RemoteSource for Pairs {
    fn blob_from(&self, descriptor: &BlobDescriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        assert_eq!(offset, 0);
        let mine = self.asked.fetch_add(1, Ordering::SeqCst);
        let patience = Instant::now();
        while self.asked.load(Ordering::SeqCst) < (mine / 2 + 1) * 2 {
            if patience.elapsed() > Duration::from_secs(20) {
                return Err(SourceError::new("nobody asks for another layer"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.image.blob(descriptor)
    }

    fn connections(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(2)
    }
}

#[test]
fn layers_are_fetched_side_by_side() {
    let layers: Vec<_> = ["usr/a", "usr/b", "usr/c", "usr/d"].iter().map(|name| layer(&[(name, 1000)])).collect();
    let source = Pairs { image: Image::new(&layers), asked: AtomicUsize::new(0) };
    let (_dir, repository) = repository(Algorithm::Sha512);
    let pulled = pull(&repository, &source, &PLAIN, &Silent).unwrap();
    assert_eq!(pulled.layers.len(), 4);
}
