//! The boot image with a known digest is found, whatever rules made it.

use osupdate_core::boot::{BootOptions, transform_for_boot};
use osupdate_core::erofs::{self, Format};
use osupdate_core::observer::Silent;
use osupdate_core::oci::{PullError, PullOptions, StoredImage, image_tree_with, open_image, pull};
use osupdate_core::repository::{GcOptions, Repository};
use osupdate_core::transform::XattrFilter;
use osupdate_core::{Algorithm, Digest, fsverity};

use crate::fixture::{Image, repository};

/// A record of an extended header.
fn record(key: &str, value: &str) -> String {
    let text = key.len() + value.len() + 3;
    let len = (1..).find(|len: &usize| text + len.to_string().len() == *len).unwrap();
    format!("{len} {key}={value}\n")
}

/// An image in which all rules make a difference: a user's extended attribute, and a time with nanoseconds.
fn image() -> Image {
    let mut tar = Vec::new();
    for (name, mtime) in [("usr/", "1700000000.5"), ("boot/", "1600000000"), ("sysroot/", "1600000000")] {
        let pax = record("mtime", mtime) + &record("SCHILY.xattr.user.note", "x");
        tar.extend(crate::fixture::header("pax", b'x', pax.len()));
        tar.extend(pax.bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
        tar.extend(crate::fixture::header(name, b'5', 0));
    }
    tar.extend([0; 1024]);
    Image::new(&[tar])
}

fn options(expected: Digest) -> PullOptions<'static> {
    PullOptions { expected_boot_image: Some(expected), tag: Some("x"), ..PullOptions::default() }
}

fn boot_digest(
    repository: &Repository,
    image: &StoredImage,
    xattrs: XattrFilter,
    format: Format,
    nanos: bool,
) -> Digest {
    let mut tree = image_tree_with(repository, image, xattrs).unwrap();
    transform_for_boot(repository, &mut tree, &BootOptions { copy_nanoseconds: nanos }).unwrap();
    fsverity::digest(repository.algorithm(), &erofs::write(&tree, format).unwrap())
}

#[test]
fn all_ways_are_tried() {
    let image = image();
    for format in [Format::V1, Format::V2] {
        for xattrs in [XattrFilter::AllowlistOnly, XattrFilter::KeepUserXattrs] {
            for nanos in [false, true] {
                let (_dir, mut repository) = repository(Algorithm::Sha512);
                let plain = pull(&repository, &image, &PullOptions::default(), &Silent).unwrap();
                let expected = boot_digest(&repository, &plain, xattrs, format, nanos);
                let stored = pull(&repository, &image, &options(expected), &Silent).unwrap();
                assert_eq!(stored.boot_image, Some(expected), "{format:?} {xattrs:?} {nanos}");
                // It is there, kept, and found again without being made.
                repository.gc(&GcOptions::default(), &Silent).unwrap();
                assert!(repository.open_image(&expected).is_ok());
                assert_eq!(open_image(&repository, "x").unwrap().boot_image, Some(expected));
                let config = repository.stream(&format!("oci-config-{}", image.config_digest)).unwrap().unwrap();
                let label = match (format, xattrs) {
                    (Format::V1, XattrFilter::AllowlistOnly) => "composefs.image.boot.v1",
                    (Format::V1, _) => "composefs.image.boot.v1.xattrs=keep-user-xattrs",
                    (_, XattrFilter::AllowlistOnly) => "composefs.image.boot",
                    (..) => "composefs.image.boot.xattrs=keep-user-xattrs",
                };
                let refs = repository.open_stream(&config, None).unwrap().named_refs().clone();
                assert_eq!(refs.get(label), Some(&expected));
                assert_eq!(pull(&repository, &image, &options(expected), &Silent).unwrap().boot_image, Some(expected));
            }
        }
    }
}

#[test]
fn what_was_tried_is_told() {
    let image = image();
    let (_dir, repository) = repository(Algorithm::Sha256);
    let nothing = fsverity::digest(Algorithm::Sha256, b"nothing");
    let error = pull(&repository, &image, &options(nothing), &Silent).unwrap_err();
    assert!(repository.stream_names().unwrap().is_empty());
    let text = error.to_string();
    let PullError::BootImage { expected, tried } = error else { panic!("{text}") };
    assert_eq!(expected, nothing);
    // V2 has no nanoseconds.
    assert_eq!(tried.len(), 6, "{text}");
    assert!(text.contains("(V1, keep-user-xattrs, seconds only)"), "{text}");
    let other = fsverity::digest(Algorithm::Sha512, b"nothing");
    let error = pull(&repository, &image, &options(other), &Silent).unwrap_err();
    assert!(error.to_string().ends_with("is a sha512 digest, the repository has sha256"), "{error}");
}

#[test]
fn extended_attributes_of_users_are_kept_in_the_boot_image_when_asked() {
    let image = image();
    let (_dir, repository) = repository(Algorithm::Sha512);
    let usual = PullOptions { bootable: true, ..PullOptions::default() };
    let first = pull(&repository, &image, &usual, &Silent).unwrap();
    let keep = PullOptions { xattrs: XattrFilter::KeepUserXattrs, ..usual };
    let second = pull(&repository, &image, &keep, &Silent).unwrap();
    assert_eq!(first.image, second.image);
    assert_ne!(first.boot_image, second.boot_image);
    assert_eq!(
        second.boot_image.unwrap(),
        boot_digest(&repository, &second, XattrFilter::KeepUserXattrs, Format::V1, true)
    );
    // Both are there, each for whoever asks for it.
    assert_eq!(pull(&repository, &image, &usual, &Silent).unwrap().boot_image, first.boot_image);
    assert_eq!(pull(&repository, &image, &keep, &Silent).unwrap().boot_image, second.boot_image);
}
