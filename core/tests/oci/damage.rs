//! Images that are not what they should be, on their way in and in the repository.

use std::fs;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use osupdate_core::observer::Silent;
use osupdate_core::oci::{
    BlobDescriptor, ContentDigest, ImageFindingKind, ImageSource, PullOptions, SourceError, open_image, pull,
    verify_image, verify_images,
};
use osupdate_core::repository::{Namespace, Repository};
use osupdate_core::transform::XattrFilter;
use osupdate_core::{Algorithm, Digest};

use crate::fixture::{Image, chain, layer, repository};

const PLAIN: PullOptions<'static> = PullOptions {
    bootable: false,
    xattrs: XattrFilter::AllowlistOnly,
    expected_boot_image: None,
    tag: None,
    keep_as: None,
    platform: None,
};

/// Pulls, and checks that nothing has a name afterwards.
#[track_caller]
fn refused(source: &dyn ImageSource) -> Vec<String> {
    let (_dir, repository) = repository(Algorithm::Sha512);
    let error = pull(&repository, source, &PullOptions { tag: Some("x"), ..PLAIN }, &Silent).unwrap_err();
    assert!(repository.stream_names().unwrap().is_empty());
    assert!(repository.refs(Namespace::Streams).unwrap().is_empty());
    let chain = chain(&error);
    let distinct: std::collections::BTreeSet<_> = chain.iter().collect();
    assert_eq!(distinct.len(), chain.len(), "{chain:?}");
    chain
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::bufread::GzEncoder::new(bytes, flate2::Compression::fast());
    let mut out = Vec::new();
    encoder.read_to_end(&mut out).unwrap();
    out
}

/// An image whose only layer is delivered as `tamper` leaves it.
#[track_caller]
fn tampered(form: &str, tamper: impl FnOnce(&mut Vec<u8>)) -> (Image, Vec<String>) {
    let plain = layer(&[("usr/a", 5000), ("usr/b", 70_000)]);
    let blob = if form == "tar" { plain.clone() } else { gzip(&plain) };
    let mut image = Image::compressed(&[(form, plain, blob)]);
    let digest = image.layers[0];
    tamper(image.blobs.get_mut(&digest).unwrap());
    let chain = refused(&image);
    assert_eq!(chain[0], format!("cannot import layer {digest}"));
    (image, chain)
}

#[test]
fn a_layer_that_is_cut_short_is_refused() {
    for form in ["tar", "tar+gzip"] {
        let (image, chain) = tampered(form, |blob| blob.truncate(blob.len() / 2));
        let half = image.blobs[&image.layers[0]].len();
        let start = format!("the transfer ended after {half} of ");
        assert!(chain[1].starts_with(&start), "{chain:?}");
    }
    // The archive is complete, the padding behind it is not.
    let (_, chain) = tampered("tar", |blob| blob.truncate(blob.len() - 100));
    assert!(chain[1].starts_with("the transfer ended after "), "{chain:?}");
}

#[test]
fn a_layer_with_too_many_bytes_is_refused() {
    for form in ["tar", "tar+gzip"] {
        let (_, chain) = tampered(form, |blob| blob.push(0));
        assert!(chain[1].starts_with("the blob has more than the "), "{chain:?}");
    }
}

#[test]
fn a_layer_with_a_changed_byte_is_refused() {
    // In contents: the archive is good.
    let (_, chain) = tampered("tar", |blob| blob[2000] ^= 1);
    assert!(chain[1].starts_with("the blob is damaged: its digest is sha256:"), "{chain:?}");
    // In a header.
    let (_, chain) = tampered("tar", |blob| blob[520] ^= 1);
    assert_eq!(
        chain[1..],
        ["the layer is not a good tar archive", "tar header at byte 512: the header checksum is wrong"]
    );
    let (_, chain) = tampered("tar+gzip", |blob| {
        let middle = blob.len() / 2;
        blob[middle] ^= 0x55;
    });
    assert!(chain[1].starts_with("the blob is damaged: "), "{chain:?}");
}

#[test]
fn a_layer_that_is_not_the_one_of_the_configuration_is_refused() {
    let (plain, other) = (layer(&[("usr/a", 100)]), layer(&[("usr/b", 100)]));
    let chain = refused(&Image::compressed(&[("tar", plain, other)]));
    assert!(chain[1].starts_with("the uncompressed layer has digest sha256:"), "{chain:?}");
}

#[test]
fn bytes_after_the_compressed_layer_are_refused() {
    let plain = layer(&[("usr/a", 100)]);
    let blob = [gzip(&plain), b"garbage".to_vec()].concat();
    let chain = refused(&Image::compressed(&[("tar+gzip", plain.clone(), blob)]));
    assert_eq!(chain[1], "the blob is damaged: it cannot be decompressed");
    // What is in a second member counts, too.
    let blob = [gzip(&plain), gzip(b"more")].concat();
    let chain = refused(&Image::compressed(&[("tar+gzip", plain, blob)]));
    assert!(chain[1].starts_with("the uncompressed layer has digest sha256:"), "{chain:?}");
}

#[test]
fn missing_blobs_are_named() {
    let mut image = Image::new(&[layer(&[("usr/a", 100)])]);
    image.blobs.remove(&image.layers[0]);
    let digest = image.layers[0];
    let expected =
        [format!("cannot import layer {digest}"), "the transfer failed".into(), format!("there is no blob {digest}")];
    assert_eq!(refused(&image), expected);
    let mut image = Image::new(&[layer(&[("usr/a", 100)])]);
    image.blobs.remove(&image.config_digest);
    assert_eq!(refused(&image)[0], format!("cannot fetch the image's configuration {}", image.config_digest));
}

#[test]
fn a_configuration_with_another_digest_is_refused() {
    let mut image = Image::new(&[layer(&[("usr/a", 100)])]);
    image.blobs.get_mut(&image.config_digest).unwrap().push(b' ');
    let chain = refused(&image);
    assert!(
        chain[0].starts_with(&format!("the image's configuration {} is damaged", image.config_digest)),
        "{chain:?}"
    );
}

#[test]
fn documents_of_other_kinds_are_refused() {
    let message = |from: &str, to: &str| {
        let mut image = Image::new(&[layer(&[("usr/a", 100)])]);
        let manifest = String::from_utf8(image.manifest).unwrap();
        assert!(manifest.contains(from));
        image.manifest = manifest.replace(from, to).into_bytes();
        refused(&image)[1].clone()
    };
    assert!(message("\"schemaVersion\":2", "\"schemaVersion\":1").starts_with("manifest schema version 1 is not"));
    assert!(message("image.manifest.v1", "image.index.v1").starts_with("expected the manifest of one image"));
    assert!(message("image.config.v1", "cnab.config.v1").starts_with("this is not an OS image but an artifact"));
    assert!(message("layer.v1.tar", "layer.v1.squashfs").contains("layer.v1.squashfs, which is not supported"));
    assert!(message("{", "[").starts_with("the manifest cannot be parsed"));
    assert!(message("\"layers\":[", "\"layers\":[],\"x\":[").starts_with("the manifest has 0 layers, its conf"));
    let mut image = Image::new(&[]);
    image.manifest = vec![b' '; 5 << 20];
    assert_eq!(refused(&image)[1], "the manifest has 5242880 bytes, the most is 4194304");
}

/// One layer fails at once; the other would take for ever.
struct Slow {
    image: Image,
    bytes: AtomicU64,
}

struct Endless<'a>(&'a AtomicU64);

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_millis(1));
        self.0.fetch_add(1, Ordering::Relaxed);
        buffer[0] = 0;
        Ok(1)
    }
}

impl ImageSource for Slow {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        self.image.manifest()
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        if descriptor.digest == self.image.config_digest {
            self.image.blob(descriptor)
        } else if descriptor.digest == self.image.layers[0] {
            // The largest layer, so it is begun first.
            std::thread::sleep(Duration::from_millis(50));
            Err(SourceError::new("no route to host"))
        } else {
            Ok(Box::new(Endless(&self.bytes)))
        }
    }
}

#[test]
fn a_failed_layer_stops_the_others() {
    let image = Image::new(&[layer(&[("usr/a", 20_000)]), layer(&[("usr/b", 10_000)])]);
    let slow = Slow { image, bytes: AtomicU64::new(0) };
    let chain = refused(&slow);
    assert_eq!(chain[1..], ["the transfer failed", "no route to host"]);
    let bytes = slow.bytes.load(Ordering::Relaxed);
    assert!((1..5000).contains(&bytes), "{bytes}");
}

fn remove_object(repository: &Repository, digest: &Digest) {
    fs::remove_file(repository.path().join("objects").join(digest.object_path())).unwrap();
}

fn kinds(repository: &Repository) -> Vec<ImageFindingKind> {
    verify_images(repository).unwrap().into_iter().map(|finding| finding.kind).collect()
}

#[test]
fn what_is_missing_is_found_and_a_pull_repairs_it() {
    let image = Image::new(&[layer(&[("usr/a", 100)]), layer(&[("usr/b", 100)])]);
    let options = PullOptions { tag: Some("x"), ..PLAIN };
    let (_dir, repository) = repository(Algorithm::Sha512);
    let stored = pull(&repository, &image, &options, &Silent).unwrap();
    assert_eq!(kinds(&repository), []);
    image.take_fetched();

    let objects = repository.open_stream(&stored.layers[1].1, None).unwrap().object_refs().to_vec();
    remove_object(&repository, &objects[0]);
    let findings = verify_image(&repository, "x").unwrap();
    let expected = format!("layer-object-missing: {}: {}", image.diff_ids[1], objects[0]);
    assert_eq!(findings.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    pull(&repository, &image, &options, &Silent).unwrap();
    assert_eq!(image.take_fetched(), [image.layers[1]]);
    assert_eq!(kinds(&repository), []);

    remove_object(&repository, &stored.layers[0].1);
    assert_eq!(kinds(&repository), [ImageFindingKind::LayerStreamMissing]);
    pull(&repository, &image, &options, &Silent).unwrap();
    assert_eq!(kinds(&repository), []);

    remove_object(&repository, &stored.image.unwrap());
    assert_eq!(kinds(&repository), [ImageFindingKind::ImageMissing]);
    pull(&repository, &image, &options, &Silent).unwrap();
    assert_eq!(kinds(&repository), []);

    // Without its name it cannot be mounted, and a machine cannot start with it.
    let name = repository.path().join("images").join(stored.image.unwrap().to_string());
    for wrong in [false, true] {
        fs::remove_file(&name).unwrap();
        if wrong {
            let object = stored.layers[0].1.object_path();
            std::os::unix::fs::symlink(format!("../objects/{object}"), &name).unwrap();
        }
        assert_eq!(kinds(&repository), [ImageFindingKind::ImageMissing]);
        pull(&repository, &image, &options, &Silent).unwrap();
        assert_eq!(kinds(&repository), []);
    }

    for (name, kind) in [
        (format!("oci-config-{}", stored.config_digest), ImageFindingKind::ConfigReadFailed),
        (format!("oci-manifest-{}", stored.manifest_digest), ImageFindingKind::ManifestReadFailed),
    ] {
        let stream = repository.stream(&name).unwrap().unwrap();
        let json = repository.open_stream(&stream, None).unwrap().object_refs()[0];
        for object in [json, stream] {
            remove_object(&repository, &object);
            assert_eq!(kinds(&repository), [kind], "{name}");
            pull(&repository, &image, &options, &Silent).unwrap();
            assert_eq!(kinds(&repository), [], "{name}");
        }
    }
    let name = format!("oci-manifest-{}", stored.manifest_digest);
    fs::remove_file(repository.path().join("streams").join(name)).unwrap();
    assert_eq!(kinds(&repository), [ImageFindingKind::RefResolveFailed]);
    assert!(open_image(&repository, "x").is_err());
}

#[test]
fn tags_that_are_none_are_found() {
    let image = Image::new(&[layer(&[("usr/a", 100)])]);
    let (_dir, repository) = repository(Algorithm::Sha512);
    let stored = pull(&repository, &image, &PLAIN, &Silent).unwrap();
    let manifest = format!("oci-manifest-{}", stored.manifest_digest);
    repository.set_ref(Namespace::Streams, "oci/@x", &manifest).unwrap();
    let config = format!("oci-config-{}", stored.config_digest);
    repository.set_ref(Namespace::Streams, "oci/y", &config).unwrap();
    assert_eq!(kinds(&repository), [ImageFindingKind::InvalidRefName, ImageFindingKind::RefResolveFailed]);
    let digest = ContentDigest::sha256(b"none").to_string();
    assert!(verify_image(&repository, &digest).is_err());
}
