//! What is interrupted.

use std::fs;
use std::path::Path;
use std::process::Command;

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{Layout, Platform, PullOptions, pull as pull_image, untag};
use osupdate_core::repository::{Repository, Verity};

use crate::Scenario;
use crate::directory::{copy, temporary};

/// A place with an empty repository `repo` and two layouts, `bA` and `bB`, of images that share a configuration.
fn place() -> tempfile::TempDir {
    let dir = temporary();
    let tar = concat!(env!("CARGO_MANIFEST_DIR"), "/../core/tests/vectors/oci/bootable.tar");
    let status = Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(dir.path()).status().unwrap();
    assert!(status.success());
    Repository::init(&dir.path().join("repo"), Algorithm::Sha512, Verity::Unverified).unwrap();
    dir
}

fn open(place: &Path) -> Repository {
    Repository::open(&place.join("repo")).unwrap()
}

fn pulled(place: &Path, layout: &str, bootable: bool) {
    let source = Layout::open(&place.join(layout), None, &Platform::host()).unwrap();
    let options = PullOptions { bootable, tag: Some(layout), ..PullOptions::default() };
    pull_image(&open(place), &source, &options, &Silent).unwrap();
}

fn scenario(start: tempfile::TempDir, arguments: &[&str]) -> Scenario {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Scenario { start, arguments, damaged: false }
}

pub(crate) fn init() -> Scenario {
    scenario(temporary(), &["repo", "init", "--unverified", "--repo", "@/repo"])
}

pub(crate) fn pull() -> Scenario {
    scenario(place(), &["image", "pull", "oci:@/bA", "--tag", "a", "--bootable", "--repo", "@/repo"])
}

/// The same configuration, with a boot image that there was none of: names are re-pointed.
pub(crate) fn pull_of_another_image() -> Scenario {
    let place = place();
    pulled(place.path(), "bA", false);
    scenario(place, &["image", "pull", "oci:@/bB", "--tag", "b", "--bootable", "--repo", "@/repo"])
}

pub(crate) fn tag() -> Scenario {
    let place = place();
    pulled(place.path(), "bA", false);
    scenario(place, &["image", "tag", "bA", "another/name", "--repo", "@/repo"])
}

pub(crate) fn collection() -> Scenario {
    let place = place();
    pulled(place.path(), "bA", false);
    pulled(place.path(), "bB", true);
    untag(&open(place.path()), "bB").unwrap();
    open(place.path()).put_object(b"an object that nothing needs").unwrap();
    scenario(place, &["repo", "gc", "--repo", "@/repo"])
}

/// Two objects are bad; another repository has them.
pub(crate) fn repair() -> Scenario {
    let place = place();
    pulled(place.path(), "bA", true);
    let objects = place.path().join("repo/objects");
    copy(&place.path().join("repo"), &place.path().join("other"));
    let mut directories: Vec<_> = fs::read_dir(objects).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    for directory in &directories[..2] {
        for entry in fs::read_dir(directory).unwrap() {
            fs::write(entry.unwrap().path(), b"bad").unwrap();
        }
    }
    Scenario { damaged: true, ..scenario(place, &["repo", "fsck", "--repair", "@/other", "--repo", "@/repo"]) }
}

/// From a repository of the other algorithm.
pub(crate) fn copying() -> Scenario {
    let place = place();
    let path = place.path().join("other");
    Repository::init(&path, Algorithm::Sha256, Verity::Unverified).unwrap();
    let source = Layout::open(&place.path().join("bA"), None, &Platform::host()).unwrap();
    let options = PullOptions { bootable: true, tag: Some("a"), ..PullOptions::default() };
    pull_image(&Repository::open(&path).unwrap(), &source, &options, &Silent).unwrap();
    scenario(place, &["repo", "copy", "@/other", "a", "--repo", "@/repo"])
}

/// Another image takes the place of one, whose files are removed at once.
pub(crate) fn publication() -> Scenario {
    let place = place();
    pulled(place.path(), "bA", false);
    pulled(place.path(), "bB", false);
    let (repository, tree) = (place.path().join("repo"), place.path().join("tree"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_osupdate"));
    command.args(["repo", "publish", "--quiet"]).arg(tree).arg("bA=os").arg("--repo").arg(repository);
    assert!(command.output().unwrap().status.success());
    let arguments = ["repo", "publish", "@/tree", "bB=os", "--prune", "--grace", "0", "--repo", "@/repo"];
    scenario(place, &arguments)
}

#[test]
fn publishing() {
    publication().survives_being_killed();
    publication().survives_errors();
}

#[test]
fn copying_from_another_repository() {
    copying().survives_being_killed();
    copying().survives_errors();
}

#[test]
fn a_repair() {
    repair().survives_being_killed();
    repair().survives_errors();
}

#[test]
fn making_a_repository() {
    init().survives_being_killed();
    init().survives_errors();
}

#[test]
fn a_pull_that_is_killed() {
    pull().survives_being_killed();
}

#[test]
fn a_pull_with_errors() {
    pull().survives_errors();
}

#[test]
fn a_pull_that_gives_names_to_other_objects_and_is_killed() {
    pull_of_another_image().survives_being_killed();
}

#[test]
fn a_pull_that_gives_names_to_other_objects_with_errors() {
    pull_of_another_image().survives_errors();
}

#[test]
fn tagging() {
    tag().survives_being_killed();
    tag().survives_errors();
}

#[test]
fn a_collection_of_garbage() {
    collection().survives_being_killed();
    collection().survives_errors();
}
