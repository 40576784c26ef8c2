use std::fs;

use osupdate_core::Digest;
use osupdate_core::fsverity;
use osupdate_core::repository::{Namespace, Repository, Root};

use crate::fixture::{empty, put_image, put_stream};

/// The labels on the way to an object; `-` for an object without one.
fn way(repository: &Repository, object: &Digest, roots: &[Root]) -> Vec<String> {
    let why = repository.why(object, roots).unwrap();
    assert!(why.unreadable.is_empty(), "{:?}", why.unreadable);
    assert!(why.steps.last().is_none_or(|step| step.digest == Some(*object)));
    why.steps.into_iter().map(|step| step.label.unwrap_or_else(|| "-".to_owned())).collect()
}

#[test]
fn the_shortest_way_from_a_root_is_told() {
    let temporary = empty();
    let repository = &temporary.repository;
    let contents = b"a file of an image, too large to be within it, which also a layer has, as it is in practice";
    let image = put_image(repository, contents);
    let file = fsverity::digest(repository.algorithm(), contents);
    let config = put_stream(repository, "config", b"config", &[("composefs.image.v1", image)]);
    let manifest = put_stream(repository, "manifest", b"manifest", &[("config:x", config)]);
    repository.set_ref(Namespace::Streams, "oci/tag", "manifest").unwrap();
    let to_image = ["streams/refs/oci/tag", "streams/manifest", "config:x", "composefs.image.v1"];
    assert_eq!(way(repository, &manifest, &[]), to_image[..2]);
    assert_eq!(way(repository, &image, &[]), to_image);
    assert_eq!(way(repository, &file, &[]), [&to_image[..], &["-"]].concat());
    let document = fsverity::digest(repository.algorithm(), b"config");
    assert_eq!(way(repository, &document, &[]), [&to_image[..3], &["-"]].concat());

    // A shorter way.
    let root = Root { name: image.to_string(), reason: "boot entry linux.conf".to_owned() };
    let name = format!("images/{image}");
    assert_eq!(way(repository, &file, &[root]), ["boot entry linux.conf", &name, "-"]);
    repository.set_ref(Namespace::Images, "mine", &image.to_string()).unwrap();
    assert_eq!(way(repository, &file, &[]), ["images/refs/mine", &name, "-"]);
}

#[test]
fn what_nothing_needs_has_no_way_and_damage_is_told() {
    let temporary = empty();
    let repository = &temporary.repository;
    let lost = repository.put_object(b"lost").unwrap().digest;
    let child = put_stream(repository, "child", b"child", &[]);
    put_stream(repository, "parent", b"parent", &[("label", child)]);
    repository.set_ref(Namespace::Streams, "tag", "parent").unwrap();
    assert_eq!(way(repository, &lost, &[]), [""; 0]);
    fs::write(temporary.path.join("objects").join(child.object_path()), b"SplitStream").unwrap();
    let why = repository.why(&lost, &[]).unwrap();
    assert!(why.steps.is_empty());
    assert_eq!(why.unreadable.len(), 1);
    assert_eq!(why.unreadable[0].0, "streams/refs/tag: streams/parent: label");
}
