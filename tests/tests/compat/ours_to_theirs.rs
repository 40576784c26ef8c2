//! What we pulled, as cfsctl sees it.

use std::fs;
use std::process::Command;

use osupdate_core::erofs;

use crate::cfsctl::Cfsctl;
use crate::fixture::{KINDS, Kind, Place, contents};
use crate::ours;

const TAG: &str = "registry.example/os:1";

fn in_every_kind(test: impl Fn(&Cfsctl, &Place, Kind)) {
    let Some(cfsctl) = Cfsctl::find() else { return };
    for kind in KINDS {
        test(&cfsctl, &Place::new(), kind);
    }
}

#[test]
fn it_is_clean_with_as_many_things_and_without_garbage() {
    in_every_kind(|cfsctl, place, kind| {
        let repository = place.repository(cfsctl, "r", kind);
        ours::pull(&repository, &place.image_a(), TAG, true);
        ours::pull(&repository, &place.image_b(), "b", false);
        cfsctl.assert_clean(&repository);
        let ours = ours::assert_clean(&repository);
        let theirs = cfsctl.json(&repository, &["fsck", "--json"]);
        for (key, count) in [
            ("objects_checked", ours.objects_checked),
            ("streams_checked", ours.streams_checked),
            ("images_checked", ours.images_checked),
        ] {
            assert_eq!(theirs[key], count, "{kind:?}: {key}");
        }
        assert_eq!(theirs["has_metadata"], true);
        assert_eq!(cfsctl.json(&repository, &["oci", "fsck", "--json"])["images_checked"], 2);
        assert_eq!(cfsctl.garbage(&repository), (0, 0), "{kind:?}");
    });
}

#[test]
fn it_is_listed() {
    in_every_kind(|cfsctl, place, kind| {
        let repository = place.repository(cfsctl, "r", kind);
        let image = ours::pull(&repository, &place.image_a(), TAG, false);
        let listed = cfsctl.json(&repository, &["oci", "images", "--json"]);
        let listed = listed["images"].as_array().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0]["name"], TAG);
        assert_eq!(listed[0]["manifest_digest"], image.manifest_digest.to_string());
        assert_eq!(listed[0]["layer_count"], 2);
        let inspected = cfsctl.json(&repository, &["oci", "inspect", TAG]);
        assert!(inspected["composefs_erofs"].as_str().unwrap().ends_with(&image.image.unwrap().to_string()));
    });
}

#[test]
fn it_computes_the_same_trees_and_digests_from_it() {
    in_every_kind(|cfsctl, place, kind| {
        let repository = place.repository(cfsctl, "r", kind);
        let image = ours::pull(&repository, &place.image_a(), TAG, true);
        for (options, digest, bootable) in [(&[][..], image.image, false), (&["--bootable"], image.boot_image, true)] {
            let digest = digest.unwrap().to_string();
            let compute = [&["oci", "compute-id"], options, &[TAG]].concat();
            assert_eq!(cfsctl.text(&repository, &compute), digest, "{kind:?} {options:?}");
            let dump = [&["oci", "dump"], options, &[TAG]].concat();
            let ours = ours::dumpfile(&ours::tree(&repository, TAG, bootable));
            let theirs = cfsctl.run(&repository, &dump);
            assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs), "{kind:?} {options:?}");
        }
    });
}

#[test]
fn it_lists_the_same_objects_of_the_image() {
    in_every_kind(|cfsctl, place, kind| {
        let repository = place.repository(cfsctl, "r", kind);
        let image = ours::pull(&repository, &place.image_a(), TAG, false).image.unwrap();
        let bytes = ours::open(&repository).read_image(&image).unwrap();
        let ours: Vec<String> = erofs::objects(&bytes).unwrap().iter().map(ToString::to_string).collect();
        let listed = cfsctl.text(&repository, &["image-objects", &image.to_string()]);
        let mut theirs: Vec<&str> = listed.lines().map(|line| line.split_once(':').unwrap().1).collect();
        theirs.sort_unstable();
        assert_eq!(ours, theirs, "{kind:?}");
    });
}

#[test]
fn it_restores_layers_and_documents() {
    in_every_kind(|cfsctl, place, kind| {
        let repository = place.repository(cfsctl, "r", kind);
        let source = place.image_a();
        let image = ours::pull(&repository, &source, TAG, false);
        for (diff_id, tar) in source.layers() {
            assert!(cfsctl.run(&repository, &["oci", "layer", &diff_id]) == tar, "{kind:?}: {diff_id} differs");
            assert!(cfsctl.run(&repository, &["cat", &format!("oci-layer-{diff_id}")]) == tar);
        }
        let config = cfsctl.run(&repository, &["cat", &format!("oci-config-{}", image.config_digest)]);
        assert!(image.config_digest.matches(&config));
        let manifest = cfsctl.run(&repository, &["cat", &format!("refs/oci/{}", TAG.replace('/', "%2F"))]);
        assert!(image.manifest_digest.matches(&manifest));
    });
}

#[test]
fn it_copies_the_image_into_a_repository_of_its_own() {
    in_every_kind(|cfsctl, place, kind| {
        let (ours, theirs) = (place.repository(cfsctl, "ours", kind), place.repository(cfsctl, "theirs", kind));
        let image = ours::pull(&ours, &place.image_a(), TAG, true);
        cfsctl.run(&theirs, &["oci", "copy", TAG, "--from", ours.to_str().unwrap(), "--name", "copy"]);
        cfsctl.assert_clean(&theirs);
        ours::assert_clean(&theirs);
        let copy = ours::assert_complete(&theirs, "copy");
        assert_eq!((copy.manifest_digest, copy.image), (image.manifest_digest, image.image), "{kind:?}");
    });
}

#[test]
fn it_mounts_the_image() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    in_every_kind(|cfsctl, place, kind| {
        let repository = place.repository(cfsctl, "r", kind);
        ours::pull(&repository, &place.image_a(), TAG, true);
        for options in [&[][..], &["--bootable"]] {
            let mountpoint = place.path("mountpoint");
            fs::create_dir_all(&mountpoint).unwrap();
            let args = [&["oci", "mount"], options, &[TAG, mountpoint.to_str().unwrap()]].concat();
            cfsctl.run(&repository, &args);
            let read = |path: &str| fs::read(mountpoint.join(path));
            let (ping, left_over) = (read("usr/bin/ping6"), read("boot/left-over"));
            let status = Command::new("umount").arg(&mountpoint).status().unwrap();
            assert!(status.success());
            assert!(ping.unwrap() == contents(20_000, 8), "{kind:?}");
            assert_eq!(left_over.is_ok(), options.is_empty(), "{kind:?}");
        }
    });
}
