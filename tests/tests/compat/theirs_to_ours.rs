//! What cfsctl pulled, as we see it.

use osupdate_core::erofs;
use osupdate_core::fsverity;
use osupdate_core::oci::{self, open_image};

use crate::cfsctl::Cfsctl;
use crate::fixture::{KINDS, Kind, Place, algorithm, contents};
use crate::ours;

const TAG: &str = "registry.example/os:1";

/// A repository of every kind with two images of cfsctl, the first of them bootable.
fn in_every_kind(test: impl Fn(&Cfsctl, &Place, &std::path::Path, Kind)) {
    let Some(cfsctl) = Cfsctl::find() else { return };
    for kind in KINDS {
        let place = Place::new();
        let repository = place.repository(&cfsctl, "r", kind);
        cfsctl.run(&repository, &["oci", "pull", "--bootable", &place.image_a().reference(), TAG]);
        cfsctl.run(&repository, &["oci", "pull", &place.image_b().reference(), "b"]);
        test(&cfsctl, &place, &repository, kind);
    }
}

#[test]
fn it_is_clean_with_as_many_things_and_as_much_garbage() {
    in_every_kind(|cfsctl, _, repository, kind| {
        let ours = ours::assert_clean(repository);
        let theirs = cfsctl.json(repository, &["fsck", "--json"]);
        for (key, count) in [
            ("objects_checked", ours.objects_checked),
            ("streams_checked", ours.streams_checked),
            ("images_checked", ours.images_checked),
        ] {
            assert_eq!(theirs[key], count, "{kind:?}: {key}");
        }
        let report = ours::gc_dry_run(repository);
        assert_eq!((report.objects_removed, report.freed_bytes), cfsctl.garbage(repository), "{kind:?}");
    });
}

#[test]
fn it_is_listed_with_the_same_digests() {
    in_every_kind(|cfsctl, _, repository, kind| {
        let listed = cfsctl.json(repository, &["oci", "images", "--json"]);
        let listed = listed["images"].as_array().unwrap().iter();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let mut theirs: Vec<_> = listed.map(|image| (text(&image["name"]), text(&image["manifest_digest"]))).collect();
        theirs.sort();
        let ours: Vec<_> = oci::list(&ours::open(repository)).unwrap();
        let ours: Vec<_> = ours.into_iter().map(|(tag, digest)| (tag, digest.to_string())).collect();
        assert_eq!(ours, theirs, "{kind:?}");
    });
}

#[test]
fn we_compute_the_same_trees_and_digests_from_it() {
    in_every_kind(|cfsctl, _, repository, kind| {
        let stored = open_image(&ours::open(repository), TAG).unwrap();
        let format = ours::open(repository).image_formats()[0];
        for (options, bootable, stored) in [(&[][..], false, stored.image), (&["--bootable"], true, stored.boot_image)]
        {
            let tree = ours::tree(repository, TAG, bootable);
            let ours = fsverity::digest(algorithm(kind), &erofs::write(&tree, format).unwrap());
            let compute = [&["oci", "compute-id"], options, &[TAG]].concat();
            assert_eq!(ours.to_string(), cfsctl.text(repository, &compute), "{kind:?} {options:?}");
            assert_eq!(Some(ours), stored, "{kind:?} {options:?}");
            let dump = [&["oci", "dump"], options, &[TAG]].concat();
            let theirs = cfsctl.run(repository, &dump);
            let ours = ours::dumpfile(&tree);
            assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs), "{kind:?} {options:?}");
        }
    });
}

#[test]
fn we_mount_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    in_every_kind(|_, _, repository, kind| {
        let stored = open_image(&ours::open(repository), TAG).unwrap();
        for image in [stored.image.unwrap(), stored.boot_image.unwrap()] {
            let read = ours::read_mounted(repository, &image, "usr/share/size-1048577");
            assert!(read == contents((1 << 20) + 1, 5), "{kind:?}");
        }
    });
}
