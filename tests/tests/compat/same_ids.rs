//! Both make the same of the same image, each in a repository of its own.

use std::collections::BTreeSet;
use std::path::Path;

use osupdate_core::Digest;

use crate::cfsctl::Cfsctl;
use crate::fixture::{KINDS, Place, objects};
use crate::ours;

/// Objects that are not split streams: files, documents, EROFS images.
fn contents(repository: &Path) -> BTreeSet<Digest> {
    let handle = ours::open(repository);
    let is_stream = |digest: &Digest| handle.open_stream(digest, None).is_ok();
    objects(repository).into_iter().filter(|digest| !is_stream(digest)).collect()
}

#[test]
fn objects_and_images_are_the_same() {
    let Some(cfsctl) = Cfsctl::find() else { return };
    for kind in KINDS {
        let place = Place::new();
        let (ours, theirs) = (place.repository(&cfsctl, "ours", kind), place.repository(&cfsctl, "theirs", kind));
        for (image, bootable) in [(place.image_a(), true), (place.image_b(), false)] {
            ours::pull(&ours, &image, "latest", bootable);
            let args = ["oci", "pull", &image.reference(), "latest", "--bootable"];
            cfsctl.run(&theirs, if bootable { &args } else { &args[..4] });
        }
        assert_eq!(contents(&ours), contents(&theirs), "{kind:?}");
    }
}

/// As long as this holds, neither gives the other's configuration another object.
#[test]
fn configurations_are_the_same_streams() {
    let Some(cfsctl) = Cfsctl::find() else { return };
    for kind in KINDS {
        let place = Place::new();
        let (ours, theirs) = (place.repository(&cfsctl, "ours", kind), place.repository(&cfsctl, "theirs", kind));
        let image = place.image_a();
        let stored = ours::pull(&ours, &image, "latest", false);
        cfsctl.run(&theirs, &["oci", "pull", &image.reference(), "latest"]);
        let name = format!("oci-config-{}", stored.config_digest);
        let config = |repository: &Path| ours::open(repository).stream(&name).unwrap().unwrap();
        assert_eq!(config(&ours), config(&theirs), "{kind:?}");
    }
}
