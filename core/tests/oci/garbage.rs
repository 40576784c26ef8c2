//! What a collection of garbage leaves of images.

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{PullOptions, open_image, pull, untag, verify_images};
use osupdate_core::repository::{GcOptions, Repository};

use crate::fixture::{Fixture, Image, layer, repository, snapshot};

fn collect(repository: &mut Repository) -> u64 {
    repository.gc(&GcOptions::default(), &Silent).unwrap().objects_removed
}

fn options(tag: &str, bootable: bool) -> PullOptions<'_> {
    PullOptions { bootable, tag: Some(tag), ..PullOptions::default() }
}

#[test]
fn a_pull_makes_no_garbage() {
    let fixture = Fixture::unpack("oci/bootable.tar");
    let (dir, mut repository) = repository(Algorithm::Sha512);
    pull(&repository, &fixture.layout("bA"), &options("a", true), &Silent).unwrap();
    let before = snapshot(dir.path());
    assert_eq!(collect(&mut repository), 0);
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn an_image_outlives_another_one_that_had_the_same_configuration_written_again() {
    let fixture = Fixture::unpack("oci/bootable.tar");
    let (_dir, mut repository) = repository(Algorithm::Sha512);
    pull(&repository, &fixture.layout("bA"), &options("a", false), &Silent).unwrap();
    pull(&repository, &fixture.layout("bB"), &options("b", true), &Silent).unwrap();
    untag(&repository, "b").unwrap();
    // The older streams of configuration and manifest, and the second manifest.
    assert!(collect(&mut repository) >= 3);
    assert_eq!(verify_images(&repository).unwrap(), []);
    let image = open_image(&repository, "a").unwrap();
    assert!(repository.open_image(&image.boot_image.unwrap()).is_ok());
    assert!(open_image(&repository, "b").is_err());
}

#[test]
fn a_failed_pull_leaves_only_garbage() {
    let mut image = Image::new(&[layer(&[("usr/a", 20_000)]), layer(&[("usr/b", 10_000)])]);
    image.blobs.remove(&image.layers[1]);
    let (dir, mut repository) = repository(Algorithm::Sha512);
    let before = snapshot(dir.path());
    pull(&repository, &image, &options("a", false), &Silent).unwrap_err();
    collect(&mut repository);
    assert_eq!(snapshot(dir.path()), before);
}
