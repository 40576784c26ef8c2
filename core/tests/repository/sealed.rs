//! Repositories with fs-verity. Skipped where the directory of temporary files (`TMPDIR`) is on a file system without it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use osupdate_core::mount::MountError;
use osupdate_core::observer::Silent;
use osupdate_core::repository::{
    FindingKind, FsckOptions, FsckReport, GcOptions, InitError, InitOutcome, Namespace, ObjectError, Repository, Verity,
};
use osupdate_core::{Algorithm, Digest, fsverity};

use crate::fixture::{put_image, put_stream};

struct Sealed {
    repository: Repository,
    dir: tempfile::TempDir,
}

impl Sealed {
    fn object(&self, digest: &Digest) -> std::path::PathBuf {
        self.dir.path().join("objects").join(digest.object_path())
    }

    /// The object with other bytes, or the same bytes unsealed.
    fn overwrite(&self, digest: &Digest, data: &[u8]) {
        fs::remove_file(self.object(digest)).unwrap();
        fs::write(self.object(digest), data).unwrap();
    }

    fn fsck(&self) -> FsckReport {
        self.repository.fsck(&FsckOptions::default(), &Silent).unwrap()
    }
}

fn sealed(algorithm: Algorithm) -> Option<Sealed> {
    let dir = tempfile::tempdir().unwrap();
    match Repository::init(dir.path(), algorithm, Verity::Required) {
        Ok(outcome) => assert_eq!(outcome, InitOutcome::Created),
        Err(error @ InitError::NoVerity { .. }) => {
            eprintln!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    }
    let repository = Repository::open(dir.path()).unwrap();
    assert_eq!((repository.algorithm(), repository.verity()), (algorithm, Verity::Required));
    Some(Sealed { repository, dir })
}

fn large() -> Vec<u8> {
    (0..3_000_001_u32).map(|i| (i % 253) as u8).collect()
}

#[test]
fn the_kernel_and_we_have_the_same_digests() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let Some(sealed) = sealed(algorithm) else { return };
        for data in [&b""[..], b"x", &[7; 4096], &[7; 4097], &large()] {
            let digest = fsverity::digest(algorithm, data);
            let stored = sealed.repository.put_object(data).unwrap();
            assert!(stored.digest == digest && stored.new);
            let (number, bytes) =
                osupdate_sys::fsverity::measure(sealed.repository.open_object(&digest).unwrap().as_fd()).unwrap();
            assert_eq!((number, &bytes[..]), (algorithm.kernel_id().into(), digest.as_bytes()));

            fs::remove_file(sealed.object(&digest)).unwrap();
            for new in [true, false] {
                let mut writer = sealed.repository.new_object().unwrap();
                writer.write_all(data).unwrap();
                let stored = writer.finish().unwrap();
                assert_eq!((stored.digest, stored.new), (digest, new));
            }
            assert_eq!(sealed.repository.read_object(&digest).unwrap(), data);
            assert!(fs::OpenOptions::new().write(true).open(sealed.object(&digest)).is_err());
        }
        assert!(sealed.fsck().is_clean());
        let again = Repository::init(sealed.dir.path(), algorithm, Verity::Required).unwrap();
        assert_eq!(again, InitOutcome::AlreadyThere);
        let other = Repository::init(sealed.dir.path(), algorithm, Verity::Unverified);
        assert!(matches!(other, Err(InitError::Different { .. })));
    }
}

#[test]
fn what_is_not_sealed_as_it_should_be_is_refused_found_and_replaced() {
    let Some(sealed) = sealed(Algorithm::Sha512) else { return };
    let digest = sealed.repository.put_object(b"contents").unwrap().digest;
    let other = sealed.repository.put_object(b"others").unwrap().digest;

    sealed.overwrite(&digest, b"contents");
    assert!(matches!(sealed.repository.open_object(&digest), Err(ObjectError::NoVerity { .. })));
    assert!(!sealed.repository.has_object(&digest).unwrap());
    assert_eq!(sealed.fsck().findings[0].kind, FindingKind::ObjectVerityMissing);
    assert!(sealed.repository.put_object(b"contents").unwrap().new);
    assert!(sealed.fsck().is_clean());

    fs::remove_file(sealed.object(&digest)).unwrap();
    fs::hard_link(sealed.object(&other), sealed.object(&digest)).unwrap();
    let error = sealed.repository.open_object(&digest).unwrap_err();
    assert!(matches!(error, ObjectError::Mismatch { found, .. } if found == other), "{error}");
    assert_eq!(sealed.fsck().findings[0].kind, FindingKind::ObjectDigestMismatch);
    assert!(sealed.repository.publish_streams(&[("name".to_owned(), digest)]).is_err());
    assert!(sealed.repository.put_object(b"contents").unwrap().new);
    assert!(sealed.fsck().is_clean());
}

#[test]
fn threads_seal_while_children_are_started() {
    let Some(sealed) = sealed(Algorithm::Sha512) else { return };
    let data = large();
    std::thread::scope(|scope| {
        for seed in 0..3_u8 {
            let (sealed, data) = (&sealed, &data);
            scope.spawn(move || {
                for n in 0..40_u8 {
                    let mut writer = sealed.repository.new_object().unwrap();
                    writer.write_all(&[seed, n]).unwrap();
                    writer.write_all(data).unwrap();
                    writer.finish().unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..100 {
                // Between fork and exec the child has the writable descriptors of the others.
                assert!(std::process::Command::new("/bin/true").status().unwrap().success());
            }
        });
    });
}

#[test]
fn a_mounted_image_gives_sealed_contents_only() {
    let Some(sealed) = sealed(Algorithm::Sha512) else { return };
    let contents = large();
    let image = put_image(&sealed.repository, &contents);
    let digest = fsverity::digest(Algorithm::Sha512, &contents);
    let read = || {
        let mount = sealed.repository.mount_image(&image, None)?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(&mount, "file", flags, rustix::fs::Mode::empty());
        let mut data = Vec::new();
        let read = file.map_err(std::io::Error::from).and_then(|file| fs::File::from(file).read_to_end(&mut data));
        Ok::<_, MountError>(read.map(|_| data))
    };
    assert!(read().unwrap().unwrap() == contents);
    // The right bytes, but nobody vouches for them.
    sealed.overwrite(&digest, &contents);
    let error = read().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    // The image itself.
    let bytes = fs::read(sealed.object(&image)).unwrap();
    sealed.overwrite(&image, &bytes);
    assert!(matches!(read(), Err(MountError::Image(_))));
}

#[test]
fn collection_keeps_sealed_objects_and_stops_at_others() {
    let Some(mut sealed) = sealed(Algorithm::Sha512) else { return };
    let child = put_stream(&sealed.repository, "child", b"child", &[]);
    put_stream(&sealed.repository, "parent", b"parent", &[("label", child)]);
    put_stream(&sealed.repository, "unused", b"unused", &[]);
    sealed.repository.set_ref(Namespace::Streams, "tag", "parent").unwrap();
    let report = sealed.repository.gc(&GcOptions::default(), &Silent).unwrap();
    assert_eq!((report.objects_kept, report.objects_removed), (4, 2));
    let bytes = fs::read(sealed.object(&child)).unwrap();
    sealed.overwrite(&child, &bytes);
    assert!(sealed.repository.gc(&GcOptions::default(), &Silent).is_err());
    assert!(sealed.object(&child).exists());
}
