//! cfsctl and this program in one repository, by turns. Skipped where cfsctl is not installed.

use std::path::Path;

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{
    ImageFindingKind, PullOptions, open_artifact, pull, pull_artifact, referrers, untag, verify_images,
};
use osupdate_core::repository::{FsckOptions, GcOptions, Repository};

use crate::fixture::{Fixture, Image, layer, merged, repository};
use crate::tools::{have_peer, output};

fn cfsctl(dir: &Path, arguments: &[&str]) -> String {
    let repository = ["--insecure", "--repo", dir.to_str().unwrap()];
    String::from_utf8(output(dir, "cfsctl", &[&repository[..], arguments].concat())).unwrap()
}

fn assert_good(dir: &Path, what: &str) {
    let report = cfsctl(dir, &["oci", "fsck"]);
    assert!(report.contains("status: ok"), "{what}: {report}");
}

#[test]
fn images_and_artifacts_of_both_programs_live_together() {
    if !have_peer("cfsctl") {
        return;
    }
    let (dir, repository) = repository(Algorithm::Sha512);
    let fixture = Fixture::unpack("oci/bootable.tar");
    let options = |tag| PullOptions { bootable: true, tag: Some(tag), ..PullOptions::default() };
    let ours = pull(&repository, &fixture.layout("bA"), &options("ours"), &Silent).unwrap();
    let sbom = Image::artifact(&[b"packages"], Some(&ours.manifest_digest));
    pull_artifact(&repository, &sbom, Some("sbom"), &Silent).unwrap();
    assert_good(dir.path(), "after our pulls");
    let listed = cfsctl(dir.path(), &["oci", "images", "--json"]);
    assert!(listed.contains("\"ours\"") && listed.contains("\"sbom\""), "{listed}");
    assert!(listed.contains("\"referrer_count\": 1") || listed.contains("\"referrer_count\":1"), "{listed}");
    let inspected = cfsctl(dir.path(), &["oci", "inspect", "ours"]);
    assert!(inspected.contains(&sbom.manifest_digest().to_string()), "{inspected}");

    // Theirs, with the same empty configuration.
    let other = tempfile::tempdir().unwrap();
    let artifact = Image::artifact(&[b"other", b"and more"], None);
    artifact.write_layout(other.path(), "other");
    let reference = format!("oci:{}:other", other.path().display());
    cfsctl(dir.path(), &["oci", "pull", &reference, "other"]);
    let reference = format!("oci:{}", fixture.path("bB").display());
    cfsctl(dir.path(), &["oci", "pull", "--bootable", &reference, "theirs"]);
    assert_good(dir.path(), "after their pulls");
    assert_eq!(verify_images(&repository).unwrap(), []);
    let opened = open_artifact(&repository, "other").unwrap();
    assert_eq!(
        opened.layers.iter().map(|(_, stream)| merged(&repository, stream)).collect::<Vec<_>>(),
        [b"other".to_vec(), b"and more".to_vec()]
    );

    // Each collects, and everything is still there.
    // Their collection waits for us to close the repository.
    drop(repository);
    cfsctl(dir.path(), &["gc"]);
    let mut repository = Repository::open(dir.path()).unwrap();
    assert_good(dir.path(), "after their collection");
    assert_eq!(verify_images(&repository).unwrap(), []);
    repository.gc(&GcOptions::default(), &Silent).unwrap();
    assert_good(dir.path(), "after our collection");
    assert_eq!(verify_images(&repository).unwrap(), []);
    assert!(repository.fsck(&FsckOptions::default(), &Silent).unwrap().is_clean());
    assert_eq!(referrers(&repository, &ours.manifest_digest).unwrap(), [sbom.manifest_digest()]);

    // A dangling referrer, which cfsctl would keep for ever.
    for tag in ["ours", "sbom"] {
        untag(&repository, tag).unwrap();
    }
    repository.gc(&GcOptions::default(), &Silent).unwrap();
    assert!(open_artifact(&repository, &sbom.manifest_digest().to_string()).is_err());
    assert_good(dir.path(), "after the subject is gone");
}

/// cfsctl takes a layer under any diff_id. Pulling an image that has the diff_id must not use it.
#[test]
fn a_wrong_layer_that_cfsctl_took_is_not_used() {
    if !have_peer("cfsctl") {
        return;
    }
    let (dir, repository) = repository(Algorithm::Sha512);
    let good = layer(&[("usr/good", 1000)]);
    let mut image = Image::new(std::slice::from_ref(&good));
    let evil = layer(&[("usr/evil", 1000)]);
    let honest = image.blobs.insert(image.layers[0], evil).unwrap();
    // cfsctl checks the size of a blob only.
    let layout = tempfile::tempdir().unwrap();
    image.write_layout(layout.path(), "x");
    cfsctl(dir.path(), &["oci", "pull", &format!("oci:{}:x", layout.path().display()), "poisoned"]);
    let kinds = || -> Vec<_> { verify_images(&repository).unwrap().into_iter().map(|finding| finding.kind).collect() };
    assert_eq!(kinds(), [ImageFindingKind::LayerContentsMismatch]);

    image.blobs.insert(image.layers[0], honest);
    let stored = pull(&repository, &image, &PullOptions { tag: Some("x"), ..PullOptions::default() }, &Silent).unwrap();
    assert_eq!(merged(&repository, &stored.layers[0].1), good);
    let (_dir, fresh) = crate::fixture::repository(Algorithm::Sha512);
    assert_eq!(stored.image, pull(&fresh, &image, &PullOptions::default(), &Silent).unwrap().image);
    assert_eq!(kinds(), []);
}
