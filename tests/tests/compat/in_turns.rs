//! Both tools change one repository by turns, and no image is lost to either.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::cfsctl::Cfsctl;
use crate::fixture::{Image, KINDS, Kind, Place, objects};
use crate::ours;

/// A repository that both work on, and the images that go into it.
struct Shared {
    cfsctl: Cfsctl,
    kind: Kind,
    _place: Place,
    repository: PathBuf,
    a: Image,
    /// Another manifest with the same configuration.
    a_again: Image,
    b: Image,
}

impl Shared {
    /// One of every kind; none where cfsctl is not there.
    fn of_every_kind() -> Vec<Self> {
        let make = |kind| {
            let cfsctl = Cfsctl::find()?;
            let place = Place::new();
            let repository = place.repository(&cfsctl, "r", kind);
            let (a, a_again, b) = (place.image_a(), place.image_a_again(), place.image_b());
            Some(Self { cfsctl, kind, _place: place, repository, a, a_again, b })
        };
        KINDS.into_iter().map_while(make).collect()
    }

    fn we_pull(&self, image: &Image, tag: &str, bootable: bool) {
        ours::pull(&self.repository, image, tag, bootable);
    }

    #[track_caller]
    fn they(&self, args: &[&str]) {
        self.cfsctl.run(&self.repository, args);
    }

    #[track_caller]
    fn they_pull(&self, image: &Image, tag: &str, bootable: bool) {
        let args = ["oci", "pull", &image.reference(), tag, "--bootable"];
        self.they(if bootable { &args } else { &args[..4] });
    }

    /// Every tag is whole in the eyes of both; the bootable ones still are.
    #[track_caller]
    fn check(&self, tags: &[(&str, bool)]) {
        self.cfsctl.assert_clean(&self.repository);
        ours::assert_clean(&self.repository);
        for (tag, bootable) in tags {
            let image = ours::assert_complete(&self.repository, tag);
            assert!(!bootable || image.boot_image.is_some(), "{:?}: {tag} has lost its boot image", self.kind);
            let id = self.cfsctl.text(&self.repository, &["oci", "compute-id", tag]);
            assert_eq!(id, image.image.unwrap().to_string(), "{:?}: {tag}", self.kind);
        }
        let listed = self.cfsctl.json(&self.repository, &["oci", "images", "--json"]);
        assert_eq!(listed["images"].as_array().unwrap().len(), tags.len(), "{:?}", self.kind);
    }
}

#[test]
fn images_survive_pulls_and_collections_of_both() {
    for shared in Shared::of_every_kind() {
        shared.we_pull(&shared.a, "a", true);
        shared.check(&[("a", true)]);
        shared.they_pull(&shared.b, "b", false);
        shared.check(&[("a", true), ("b", false)]);
        ours::gc(&shared.repository);
        shared.check(&[("a", true), ("b", false)]);
        shared.they_pull(&shared.a, "theirs", true);
        shared.we_pull(&shared.b, "ours", true);
        let all = [("a", true), ("b", true), ("theirs", true), ("ours", true)];
        shared.check(&all);
        shared.they(&["gc"]);
        shared.check(&all);
        ours::gc(&shared.repository);
        shared.check(&all);
        shared.they(&["oci", "untag", "a"]);
        shared.they(&["oci", "untag", "theirs"]);
        shared.they(&["gc"]);
        shared.check(&[("b", true), ("ours", true)]);
        shared.we_pull(&shared.a, "a", false);
        ours::gc(&shared.repository);
        shared.check(&[("a", false), ("b", true), ("ours", true)]);
        shared.they(&["gc"]);
        shared.check(&[("a", false), ("b", true), ("ours", true)]);
    }
}

#[test]
fn pulling_the_same_by_turns_leaves_no_more_than_pulling_it_once() {
    for shared in Shared::of_every_kind() {
        shared.we_pull(&shared.a, "a", false);
        let once = objects(&shared.repository).len();
        for _ in 0..3 {
            shared.they_pull(&shared.a, "a", false);
            shared.we_pull(&shared.a, "a", false);
        }
        ours::gc(&shared.repository);
        shared.check(&[("a", false)]);
        assert_eq!(objects(&shared.repository).len(), once, "{:?}", shared.kind);
        assert_eq!(shared.cfsctl.garbage(&shared.repository), (0, 0), "{:?}", shared.kind);
    }
}

/// cfsctl gives the configuration another object when it makes the boot image, and the first manifest still names the old
/// one. Its own collection then loses what only the old one names.
#[test]
fn our_collection_keeps_an_image_whose_configuration_cfsctl_wrote_again() {
    for shared in Shared::of_every_kind() {
        shared.they_pull(&shared.a, "a", false);
        shared.they_pull(&shared.a_again, "again", true);
        shared.they(&["oci", "untag", "again"]);
        assert!(ours::gc(&shared.repository).objects_removed > 0);
        shared.check(&[("a", false)]);
    }
}

#[test]
fn their_collection_keeps_an_image_whose_configuration_we_wrote_again() {
    for first_is_ours in [true, false] {
        for shared in Shared::of_every_kind() {
            match first_is_ours {
                true => shared.we_pull(&shared.a, "a", false),
                false => shared.they_pull(&shared.a, "a", false),
            }
            shared.we_pull(&shared.a_again, "again", true);
            shared.they(&["oci", "untag", "again"]);
            shared.they(&["gc"]);
            shared.check(&[("a", false)]);
        }
    }
}

/// What is lost in the case above comes back with the next pull, whoever makes it.
#[test]
fn a_pull_repairs_what_their_collection_lost() {
    for shared in Shared::of_every_kind() {
        shared.they_pull(&shared.a, "a", false);
        shared.they_pull(&shared.a_again, "again", true);
        shared.they(&["oci", "untag", "again"]);
        shared.they(&["gc"]);
        shared.we_pull(&shared.a, "a", false);
        shared.check(&[("a", false)]);
        ours::gc(&shared.repository);
        shared.check(&[("a", false)]);
    }
}

/// A collection of one waits for the other's transaction.
#[test]
fn each_waits_for_the_locks_of_the_other() {
    for shared in Shared::of_every_kind().into_iter().take(1) {
        shared.we_pull(&shared.a, "a", false);
        let held = ours::open(&shared.repository);
        let theirs = thread::scope(|scope| {
            let theirs = scope.spawn(|| shared.they(&["gc"]));
            thread::sleep(Duration::from_millis(300));
            let waits = !theirs.is_finished();
            drop(held);
            theirs.join().unwrap();
            waits
        });
        assert!(theirs, "cfsctl collected garbage while we had the repository open");
        shared.check(&[("a", false)]);
    }
}
