//! Repair from an image at its origin, and copies of images.

use std::fs;

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{
    PullOptions, copy_all, copy_image, list, open_image, pull, repair_from_image, untag, verify_images,
};
use osupdate_core::repository::{CopyOptions, FsckOptions, FsckReport, Namespace, Repository};

use crate::fixture::{Fixture, Image, layer, repository, snapshot};

fn fsck(repository: &Repository) -> FsckReport {
    repository.fsck(&FsckOptions::default(), &Silent).unwrap()
}

fn options(tag: &str, bootable: bool) -> PullOptions<'_> {
    PullOptions { bootable, tag: Some(tag), ..PullOptions::default() }
}

#[test]
fn only_the_layers_with_bad_objects_are_fetched() {
    let image = Image::new(&[layer(&[("usr/a", 20_000)]), layer(&[("usr/b", 10_000)]), layer(&[("usr/c", 9_000)])]);
    let (dir, repository) = repository(Algorithm::Sha512);
    let pulled = pull(&repository, &image, &options("a", false), &Silent).unwrap();
    let good = snapshot(dir.path());
    for (number, (_, stream)) in pulled.layers.iter().enumerate() {
        let object = repository.open_stream(stream, None).unwrap().object_refs()[0];
        for bad in [object, *stream] {
            fs::write(dir.path().join("objects").join(bad.object_path()), b"bad").unwrap();
            image.take_fetched();
            let fetched = repair_from_image(&repository, &image, &fsck(&repository), &Silent).unwrap();
            assert_eq!(fetched, 1);
            let fetched = image.take_fetched();
            let layers: Vec<_> = fetched.iter().filter(|digest| **digest != image.config_digest).collect();
            assert_eq!(layers, [&image.layers[number]]);
            assert_eq!(snapshot(dir.path()), good);
            assert!(fsck(&repository).is_clean());
        }
    }
}

#[test]
fn images_and_documents_are_made_again() {
    let fixture = Fixture::unpack("oci/bootable.tar");
    let (dir, repository) = repository(Algorithm::Sha512);
    pull(&repository, &fixture.layout("bA"), &options("a", true), &Silent).unwrap();
    let good = snapshot(dir.path());
    let objects: Vec<_> = good.keys().filter(|path| path.starts_with(dir.path().join("objects"))).collect();
    for object in &objects {
        for missing in [false, true] {
            match missing {
                true => fs::remove_file(object).unwrap(),
                false => fs::write(object, b"bad").unwrap(),
            }
            repair_from_image(&repository, &fixture.layout("bA"), &fsck(&repository), &Silent).unwrap();
            assert!(fsck(&repository).is_clean(), "{object:?}: {:?}", fsck(&repository).findings);
            assert_eq!(verify_images(&repository).unwrap(), []);
            assert_eq!(snapshot(dir.path()), good, "{object:?}");
        }
    }
    // All at once.
    for object in &objects {
        fs::write(object, b"bad").unwrap();
    }
    repair_from_image(&repository, &fixture.layout("bA"), &fsck(&repository), &Silent).unwrap();
    assert!(fsck(&repository).is_clean());
    assert_eq!(snapshot(dir.path()), good);
}

#[test]
fn another_image_repairs_the_layers_that_it_has_and_is_not_stored() {
    let shared = layer(&[("usr/a", 20_000)]);
    let image = Image::new(&[shared.clone(), layer(&[("usr/b", 10_000)])]);
    let newer = Image::new(&[shared, layer(&[("usr/c", 10_000)])]);
    let (dir, repository) = repository(Algorithm::Sha512);
    let pulled = pull(&repository, &image, &options("a", false), &Silent).unwrap();
    let good = snapshot(dir.path());
    let object = repository.open_stream(&pulled.layers[0].1, None).unwrap().object_refs()[0];
    fs::remove_file(dir.path().join("objects").join(object.object_path())).unwrap();
    assert_eq!(repair_from_image(&repository, &newer, &fsck(&repository), &Silent).unwrap(), 1);
    assert_eq!(snapshot(dir.path()), good);
}

#[test]
fn a_repair_that_fails_loses_nothing() {
    let mut image = Image::new(&[layer(&[("usr/a", 20_000)]), layer(&[("usr/b", 10_000)])]);
    let (dir, repository) = repository(Algorithm::Sha512);
    let pulled = pull(&repository, &image, &options("a", false), &Silent).unwrap();
    let object = repository.open_stream(&pulled.layers[1].1, None).unwrap().object_refs()[0];
    fs::write(dir.path().join("objects").join(object.object_path()), b"bad").unwrap();
    let before = snapshot(dir.path());
    image.blobs.remove(&image.layers[1]);
    repair_from_image(&repository, &image, &fsck(&repository), &Silent).unwrap_err();
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn an_image_is_copied_with_its_tag_and_what_refers_to_it() {
    let fixture = Fixture::unpack("oci/bootable.tar");
    let (_source_dir, source) = repository(Algorithm::Sha512);
    let image = pull(&source, &fixture.layout("bA"), &options("a", true), &Silent).unwrap();
    let artifact = pull(&source, &Image::new(&[layer(&[("usr/b", 10_000)])]), &options("b", false), &Silent).unwrap();
    // Any manifest will do for an artifact here.
    let referrer = format!("oci-referrers/{}/{}", image.manifest_digest, artifact.manifest_digest);
    source.set_ref(Namespace::Streams, &referrer, &artifact.stream_name()).unwrap();
    untag(&source, "b").unwrap();
    source.set_ref(Namespace::Streams, "osupdate/deploy/x", &image.stream_name()).unwrap();

    for algorithm in [Algorithm::Sha512, Algorithm::Sha256] {
        let (_dir, target) = repository(algorithm);
        let report = copy_image(&target, &source, "a", "copy", &CopyOptions::default(), &Silent).unwrap();
        assert!(report.objects_copied + report.objects_reflinked > 0);
        assert!(fsck(&target).is_clean());
        assert_eq!(verify_images(&target).unwrap(), []);
        let copied = open_image(&target, "copy").unwrap();
        assert_eq!(copied.manifest_digest, image.manifest_digest);
        assert_eq!(copied.boot_image == image.boot_image, algorithm == Algorithm::Sha512);
        assert_eq!(target.ref_target(Namespace::Streams, &referrer).unwrap(), Some(artifact.stream_name()));
        assert_eq!(target.refs(Namespace::Streams).unwrap().len(), 2);

        // What is pulled is what was copied.
        let (_dir, pulled) = repository(algorithm);
        let expected = pull(&pulled, &fixture.layout("bA"), &options("a", true), &Silent).unwrap();
        assert_eq!((copied.image, copied.boot_image), (expected.image, expected.boot_image));

        let (_dir, all) = repository(algorithm);
        copy_all(&all, &source, "osupdate/deploy/", &CopyOptions::default(), &Silent).unwrap();
        assert_eq!(list(&all).unwrap(), [("a".to_owned(), image.manifest_digest)]);
        assert_eq!(all.refs(Namespace::Streams).unwrap().len(), 2);
        assert!(fsck(&all).is_clean());
    }
    let (_dir, target) = repository(Algorithm::Sha512);
    assert!(copy_image(&target, &source, "nothing", "x", &CopyOptions::default(), &Silent).is_err());
}
