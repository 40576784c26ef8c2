//! What other tools make of the same images.

use osupdate_core::Algorithm;
use osupdate_core::erofs::{self, Format};
use osupdate_core::observer::Silent;
use osupdate_core::oci::{PullOptions, StoredImage, image_tree, open_image, pull, verify_images};
use osupdate_core::repository::Repository;

use crate::fixture::{Fixture, repository, repository_with_formats};

const IMG1_MANIFEST: &str = "sha256:4f7366e35e1c481169676ad49dfb62b6c1bc11e508bef14e7c7947ccf2302f21";
const IMG1_CONFIG: &str = "sha256:ff33a41b4314a065ed6cffb7f76ea65025ed5b241f0717e2d869758a5c31347f";
const IMG1_SHA512_V1: &str = "a170e0f302285b60dd5bbca090e7928a8ed108a0095eff9afb00894eedc6b1a3\
                              e0c07b3b83ba75ee089c5dc51d051fc7fe80bac2720a3928f1557621a6b6d80d";
const IMG1_SHA256_V1: &str = "fae7c0b00bcec6878b3b2d2c7fc421ab7bd7aca6b212a06b471c7d098f8c1a16";
/// The configuration's stream in cfsctl's repository.
const IMG1_CONFIG_STREAM: &str = "b472d3d03fbc18a8c7265885cadfb399b73daffaddffd04b1e285e4f0434148d\
                                  6ef9d2650a620cdd0e5973bf9aa4a454b422555f8ccdb3a120f9faf892e70500";

fn pull_to(repository: &Repository, fixture: &Fixture, name: &str, bootable: bool) -> StoredImage {
    pull(repository, &fixture.layout(name), &PullOptions { bootable, ..PullOptions::default() }, &Silent).unwrap()
}

#[track_caller]
fn assert_like(digest: Option<osupdate_core::Digest>, start: &str, end: &str) {
    let digest = digest.unwrap().to_string();
    assert!(digest.starts_with(start) && digest.ends_with(end), "{digest} is not {start}…{end}");
}

#[test]
fn a_container_image() {
    let fixture = Fixture::unpack("oci/img1.tar");
    let (_dir, repository) = repository(Algorithm::Sha512);
    let image = pull_to(&repository, &fixture, "img1", false);
    assert_eq!(image.manifest_digest.to_string(), IMG1_MANIFEST);
    assert_eq!(image.config_digest.to_string(), IMG1_CONFIG);
    assert_eq!(image.image.unwrap().to_string(), IMG1_SHA512_V1);
    assert_eq!(image.boot_image, None);
    let config = repository.stream(&format!("oci-config-{IMG1_CONFIG}")).unwrap().unwrap();
    assert_eq!(config.to_string(), IMG1_CONFIG_STREAM);
}

#[test]
fn a_container_image_with_sha256() {
    let fixture = Fixture::unpack("oci/img1.tar");
    let (_dir, repository) = repository(Algorithm::Sha256);
    assert_eq!(pull_to(&repository, &fixture, "img1", false).image.unwrap().to_string(), IMG1_SHA256_V1);
}

#[test]
fn a_bootable_image() {
    let fixture = Fixture::unpack("oci/bootable.tar");
    let (_dir, repository) = repository(Algorithm::Sha512);
    let image = pull_to(&repository, &fixture, "bA", true);
    assert_like(image.image, "fd0f690f", "1660");
    assert_like(image.boot_image, "d82b7b2f", "7cef");
}

#[test]
fn images_of_format_2() {
    let (_dir, repository) = repository_with_formats(2, &[]);
    assert_like(pull_to(&repository, &Fixture::unpack("oci/img1.tar"), "img1", false).image, "67679a13", "06e3");
    let image = pull_to(&repository, &Fixture::unpack("oci/bootable.tar"), "bA", true);
    assert_like(image.image, "016d1123", "911d");
    assert_like(image.boot_image, "2dd91b06", "091b");
}

#[test]
fn images_of_both_formats() {
    let (_dir, repository) = repository_with_formats(1, &[2]);
    let image = pull_to(&repository, &Fixture::unpack("oci/bootable.tar"), "bA", true);
    assert_like(image.boot_image, "d82b7b2f", "7cef");
    let config = repository.stream(&format!("oci-config-{}", image.config_digest)).unwrap().unwrap();
    let stream = repository.open_stream(&config, None).unwrap();
    let label = |label: &str| stream.named_refs().get(label).copied();
    assert_like(label("composefs.image"), "016d1123", "911d");
    assert_like(label("composefs.image.v1"), "fd0f690f", "1660");
    assert_like(label("composefs.image.boot"), "2dd91b06", "091b");
    assert_like(label("composefs.image.boot.v1"), "d82b7b2f", "7cef");
}

#[test]
fn a_repository_of_cfsctl() {
    let fixture = Fixture::unpack("repository/r1.tar");
    let repository = Repository::open(&fixture.path("r1")).unwrap();
    assert_eq!(verify_images(&repository).unwrap(), []);
    let image = open_image(&repository, "foo/bar").unwrap();
    assert_eq!(image.manifest_digest.to_string(), IMG1_MANIFEST);
    assert_eq!(image.image.unwrap().to_string(), IMG1_SHA512_V1);
    let tree = image_tree(&repository, &image).unwrap();
    let written = erofs::write(&tree, Format::V1).unwrap();
    assert_eq!(repository.put_object(&written).unwrap().digest.to_string(), IMG1_SHA512_V1);
}

#[test]
fn a_pull_into_a_repository_of_cfsctl_finds_all_there() {
    let fixture = Fixture::unpack("repository/r1.tar");
    let repository = Repository::open(&fixture.path("r1")).unwrap();
    let streams = || -> Vec<_> {
        let names = repository.stream_names().unwrap().into_iter().filter(|name| !name.starts_with("oci-manifest-"));
        names.map(|name| (repository.stream(&name).unwrap(), name)).collect()
    };
    let before = streams();
    pull_to(&repository, &Fixture::unpack("oci/img1.tar"), "img1", false);
    assert_eq!(streams(), before);
}
