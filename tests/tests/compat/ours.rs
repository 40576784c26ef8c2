//! Our side. A handle of the repository is held for one operation only, for it holds a lock.

use std::fs;
use std::path::Path;

use osupdate_core::boot::{BootOptions, transform_for_boot};
use osupdate_core::observer::Silent;
use osupdate_core::oci::{self, PullOptions, StoredImage, image_tree, open_image, verify_images};
use osupdate_core::repository::{FsckOptions, FsckReport, GcOptions, GcReport, Repository};
use osupdate_core::tree::Tree;
use osupdate_core::{Digest, dumpfile, erofs};

use crate::fixture::Image;

pub(crate) fn open(repository: &Path) -> Repository {
    Repository::open(repository).unwrap()
}

#[track_caller]
pub(crate) fn pull(repository: &Path, image: &Image, tag: &str, bootable: bool) -> StoredImage {
    let options = PullOptions { bootable, tag: Some(tag), ..PullOptions::default() };
    oci::pull(&open(repository), &image.layout(), &options, &Silent).unwrap()
}

/// Fails unless all is well in our eyes.
#[track_caller]
pub(crate) fn assert_clean(repository: &Path) -> FsckReport {
    let repository = open(repository);
    let report = repository.fsck(&FsckOptions::default(), &Silent).unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!(verify_images(&repository).unwrap(), []);
    report
}

/// Fails unless an image can be mounted, whatever was collected: its EROFS images and all of their objects are there.
#[track_caller]
pub(crate) fn assert_complete(repository: &Path, tag: &str) -> StoredImage {
    let repository = open(repository);
    let image = open_image(&repository, tag).unwrap();
    image_tree(&repository, &image).unwrap();
    for digest in [image.image, image.boot_image].into_iter().flatten() {
        let bytes = repository.read_image(&digest).unwrap();
        for object in erofs::objects(&bytes).unwrap() {
            repository.read_object(&object).unwrap();
        }
    }
    assert!(image.image.is_some(), "{tag} has lost its EROFS image");
    image
}

pub(crate) fn gc(repository: &Path) -> GcReport {
    open(repository).gc(&GcOptions::default(), &Silent).unwrap()
}

pub(crate) fn gc_dry_run(repository: &Path) -> GcReport {
    open(repository).gc(&GcOptions { dry_run: true, ..GcOptions::default() }, &Silent).unwrap()
}

/// The tree of an image, from its layers.
pub(crate) fn tree(repository: &Path, tag: &str, bootable: bool) -> Tree {
    let repository = open(repository);
    let image = open_image(&repository, tag).unwrap();
    let mut tree = image_tree(&repository, &image).unwrap();
    if bootable {
        transform_for_boot(&repository, &mut tree, &BootOptions::default()).unwrap();
    }
    tree
}

pub(crate) fn dumpfile(tree: &Tree) -> Vec<u8> {
    let mut text = Vec::new();
    dumpfile::write(tree, &mut text).unwrap();
    text
}

/// Mounts an image and reads a file of it.
pub(crate) fn read_mounted(repository: &Path, image: &Digest, path: &str) -> Vec<u8> {
    let mount = open(repository).mount_image(image, None).unwrap();
    let file = rustix::fs::openat(&mount, path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    let mut contents = Vec::new();
    std::io::Read::read_to_end(&mut fs::File::from(file), &mut contents).unwrap();
    contents
}
