use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use osupdate_core::Algorithm;
use osupdate_core::erofs::Format;
use osupdate_core::observer::Silent;
use osupdate_core::repository::{
    GcError, GcOptions, InitError, InitOutcome, NotWritable, ObjectError, OpenError, Repository, Verity,
};

use crate::fixture::{empty, files, of_cfsctl};

#[test]
fn init_makes_the_parents_and_nothing_but_meta_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/composefs");
    let init = || Repository::init(&path, Algorithm::Sha512, Verity::Unverified);
    assert_eq!(init().unwrap(), InitOutcome::Created);
    assert_eq!(files(dir.path()), ["a/b/composefs/meta.json"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(init().unwrap(), InitOutcome::AlreadyThere);
    let repository = Repository::open(&path).unwrap();
    assert_eq!((repository.algorithm(), repository.verity()), (Algorithm::Sha512, Verity::Unverified));
    assert_eq!(repository.image_formats(), [Format::V1]);
}

#[test]
fn init_changes_no_repository_of_another_kind() {
    let dir = tempfile::tempdir().unwrap();
    Repository::init(dir.path(), Algorithm::Sha512, Verity::Unverified).unwrap();
    let before = fs::read(dir.path().join("meta.json")).unwrap();
    for (algorithm, verity) in [(Algorithm::Sha256, Verity::Unverified), (Algorithm::Sha512, Verity::Required)] {
        let error = Repository::init(dir.path(), algorithm, verity).unwrap_err();
        assert!(matches!(error, InitError::Different { .. }), "{error}");
    }
    assert_eq!(fs::read(dir.path().join("meta.json")).unwrap(), before);
}

#[test]
fn a_file_system_without_verity_is_named() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        return eprintln!("skipped: there is no /dev/shm");
    };
    let error = Repository::init(dir.path(), Algorithm::Sha512, Verity::Required).unwrap_err();
    let InitError::NoVerity { file_system, .. } = &error else { panic!("{error}") };
    assert_eq!(file_system.to_string(), "tmpfs");
    assert!(file_system.verity_hint().contains("ext4"));
    assert!(files(dir.path()).is_empty());
}

#[test]
fn what_is_not_a_repository_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Repository::open(&dir.path().join("missing"));
    assert!(matches!(missing, Err(OpenError::NotFound { .. })), "{missing:?}");
    let empty = Repository::open(dir.path());
    assert!(matches!(empty, Err(OpenError::NotARepository { .. })), "{empty:?}");
    fs::write(dir.path().join("meta.json"), "{").unwrap();
    let broken = Repository::open(dir.path());
    assert!(matches!(broken, Err(OpenError::Metadata { .. })), "{broken:?}");
    fs::remove_file(dir.path().join("meta.json")).unwrap();
    symlink("/etc/hostname", dir.path().join("meta.json")).unwrap();
    assert!(matches!(Repository::open(dir.path()), Err(OpenError::File(_))));
}

#[test]
fn later_features_may_be_read_but_not_written() {
    let temporary = empty();
    let digest = temporary.repository.put_object(b"before").unwrap().digest;
    drop(temporary.repository);
    let json = r#"{"version": 1, "algorithm": "fsverity-sha512-12", "features": {"read-only-compatible": ["later"]}}"#;
    fs::write(temporary.path.join("meta.json"), json).unwrap();
    let mut repository = Repository::open(&temporary.path).unwrap();
    assert_eq!(repository.read_object(&digest).unwrap(), b"before");
    let error = repository.put_object(b"after").unwrap_err();
    assert!(
        matches!(&error, ObjectError::NotWritable(NotWritable::Features { features, .. }) if features == &["later"])
    );
    assert!(repository.new_object().is_err());
    assert!(repository.publish_streams(&[("name".to_owned(), digest)]).is_err());
    assert!(matches!(repository.gc(&GcOptions::default(), &Silent), Err(GcError::NotWritable(_))));
}

#[test]
fn a_repository_without_meta_json_is_read_and_goes_on_as_it_was() {
    let temporary = of_cfsctl();
    drop(temporary.repository);
    fs::remove_file(temporary.path.join("meta.json")).unwrap();
    let repository = Repository::open(&temporary.path).unwrap();
    assert_eq!((repository.algorithm(), repository.verity()), (Algorithm::Sha512, Verity::Unverified));
    assert_eq!(repository.image_formats(), [Format::V2]);
    let error = repository.check_writable().unwrap_err();
    assert!(matches!(error, NotWritable::NoMetadata { .. }), "{error}");
    drop(repository);

    let other = Repository::init(&temporary.path, Algorithm::Sha256, Verity::Unverified);
    assert!(matches!(other, Err(InitError::Different { .. })), "{other:?}");
    let outcome = Repository::init(&temporary.path, Algorithm::Sha512, Verity::Unverified).unwrap();
    assert_eq!(outcome, InitOutcome::Created);
    let repository = Repository::open(&temporary.path).unwrap();
    assert_eq!(repository.image_formats(), [Format::V2]);
    repository.check_writable().unwrap();
}

#[test]
fn errors_name_the_thing_and_do_not_repeat_their_source() {
    let error = Repository::open(Path::new("/nonexistent/composefs")).unwrap_err();
    assert_eq!(error.to_string(), "there is no repository at /nonexistent/composefs");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("meta.json"), r#"{"version": 7, "algorithm": "fsverity-sha512-12"}"#).unwrap();
    let error = Repository::open(dir.path()).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "repository version 7 is not supported, the newest known is 1");
    assert!(!error.to_string().contains(&source), "{error}");
}
