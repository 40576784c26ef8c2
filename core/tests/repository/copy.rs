use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::repository::{CopyError, CopyOptions, FsckOptions, Namespace, Repository, Verity};

use crate::fixture::{empty, files, of_cfsctl, put_image, put_stream};

const TAG: &str = "oci/foo%2Fbar";

fn manifest(repository: &Repository) -> (Namespace, String) {
    (Namespace::Streams, repository.ref_target(Namespace::Streams, TAG).unwrap().unwrap())
}

fn target(algorithm: Algorithm) -> (tempfile::TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    Repository::init(dir.path(), algorithm, Verity::Unverified).unwrap();
    let repository = Repository::open(dir.path()).unwrap();
    (dir, repository)
}

fn assert_clean(repository: &Repository) {
    let report = repository.fsck(&FsckOptions::default(), &Silent).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

fn files_in(path: &Path, directory: &str) -> Vec<String> {
    files(path).into_iter().filter(|file| file.starts_with(directory) && !file.contains("/refs/")).collect()
}

#[test]
fn a_copy_has_the_same_objects_and_names() {
    let source = of_cfsctl();
    let (dir, repository) = target(Algorithm::Sha512);
    let name = manifest(&source.repository);
    let copy =
        |options| repository.copy_from(&source.repository, std::slice::from_ref(&name), &options, &Silent).unwrap();
    let (report, names) = copy(CopyOptions::default());
    assert_eq!(names, std::slice::from_ref(&name.1));
    assert_clean(&repository);
    assert_eq!(files_in(dir.path(), ""), files_in(&source.path, ""));
    let objects = files_in(dir.path(), "objects/").len() as u64;
    assert_eq!(report.objects_reflinked + report.objects_copied, objects);
    assert_eq!((report.objects_linked, report.names), (0, 5));

    let (again, _) = copy(CopyOptions { hard_links: true });
    assert_eq!((again.objects_present, again.new_bytes, again.names), (objects, 0, 0));
}

#[test]
fn hard_links_are_made_on_request_only() {
    let source = of_cfsctl();
    let inodes = |path: &Path| -> Vec<u64> {
        files_in(path, "objects/").iter().map(|object| fs::metadata(path.join(object)).unwrap().ino()).collect()
    };
    for hard_links in [false, true] {
        let (dir, repository) = target(Algorithm::Sha512);
        let names = [manifest(&source.repository)];
        repository.copy_from(&source.repository, &names, &CopyOptions { hard_links }, &Silent).unwrap();
        let shared = inodes(dir.path()).iter().filter(|inode| inodes(&source.path).contains(inode)).count();
        assert_eq!(shared > 0, hard_links);
        assert_clean(&repository);
    }
}

#[test]
fn damage_is_not_copied() {
    let source = of_cfsctl();
    for object in files_in(&source.path, "objects/") {
        let path = source.path.join(object);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::write(&path, &bad).unwrap();
        for hard_links in [false, true] {
            let (dir, repository) = target(Algorithm::Sha512);
            let names = [manifest(&source.repository)];
            let result = repository.copy_from(&source.repository, &names, &CopyOptions { hard_links }, &Silent);
            assert!(matches!(result, Err(CopyError::Source { .. })), "{result:?}");
            assert!(files(dir.path()).iter().all(|path| path == "meta.json" || path.starts_with("objects/")));
            assert_clean(&repository);
        }
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn names_that_refer_to_more_stay() {
    let source = empty();
    put_stream(&source.repository, "config", b"config", &[]);
    let other = empty();
    let repository = &other.repository;
    let boot = put_image(repository, b"contents of a file that are too long for the image itself, which has 64 bytes");
    let more = put_stream(repository, "config", b"config", &[("composefs.image.boot.v1", boot)]);
    let names = [(Namespace::Streams, "config".to_owned())];
    repository.copy_from(&source.repository, &names, &CopyOptions::default(), &Silent).unwrap();
    assert_eq!(repository.stream("config").unwrap(), Some(more));
    // The other way it is re-pointed.
    source.repository.copy_from(repository, &names, &CopyOptions::default(), &Silent).unwrap();
    assert_eq!(source.repository.stream("config").unwrap(), Some(more));
    assert!(source.repository.open_image(&boot).is_ok());
}

#[test]
fn between_algorithms_contents_stay_and_images_are_those_of_the_layers() {
    let source = of_cfsctl();
    let (_dir, repository) = target(Algorithm::Sha256);
    let names = [manifest(&source.repository)];
    repository.copy_from(&source.repository, &names, &CopyOptions::default(), &Silent).unwrap();
    assert_clean(&repository);
    // What cfsctl makes of the same layers in a repository of this kind.
    let known = "fae7c0b00bcec6878b3b2d2c7fc421ab7bd7aca6b212a06b471c7d098f8c1a16".parse().unwrap();
    assert!(repository.open_image(&known).is_ok());
    // And back: the same as before.
    let (dir, back) = target(Algorithm::Sha512);
    back.copy_from(&repository, &names, &CopyOptions::default(), &Silent).unwrap();
    assert_clean(&back);
    assert_eq!(files_in(dir.path(), "images/"), files_in(&source.path, "images/"));
}

/// What a later copy of the stream itself needs must not be taken for there, and a name must not stand for half of it.
#[test]
fn a_file_that_has_the_bytes_of_a_stream_is_only_a_file() {
    for algorithm in [Algorithm::Sha512, Algorithm::Sha256] {
        let source = empty();
        let contents = b"contents of a file that are too long for the image itself, which has 64 bytes";
        let inner_image = put_image(&source.repository, contents);
        let inner = put_stream(&source.repository, "inner", b"inner", &[("composefs.image.v1", inner_image)]);
        let bytes = source.repository.read_object(&inner).unwrap();
        let outer_image = put_image(&source.repository, &bytes);
        put_stream(&source.repository, "outer", b"outer", &[("composefs.image.v1", outer_image)]);
        let [inner, outer] = ["inner", "outer"].map(|name| (Namespace::Streams, name.to_owned()));

        let (_dir, repository) = target(algorithm);
        let copy = |names: &[(Namespace, String)]| {
            repository.copy_from(&source.repository, names, &CopyOptions::default(), &Silent).unwrap();
            assert_clean(&repository);
        };
        copy(std::slice::from_ref(&outer));
        assert_eq!(repository.stream("inner").unwrap(), None);
        for order in [[outer.clone(), inner.clone()], [inner, outer]] {
            let (_dir, repository) = target(algorithm);
            repository.copy_from(&source.repository, &order, &CopyOptions::default(), &Silent).unwrap();
            assert_clean(&repository);
            let file = repository.put_object(&bytes).unwrap();
            assert!(!file.new, "the file was not copied as it is");
        }
        copy(&[(Namespace::Streams, "inner".to_owned())]);
    }
}

#[test]
fn a_stream_whose_part_refers_to_more_takes_the_name() {
    let source = empty();
    let boot = put_image(&source.repository, b"contents of a file that are too long for the image itself");
    let config = put_stream(&source.repository, "config", b"config", &[("composefs.image.boot.v1", boot)]);
    let more = put_stream(&source.repository, "manifest", b"manifest", &[("config:x", config)]);
    let other = empty();
    let config = put_stream(&other.repository, "config", b"config", &[]);
    put_stream(&other.repository, "manifest", b"manifest", &[("config:x", config)]);
    let names = [(Namespace::Streams, "manifest".to_owned())];
    let copy =
        |from: &Repository, to: &Repository| to.copy_from(from, &names, &CopyOptions::default(), &Silent).unwrap();
    copy(&other.repository, &source.repository);
    assert_eq!(source.repository.stream("manifest").unwrap(), Some(more));
    copy(&source.repository, &other.repository);
    assert_eq!(other.repository.stream("manifest").unwrap(), Some(more));
}

#[test]
fn what_is_damaged_here_is_not_taken_for_there() {
    let source = of_cfsctl();
    let names = [manifest(&source.repository)];
    let copy = |to: &Repository| to.copy_from(&source.repository, &names, &CopyOptions::default(), &Silent);
    for object in files_in(&source.path, "objects/") {
        let (dir, repository) = target(Algorithm::Sha512);
        copy(&repository).unwrap();
        let good = fs::read(source.path.join(&object)).unwrap();
        // As a power cut leaves it.
        fs::write(dir.path().join(&object), b"").unwrap();
        fs::write(source.path.join(&object), b"").unwrap();
        let result = copy(&repository);
        assert!(matches!(result, Err(CopyError::Source { .. })), "{object}: {result:?}");
        fs::write(source.path.join(&object), &good).unwrap();
        copy(&repository).unwrap();
        assert_clean(&repository);
    }
}

#[test]
fn names_of_the_source_that_nobody_asked_for_do_no_harm() {
    let source = of_cfsctl();
    let names = [manifest(&source.repository)];
    fs::write(source.path.join("streams/oci-layer-file"), "no symlink").unwrap();
    std::os::unix::fs::symlink("nowhere", source.path.join("streams/oci-layer-nowhere")).unwrap();
    let (_dir, repository) = target(Algorithm::Sha512);
    repository.copy_from(&source.repository, &names, &CopyOptions::default(), &Silent).unwrap();
    assert_clean(&repository);
}

#[test]
fn endless_chains_of_streams_are_refused() {
    let source = empty();
    let check = || source.repository.fsck(&FsckOptions::default(), &Silent).unwrap().findings.len();
    let mut last = put_stream(&source.repository, "0", b"first", &[]);
    for _ in 0..1000 {
        last = put_stream(&source.repository, "last", b"next", &[("next", last)]);
    }
    assert_eq!(check(), 1);
    let (_dir, repository) = target(Algorithm::Sha512);
    let names = [(Namespace::Streams, "last".to_owned())];
    let result = repository.copy_from(&source.repository, &names, &CopyOptions::default(), &Silent);
    assert!(matches!(result, Err(CopyError::Depth { .. })), "{result:?}");
}
