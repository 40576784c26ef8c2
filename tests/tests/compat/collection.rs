//! What a collection of ours leaves, beside what one of cfsctl's leaves of the same repository.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use osupdate_core::Digest;
use osupdate_core::oci::ContentDigest;
use osupdate_core::repository::Namespace;
use osupdate_core::splitstream::{ContentType, Writer};

use crate::cfsctl::Cfsctl;
use crate::fixture::{KINDS, Kind, Place, algorithm, contents, loose_layer, objects};
use crate::ours;

/// Type of an ostree commit.
const OSTREE: ContentType = ContentType::Other(0xAFE1_38C1_8C46_3EF1);

/// A repository with everything that refs can stand for, and garbage.
fn full(cfsctl: &Cfsctl, place: &Place, kind: Kind) -> PathBuf {
    let repository = place.repository(cfsctl, "r", kind);
    let (a, b) = (place.image_a(), place.image_b());
    cfsctl.run(&repository, &["oci", "pull", "--bootable", &a.reference(), "a"]);
    cfsctl.run(&repository, &["oci", "pull", &place.image_a_again().reference(), "again"]);
    let image = ours::pull(&repository, &b, "b", true);
    cfsctl.run(&repository, &["oci", "untag", "b"]);
    cfsctl.run(&repository, &["oci", "untag", "a"]);

    // An image of a directory, with a ref of its own.
    let tree = place.path("tree");
    fs::create_dir_all(tree.join("usr")).unwrap();
    fs::write(tree.join("usr/file"), contents(3000, 11)).unwrap();
    cfsctl.run(&repository, &["create-image", tree.to_str().unwrap(), "of-a-directory"]);
    fs::write(tree.join("usr/file"), contents(3000, 12)).unwrap();
    cfsctl.run(&repository, &["create-image", tree.to_str().unwrap()]);

    // A layer without an image, with a ref of its own.
    let tar = loose_layer();
    import_layer(cfsctl, &repository, &ContentDigest::sha256(&tar).to_string(), &tar);

    // A stream of another program that leads to another one and to an object.
    let handle = ours::open(&repository);
    let kept = handle.put_object(&contents(2000, 13)).unwrap().digest;
    let mut inner = Writer::new(algorithm(kind), OSTREE).unwrap();
    inner.external(kept, 2000).unwrap();
    let inner = handle.put_object(&inner.finish().unwrap()).unwrap().digest;
    let mut outer = Writer::new(algorithm(kind), OSTREE).unwrap();
    outer.named_ref("inner", inner);
    outer.inline(b"what only that program knows");
    let outer = handle.put_object(&outer.finish().unwrap()).unwrap().digest;
    handle.publish_streams(&[("ostree-commit-1".into(), outer), ("ostree-commit-0".into(), inner)]).unwrap();
    handle.set_ref(Namespace::Streams, "ostree/main", "ostree-commit-1").unwrap();
    handle.put_object(b"nobody needs this, and so it goes; it is long enough to be an object").unwrap();
    drop(handle);

    // An image that is kept because it refers to another one. (Where that is gone, we collect the referrer; cfsctl never does.)
    let subject = fs::read_link(repository.join("streams/refs/oci/again")).unwrap();
    let subject = subject.to_str().unwrap().strip_prefix("../../oci-manifest-").unwrap();
    let refs = repository.join("streams/refs/oci-referrers").join(subject);
    fs::create_dir_all(&refs).unwrap();
    let artifact = image.manifest_digest.to_string();
    symlink(format!("../../../oci-manifest-{artifact}"), refs.join(&artifact)).unwrap();
    repository
}

fn import_layer(cfsctl: &Cfsctl, repository: &Path, diff_id: &str, tar: &[u8]) {
    let mut import = Command::new(cfsctl.program());
    import.args(["--insecure", "--repo"]).arg(repository).args(["oci", "import-layer", diff_id, "layers/one"]);
    let mut import = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    import.stdin.take().unwrap().write_all(tar).unwrap();
    assert!(import.wait().unwrap().success());
}

/// Everything that has a name.
fn names(repository: &Path) -> BTreeSet<String> {
    let handle = ours::open(repository);
    let refs = [Namespace::Streams, Namespace::Images].map(|namespace| handle.refs(namespace).unwrap());
    let refs = refs.into_iter().flatten().map(|(name, target)| format!("{name} -> {target}"));
    refs.chain(handle.stream_names().unwrap()).collect()
}

#[test]
fn it_keeps_everything_that_theirs_keeps() {
    let Some(cfsctl) = Cfsctl::find() else { return };
    for kind in KINDS {
        let place = Place::new();
        let repository = full(&cfsctl, &place, kind);
        let before = objects(&repository).len();
        let (by_us, by_them) = (place.copy(&repository, "by-us"), place.copy(&repository, "by-them"));
        ours::gc(&by_us);
        cfsctl.run(&by_them, &["gc"]);
        let kept = |repository: &Path| -> BTreeSet<Digest> { objects(repository).into_iter().collect() };
        let missing: Vec<_> = kept(&by_them).difference(&kept(&by_us)).copied().collect();
        assert_eq!(missing, [], "{kind:?}");
        let missing: Vec<_> = names(&by_them).difference(&names(&by_us)).cloned().collect();
        assert_eq!(missing, [""; 0], "{kind:?}");
        assert!(kept(&by_us).len() < before, "{kind:?}: nothing was collected");
    }
}

#[test]
fn it_keeps_the_children_of_all_streams_and_leaves_a_clean_repository() {
    let Some(cfsctl) = Cfsctl::find() else { return };
    for kind in KINDS {
        let place = Place::new();
        let repository = full(&cfsctl, &place, kind);
        ours::gc(&repository);
        cfsctl.assert_clean(&repository);
        ours::assert_clean(&repository);
        ours::assert_complete(&repository, "again");
        for reference in ["refs/ostree/main", "refs/layers/one"] {
            cfsctl.run(&repository, &["cat", reference]);
        }
        let handle = ours::open(&repository);
        for name in handle.stream_names().unwrap() {
            let stream = handle.stream(&name).unwrap().unwrap();
            let stream = handle.open_stream(&stream, None).unwrap();
            for digest in stream.object_refs().iter().chain(stream.named_refs().values()) {
                assert!(handle.has_object(digest).unwrap(), "{kind:?}: {name} has lost {digest}");
            }
        }
        assert_eq!(cfsctl.garbage(&repository).0, 0, "{kind:?}");
    }
}
