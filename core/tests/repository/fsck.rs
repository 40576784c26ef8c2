use std::fs;
use std::os::unix::fs::symlink;

use osupdate_core::observer::Silent;
use osupdate_core::repository::{FindingKind, FsckOptions, FsckReport, Namespace, Repository};

use crate::fixture::{Temporary, empty, of_cfsctl, put_image, put_stream};

fn fsck(repository: &Repository) -> FsckReport {
    repository.fsck(&FsckOptions::default(), &Silent).unwrap()
}

fn findings(repository: &Repository) -> Vec<String> {
    fsck(repository).findings.iter().map(ToString::to_string).collect()
}

#[test]
fn the_repository_of_cfsctl_is_clean() {
    let temporary = of_cfsctl();
    let report = fsck(&temporary.repository);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert!(report.has_metadata);
    assert_eq!((report.objects_checked, report.streams_checked, report.images_checked), (10, 4, 1));
    let quick = temporary.repository.fsck(&FsckOptions { metadata_only: true }, &Silent).unwrap();
    assert_eq!((quick.objects_checked, quick.streams_checked), (0, 4));
}

/// A manifest, its config, an image and a file in that.
struct Sample {
    temporary: Temporary,
    paths: [std::path::PathBuf; 4],
    names: [String; 4],
}

fn sample() -> Sample {
    let temporary = empty();
    let repository = &temporary.repository;
    let file = b"contents of a file that are too long for the image itself, by the policy of 64 bytes";
    let image = put_image(repository, file);
    let config = put_stream(repository, "config", b"config", &[("composefs.image.v1", image)]);
    let manifest = put_stream(repository, "manifest", b"manifest", &[("config:x", config)]);
    repository.set_ref(Namespace::Streams, "tag", "manifest").unwrap();
    let file = osupdate_core::fsverity::digest(repository.algorithm(), file);
    let names = [manifest, config, image, file].map(|digest| format!("objects/{}", digest.object_path()));
    let paths = names.each_ref().map(|name| temporary.path.join(name));
    assert_eq!(findings(repository), [""; 0]);
    Sample { temporary, paths, names }
}

#[test]
fn every_changed_object_is_found() {
    let sample = sample();
    for (path, name) in sample.paths.iter().zip(&sample.names) {
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::write(path, &bad).unwrap();
        let report = fsck(&sample.temporary.repository);
        assert_eq!(report.objects_corrupted, 1);
        let mismatch = report.findings.iter().find(|finding| finding.kind == FindingKind::ObjectDigestMismatch);
        assert_eq!(&mismatch.unwrap().path, name);
        fs::write(path, &good).unwrap();
    }
    assert_eq!(findings(&sample.temporary.repository), [""; 0]);
}

#[test]
fn every_missing_object_is_found_where_it_is_needed() {
    let expected = [
        vec![(FindingKind::BrokenSymlink, "streams/manifest")],
        vec![(FindingKind::BrokenSymlink, "streams/config"), (FindingKind::MissingNamedRef, "streams/manifest")],
        vec![(FindingKind::BrokenSymlink, "images/"), (FindingKind::MissingNamedRef, "streams/config")],
        vec![(FindingKind::ImageMissingObject, "images/")],
    ];
    for (number, expected) in expected.into_iter().enumerate() {
        let sample = sample();
        fs::remove_file(&sample.paths[number]).unwrap();
        let report = fsck(&sample.temporary.repository);
        assert_eq!(report.findings.len(), expected.len(), "{:?}", report.findings);
        for (finding, (kind, path)) in report.findings.iter().zip(expected) {
            assert!(finding.kind == kind && finding.path.starts_with(path), "{finding}");
        }
        assert_eq!(report.objects_corrupted, 0);
    }
}

/// The reference calls a stream good whose config is there but lost its own children.
#[test]
fn children_of_children_are_checked() {
    let sample = sample();
    fs::remove_file(sample.temporary.path.join("streams/config")).unwrap();
    let document = osupdate_core::fsverity::digest(sample.temporary.repository.algorithm(), b"config");
    fs::remove_file(sample.temporary.path.join("objects").join(document.object_path())).unwrap();
    let report = fsck(&sample.temporary.repository);
    let first = &report.findings[0];
    assert_eq!(first.to_string(), format!("missing-object-ref: streams/manifest: config:x: {document}"));
    assert_eq!((report.streams_checked, report.streams_corrupted), (1, 1));
}

#[test]
fn everything_strange_is_found() {
    let temporary = empty();
    put_stream(&temporary.repository, "good", b"good", &[]);
    let digest = temporary.repository.put_object(b"x").unwrap().digest;
    let prefix = &digest.object_path()[..2];
    let path = |relative: &str| temporary.path.join(relative);
    fs::write(path(&format!("objects/{prefix}/README")), b"x").unwrap();
    fs::write(path("objects/.tmp-object-abcdefghijkl"), b"x").unwrap();
    fs::write(path("objects/README"), b"not looked at").unwrap();
    symlink("x", path(".symlink-abcdefghijkl")).unwrap();
    fs::write(path("streams/file"), b"x").unwrap();
    symlink("nonsense", path("streams/nonsense")).unwrap();
    symlink(format!("../objects/{}", digest.object_path()), path("streams/no-stream")).unwrap();
    fs::create_dir_all(path("streams/refs/a")).unwrap();
    fs::write(path("streams/refs/a/file"), b"x").unwrap();
    symlink("../../gone", path("streams/refs/a/dangling")).unwrap();
    symlink("../../good", path("streams/refs/a/good")).unwrap();
    let image = temporary.repository.put_image(b"this is not an image").unwrap();
    let report = fsck(&temporary.repository);
    assert_eq!(report.temporary_files, [".symlink-abcdefghijkl", "objects/.tmp-object-abcdefghijkl"]);
    let found = report.findings.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = [
        format!("image-invalid: images/{image}"),
        format!("object-invalid-name: objects/{prefix}/README"),
        "entry-not-symlink: streams/file".to_owned(),
        "stream-open-failed: streams/no-stream: not a split stream".to_owned(),
        "broken-symlink: streams/nonsense".to_owned(),
        "broken-symlink: streams/refs/a/dangling: gone".to_owned(),
        "unexpected-file-type: streams/refs/a/file".to_owned(),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(&expected) {
        assert!(found.starts_with(expected.as_str()), "{found}, not {expected}");
    }
}

#[test]
fn changed_metadata_are_found() {
    let temporary = empty();
    fs::write(temporary.path.join("meta.json"), r#"{"version": 1, "algorithm": "fsverity-sha256-12"}"#).unwrap();
    assert_eq!(findings(&temporary.repository), ["metadata-algorithm-mismatch: meta.json: sha256, opened as sha512"]);
    fs::write(temporary.path.join("meta.json"), "").unwrap();
    assert!(findings(&temporary.repository)[0].starts_with("metadata-parse-failed: meta.json: cannot parse it: EOF"));
}
