//! These mount, and so need root; elsewhere they say that they are skipped. Nothing is attached to a place that others
//! see, but for the moment below `/run` that old kernels need. fs-verity itself is tested on whole machines.
#![allow(clippy::print_stderr, reason = "a test says why it is skipped")]

use std::fs::{self, File};
use std::io::{Read, Write};

use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};

use super::*;
use crate::Algorithm;
use crate::erofs::Format;
use crate::repository::InitOutcome;
use crate::tree::{Content, Directory, Entry, Leaf, LeafKind, Stat, Tree};

struct Fixture {
    dir: tempfile::TempDir,
    repository: Repository,
    image: Digest,
}

const LARGE: [u8; 10_000] = [0x5a; 10_000];

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: mounting needs root");
    }
    root
}

/// `small` (inline, with an attribute), `large` (an object) and `lost` (an object that is not there).
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repository");
    assert_eq!(Repository::init(&path, Algorithm::Sha512, Verity::Unverified).unwrap(), InitOutcome::Created);
    let repository = Repository::open(&path).unwrap();
    let large = repository.put_object(&LARGE).unwrap();

    let mut tree = Tree { root: Directory { stat: stat(0o755), ..Directory::default() }, leaves: Vec::new() };
    let mut with_attribute = stat(0o644);
    with_attribute.xattrs.insert(b"user.colour".to_vec().into(), b"green".to_vec().into());
    let lost = crate::fsverity::digest(Algorithm::Sha512, b"nobody stored this");
    let files = [
        ("small", with_attribute, Content::Inline(b"inline contents".to_vec().into())),
        ("large", stat(0o600), Content::object(large.digest, large.size_bytes)),
        ("lost", stat(0o644), Content::object(lost, 18)),
    ];
    for (name, stat, content) in files {
        let id = tree.push_leaf(Leaf::new(stat, LeafKind::Regular(content)));
        tree.root.entries.insert(name.as_bytes().into(), Entry::Leaf(id));
    }
    let image = crate::erofs::write(&tree, Format::V1).unwrap();
    let image = repository.put_image(&image).unwrap();
    Fixture { dir, repository, image }
}

fn stat(mode: u16) -> Stat {
    Stat { mode, mtime_secs: 1, ..Stat::default() }
}

fn options(upper: Option<Upper>) -> MountOptions {
    let read_only = upper.is_none();
    MountOptions { source: "composefs:test".to_owned(), verity: Verity::Unverified, upper, read_only, id_map: None }
}

fn compose_only(
    fixture: &Fixture,
    upper: Option<Upper>,
    backing: Backing,
    layering: Layering,
) -> Result<OwnedFd, MountError> {
    let image = fixture.repository.open_image(&fixture.image).unwrap();
    let objects = fixture.repository.objects_dir().unwrap();
    compose_by(image.as_fd(), &[objects.as_fd()], &options(upper), &[backing], &[layering])
}

/// Accepts that this kernel does not know a way, and nothing else.
fn skip(backing: Backing, layering: Layering, error: MountError) {
    let errno = match &error {
        MountError::Erofs(error) => error.errno(),
        MountError::Overlay(attempts) => attempts[0].error.errno(),
        _ => None,
    };
    assert!(matches!(errno, Some(Errno::NOTBLK | Errno::INVAL | Errno::BADF)), "{backing:?} {layering:?}: {error}");
    eprintln!("skipped: {backing:?} {layering:?}: {error}");
}

fn open_in(mount: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<File> {
    Ok(openat(mount, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?.into())
}

fn read(mount: &OwnedFd, path: &str) -> Vec<u8> {
    let mut data = Vec::new();
    open_in(mount, path, OFlags::RDONLY).unwrap().read_to_end(&mut data).unwrap();
    data
}

fn check_contents(mount: &OwnedFd) {
    assert_eq!(read(mount, "small"), b"inline contents");
    assert_eq!(read(mount, "large"), LARGE);
    let file = open_in(mount, "small", OFlags::RDONLY).unwrap();
    let mut value = [0; 16];
    let length = rustix::fs::fgetxattr(&file, "user.colour", &mut value).unwrap();
    assert_eq!(&value[..length], b"green");
    assert_eq!(statat(mount, "lost", AtFlags::empty()).unwrap().st_size, 18);
    assert_eq!(open_in(mount, "lost", OFlags::RDONLY).unwrap_err(), Errno::NOENT);
}

fn staging_is_left() -> bool {
    let name = "osupdate-mount-";
    let mut entries = fs::read_dir("/run").unwrap();
    fs::read_to_string("/proc/self/mounts").unwrap().contains(name)
        || entries.any(|entry| entry.unwrap().file_name().to_string_lossy().contains(name))
}

#[test]
fn an_image_of_the_repository_is_mounted_read_only() {
    if !is_root() {
        return;
    }
    let fixture = fixture();
    let mount = fixture.repository.mount_image(&fixture.image, None).unwrap();
    check_contents(&mount);
    assert_eq!(open_in(&mount, "new", OFlags::WRONLY | OFlags::CREATE).unwrap_err(), Errno::ROFS);
}

#[test]
fn every_way_that_this_kernel_has_gives_the_same_files() {
    if !is_root() {
        return;
    }
    let fixture = fixture();
    let mut works = 0;
    for backing in Backing::ALL {
        for layering in Layering::ALL {
            match compose_only(&fixture, None, backing, layering) {
                Ok(mount) => {
                    check_contents(&mount);
                    works += 1;
                }
                Err(error) => skip(backing, layering, error),
            }
        }
    }
    assert!(works > 0);
}

#[test]
fn changes_go_to_the_upper_layer_in_every_way() {
    if !is_root() {
        return;
    }
    let fixture = fixture();
    for (number, layering) in Layering::ALL.into_iter().enumerate() {
        let base = fixture.dir.path().join(format!("{number}"));
        let open = |name: &str| {
            fs::create_dir_all(base.join(name)).unwrap();
            OwnedFd::from(File::open(base.join(name)).unwrap())
        };
        let upper = Upper { upper: open("upper"), work: open("work") };
        let mount = match compose_only(&fixture, Some(upper), Backing::Loop, layering) {
            Ok(mount) => mount,
            Err(error) => {
                skip(Backing::Loop, layering, error);
                continue;
            }
        };
        check_contents(&mount);
        open_in(&mount, "new", OFlags::WRONLY | OFlags::CREATE).unwrap().write_all(b"ours").unwrap();
        open_in(&mount, "large", OFlags::WRONLY).unwrap().write_all(b"changed").unwrap();
        assert_eq!(fs::read(base.join("upper/new")).unwrap(), b"ours");
        assert!(read(&mount, "large").starts_with(b"changed"));
        let object = fixture.repository.read_object(&crate::fsverity::digest(Algorithm::Sha512, &LARGE)).unwrap();
        assert_eq!(object, LARGE);
    }
}

#[test]
fn a_mount_gets_its_place_and_leaves_no_other() {
    if !is_root() {
        return;
    }
    let fixture = fixture();
    let mount = compose_only(&fixture, None, Backing::File, Layering::OneString).unwrap();
    let place = fixture.dir.path().join("place");
    fs::create_dir(&place).unwrap();
    attach(mount.as_fd(), rustix::fs::CWD, &place).unwrap();
    let contents = fs::read(place.join("large"));
    let source = fs::read_to_string("/proc/self/mounts").unwrap();
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(contents.unwrap(), LARGE);
    assert!(source.contains("composefs:test"), "{source}");
    drop(mount);
    // Other tests may have one at this moment.
    for _ in 0..100 {
        if !staging_is_left() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("directories are left below /run");
}

#[test]
fn other_files_are_not_images() {
    let file = tempfile::tempfile().unwrap();
    (&file).write_all(&[0x9a; 8192]).unwrap();
    let result = compose(file.as_fd(), &[], &options(None));
    assert!(matches!(result, Err(MountError::NotAnImage)), "{result:?}");
}

#[test]
fn errors_have_the_words_of_the_kernel() {
    if !is_root() {
        return;
    }
    // The header is right; what follows is no file system.
    let fixture = fixture();
    let mut image = fixture.repository.read_image(&fixture.image).unwrap();
    image[1024..1028].fill(0);
    let file = tempfile::tempfile().unwrap();
    (&file).write_all(&image).unwrap();
    let error = compose(file.as_fd(), &[], &options(None)).unwrap_err();
    assert!(matches!(error, MountError::Erofs(_)), "{error:?}");

    // A file is no layer.
    let good = fixture.repository.open_image(&fixture.image).unwrap();
    let error = compose(good.as_fd(), &[file.as_fd()], &options(None)).unwrap_err();
    let MountError::Overlay(attempts) = &error else { panic!("{error:?}") };
    assert!(attempts.iter().any(|attempt| !attempt.error.log.is_empty()), "{error}");
    assert!(error.to_string().contains("overlay refuses"), "{error}");
}
