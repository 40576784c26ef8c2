use std::fs;
use std::path::Path;

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::repository::{FsckOptions, FsckReport, RepairError, Repository, Verity};

use crate::fixture::{Recorder, files, of_cfsctl};

fn fsck(repository: &Repository) -> FsckReport {
    repository.fsck(&FsckOptions::default(), &Silent).unwrap()
}

/// All files with their contents, to tell that nothing else was touched.
fn contents(path: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |name: &String| fs::read(path.join(name)).unwrap_or_default();
    files(path).into_iter().map(|name| (name.clone(), read(&name))).collect()
}

fn objects(path: &Path) -> Vec<String> {
    files(path).into_iter().filter(|path| path.starts_with("objects/")).collect()
}

/// Checks and repairs until it is clean; the number of rounds.
fn repair(repository: &Repository, source: &Repository) -> usize {
    for round in 0..5 {
        let report = fsck(repository);
        if report.is_clean() {
            return round;
        }
        repository.repair_from(source, &report, &Silent).unwrap();
    }
    panic!("not repaired: {:?}", fsck(repository).findings);
}

type Damage = fn(&Path);

const DAMAGES: [Damage; 4] = [
    |path| fs::remove_file(path).unwrap(),
    |path| fs::write(path, b"").unwrap(),
    |path| {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    },
    |path| fs::write(path, vec![0; usize::try_from(fs::metadata(path).unwrap().len()).unwrap()]).unwrap(),
];

#[test]
fn every_damaged_object_is_repaired_and_nothing_else_touched() {
    let source = of_cfsctl();
    let good = contents(&source.path);
    let damaged = of_cfsctl();
    for object in objects(&source.path) {
        for damage in DAMAGES {
            damage(&damaged.path.join(&object));
            assert!(!fsck(&damaged.repository).is_clean());
            assert_eq!(repair(&damaged.repository, &source.repository), 1);
            assert!(contents(&damaged.path) == good, "{object}");
        }
    }
}

#[test]
fn all_objects_at_once_are_repaired() {
    let source = of_cfsctl();
    for damage in DAMAGES {
        let damaged = of_cfsctl();
        for object in objects(&source.path) {
            damage(&damaged.path.join(&object));
        }
        repair(&damaged.repository, &source.repository);
        assert!(contents(&damaged.path) == contents(&source.path));
    }
}

#[test]
fn a_missing_name_is_repaired_with_what_it_stands_for() {
    let source = of_cfsctl();
    let damaged = of_cfsctl();
    fs::remove_dir_all(damaged.path.join("objects")).unwrap();
    for name in damaged.repository.stream_names().unwrap() {
        fs::remove_file(damaged.path.join("streams").join(name)).unwrap();
    }
    fs::remove_dir_all(damaged.path.join("images")).unwrap();
    // A handle that was opened before would look for objects in the removed directory.
    let repository = Repository::open(&damaged.path).unwrap();
    assert_eq!(fsck(&repository).missing_names.len(), 1);
    repair(&repository, &source.repository);
    assert!(contents(&damaged.path) == contents(&source.path));
}

#[test]
fn a_source_that_is_damaged_too_repairs_nothing_and_says_so() {
    let source = of_cfsctl();
    let damaged = of_cfsctl();
    let object = objects(&source.path).remove(0);
    fs::write(source.path.join(&object), b"bad").unwrap();
    fs::remove_file(damaged.path.join(&object)).unwrap();
    let before = contents(&damaged.path);
    let recorder = Recorder::default();
    let report = damaged.repository.repair_from(&source.repository, &fsck(&damaged.repository), &recorder).unwrap();
    assert_eq!(report.objects_repaired, 0);
    assert!(recorder.warnings()[0].contains("is not repaired"), "{:?}", recorder.warnings());
    assert!(contents(&damaged.path) == before);
}

#[test]
fn a_repository_of_another_kind_is_refused() {
    let damaged = of_cfsctl();
    let dir = tempfile::tempdir().unwrap();
    Repository::init(dir.path(), Algorithm::Sha256, Verity::Unverified).unwrap();
    let other = Repository::open(dir.path()).unwrap();
    let result = damaged.repository.repair_from(&other, &fsck(&damaged.repository), &Silent);
    assert!(matches!(result, Err(RepairError::Algorithm { .. })), "{result:?}");
}
