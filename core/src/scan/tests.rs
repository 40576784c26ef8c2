#![allow(clippy::print_stderr, reason = "a test says why it is skipped")]

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags, mkdirat, mknodat, openat, setxattr,
    utimensat,
};
use tempfile::TempDir;

use super::*;
use crate::digest::{Algorithm, Digest};
use crate::erofs::{self, Format};
use crate::fsverity;
use crate::observer::Silent;
use crate::tree::{Content, Entry, Leaf, LeafKind};

const HASH: HashOnly = HashOnly(Algorithm::Sha256);

fn with_threads(threads: usize) -> ScanOptions {
    ScanOptions { threads: NonZeroUsize::new(threads).unwrap(), ..ScanOptions::default() }
}

fn scan_all(path: &Path) -> Tree {
    scan(path, &ScanOptions::default(), &HASH, &Silent).unwrap()
}

fn set_mtime(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let last_modification = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification };
    utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn leaf<'t>(tree: &'t Tree, path: &str) -> &'t Leaf {
    match tree.lookup(path) {
        Some(Entry::Leaf(id)) => tree.leaf(*id),
        other => panic!("{path} is {other:?}"),
    }
}

/// A directory with one file of each kind that needs no privileges.
fn example() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir_all(path("sub/deeper")).unwrap();
    for (name, size) in
        [("empty", 0), ("inline", 64), ("external", 65), ("sub/large", 300_000), ("sub/larger", 2 << 20)]
    {
        fs::write(path(name), vec![b'x'; size]).unwrap();
    }
    fs::hard_link(path("external"), path("sub/link")).unwrap();
    fs::hard_link(path("sub/large"), path("a-link")).unwrap();
    symlink("no/where", path("symlink")).unwrap();
    mknodat(CWD, path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(path("socket")).unwrap());
    fs::set_permissions(path("inline"), fs::Permissions::from_mode(0o4711)).unwrap();
    set_mtime(&path("symlink"), -5, 999_999_999);
    set_mtime(&path("sub"), 1, 2);
    dir
}

#[test]
fn everything_is_as_on_the_disk() {
    let dir = example();
    let tree = scan_all(dir.path());
    let digest = |size| fsverity::digest(Algorithm::Sha256, &vec![b'x'; size]);
    for (name, size) in [("external", 65), ("sub/large", 300_000), ("sub/larger", 2 << 20)] {
        let expected = Content::object(digest(size), size as u64);
        assert_eq!(tree.regular_file(name), Some(&expected), "{name}");
    }
    assert_eq!(tree.regular_file("empty"), Some(&Content::Inline(Box::default())));
    assert_eq!(tree.regular_file("inline"), Some(&Content::Inline(vec![b'x'; 64].into())));
    assert_eq!(leaf(&tree, "inline").stat.mode, 0o4711);
    assert_eq!(leaf(&tree, "symlink").kind, LeafKind::Symlink(b"no/where"[..].into()));
    assert_eq!((leaf(&tree, "symlink").stat.mtime_secs, leaf(&tree, "symlink").stat.mtime_nanos), (-5, 999_999_999));
    assert_eq!(leaf(&tree, "fifo").kind, LeafKind::Fifo);
    assert_eq!(leaf(&tree, "socket").kind, LeafKind::Socket);
    let sub = tree.directory("sub").unwrap();
    assert_eq!((sub.stat.mtime_secs, sub.stat.mtime_nanos), (1, 2));
    assert!(tree.directory("sub/deeper").unwrap().entries.is_empty());
    for (name, other) in [("external", "sub/link"), ("sub/large", "a-link")] {
        assert_eq!(tree.lookup(name), tree.lookup(other));
    }
    assert_eq!(tree.leaves.len(), 8);
}

#[test]
fn threads_do_not_matter() {
    let dir = example();
    let one = scan(dir.path(), &with_threads(1), &HASH, &Silent).unwrap();
    for _ in 0..20 {
        assert_eq!(scan(dir.path(), &with_threads(4), &HASH, &Silent).unwrap(), one);
    }
}

#[test]
fn options_leave_out_what_they_say() {
    let dir = example();
    let options = ScanOptions { hard_links: false, times: false, ..ScanOptions::default() };
    let tree = scan(dir.path(), &options, &HASH, &Silent).unwrap();
    assert_eq!(tree.leaves.len(), 10);
    assert!(tree.leaves.iter().all(|leaf| leaf.stat.mtime_secs == 0 && leaf.stat.mtime_nanos == 0));
    assert_eq!(tree.root.stat.mtime_secs, 0);
    assert_eq!(tree.regular_file("a-link"), tree.regular_file("sub/large"));
}

#[test]
fn extended_attributes() {
    let dir = example();
    let path = dir.path().join("inline");
    let large = vec![b'v'; 2000];
    let set = |name: &CStr, value: &[u8]| setxattr(&path, name, value, XattrFlags::empty());
    if let Err(errno) = set(c"user.a", b"1").and_then(|()| set(c"user.large", &large)) {
        eprintln!("skipped: this file system has no attributes: {errno}");
        return;
    }
    let privileged = setxattr(dir.path().join("sub"), c"trusted.t", b"", XattrFlags::empty()).is_ok();
    let read = |xattrs| scan(dir.path(), &ScanOptions { xattrs, ..ScanOptions::default() }, &HASH, &Silent).unwrap();
    let names = |stat: &crate::tree::Stat| -> Vec<String> {
        stat.xattrs.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    };
    let all = read(ScanXattrs::All);
    let inline = &leaf(&all, "inline").stat;
    let user: Vec<_> = names(inline).into_iter().filter(|name| name.starts_with("user.")).collect();
    assert_eq!(user, ["user.a", "user.large"]);
    assert_eq!(inline.xattrs[&b"user.large"[..]], large.into());
    if privileged {
        assert!(names(&all.directory("sub").unwrap().stat).contains(&"trusted.t".to_owned()));
    }
    let user = read(ScanXattrs::UserOnly);
    assert_eq!(names(&leaf(&user, "inline").stat), ["user.a", "user.large"]);
    assert!(names(&user.directory("sub").unwrap().stat).is_empty());
    assert!(read(ScanXattrs::None).leaves.iter().all(|leaf| leaf.stat.xattrs.is_empty()));
}

#[test]
fn devices_and_whiteouts() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, kind, device| mknodat(CWD, dir.path().join(name), kind, Mode::RUSR, device);
    if let Err(errno) = make("zero", FileType::CharacterDevice, rustix::fs::makedev(1, 5)) {
        eprintln!("skipped: devices cannot be made here: {errno}");
        return;
    }
    make("block", FileType::BlockDevice, rustix::fs::makedev(259, 300)).unwrap();
    make("whiteout", FileType::CharacterDevice, 0).unwrap();
    fs::hard_link(dir.path().join("whiteout"), dir.path().join("whiteout2")).unwrap();
    let tree = scan_all(dir.path());
    assert_eq!(leaf(&tree, "zero").kind, LeafKind::CharDevice(0x105));
    assert_eq!(leaf(&tree, "block").kind, LeafKind::BlockDevice(0x0011_032c));
    assert_ne!(tree.lookup("whiteout"), tree.lookup("whiteout2"));
    for format in [Format::V0, Format::V1, Format::V2] {
        erofs::read(&erofs::write(&tree, format).unwrap()).unwrap();
    }
    let options = ScanOptions { devices: false, ..ScanOptions::default() };
    assert!(scan(dir.path(), &options, &HASH, &Silent).unwrap().leaves.is_empty());
}

/// Does something when it has taken so many files.
struct Meddler<F> {
    after: AtomicUsize,
    action: F,
}

impl<F: Fn() + Sync> Contents for Meddler<F> {
    fn take_bytes(&self, bytes: &[u8]) -> Result<Digest, ContentsError> {
        if self.after.fetch_sub(1, Ordering::Relaxed) == 1 {
            (self.action)();
        }
        HASH.take_bytes(bytes)
    }

    fn take_file(&self, file: &File) -> Result<(Digest, u64), ContentsError> {
        let taken = HASH.take_file(file)?;
        if self.after.fetch_sub(1, Ordering::Relaxed) == 1 {
            (self.action)();
        }
        Ok(taken)
    }
}

#[track_caller]
fn changed_path(dir: &Path, after: usize, action: impl Fn() + Sync) -> PathBuf {
    let contents = Meddler { after: AtomicUsize::new(after), action };
    match scan(dir, &with_threads(1), &contents, &Silent) {
        Err(ScanError::Changed { path }) => path,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_changes_meanwhile_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("sub")).unwrap();
    for name in ["a", "sub/b", "sub/c"] {
        fs::write(path(name), [1; 1000]).unwrap();
    }
    for name in ["sub/large", "sub/larger"] {
        fs::write(path(name), vec![1; if name == "sub/larger" { 900_000 } else { 600_000 }]).unwrap();
    }
    // Taken are: a, sub/b, sub/c, sub/larger, sub/large.
    let append = |name: &str| File::options().append(true).open(path(name)).unwrap().write_all(b"x").unwrap();
    let overwrite = |name: &str| File::options().write(true).open(path(name)).unwrap().write_all_at(b"x", 0).unwrap();
    assert_eq!(changed_path(dir.path(), 4, || append("sub/larger")), path("sub/larger"));
    assert_eq!(changed_path(dir.path(), 4, || overwrite("sub/larger")), path("sub/larger"));
    assert_eq!(changed_path(dir.path(), 4, || append("sub/large")), path("sub/large"));
    assert_eq!(changed_path(dir.path(), 2, || fs::write(path("sub/new"), b"").unwrap()), path("sub"));
    assert_eq!(changed_path(dir.path(), 2, || fs::remove_file(path("sub/c")).unwrap()), path("sub/c"));
    assert_eq!(changed_path(dir.path(), 3, || fs::remove_file(path("sub/large")).unwrap()), path("sub/large"));
    assert_eq!(changed_path(dir.path(), 3, || fs::remove_file(path("sub/larger")).unwrap()), path("sub/larger"));
    // The directory becomes a link to another one, after it was seen.
    let replace = || {
        fs::rename(path("sub"), path("moved")).unwrap();
        symlink("moved", path("sub")).unwrap();
    };
    assert!([path(""), path("sub"), dir.path().to_owned()].contains(&changed_path(dir.path(), 1, replace)));
}

#[test]
fn deep_trees() {
    let dir = tempfile::tempdir().unwrap();
    let name = "d".repeat(100);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let deepen = |levels: usize, start: &Path, name: &str| {
        let mut at = openat(CWD, start, flags, Mode::empty()).unwrap();
        for _ in 0..levels {
            mkdirat(&at, name, Mode::RWXU).unwrap();
            at = openat(&at, name, flags, Mode::empty()).unwrap();
        }
        openat(&at, "file", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RWXU).unwrap();
    };
    deepen(300, dir.path(), &name);
    let tree = scan_all(dir.path());
    assert!(tree.regular_file(&format!("{}file", format!("{name}/").repeat(300))).is_some());

    let dir = tempfile::tempdir().unwrap();
    deepen(2048, dir.path(), "d");
    match scan(dir.path(), &ScanOptions::default(), &HASH, &Silent) {
        Err(error @ ScanError::Depth { .. }) => assert!(error.to_string().contains("2047"), "{error}"),
        other => panic!("{}", other.is_ok()),
    }
}

#[test]
fn what_is_not_there_or_no_directory() {
    let dir = example();
    for name in ["none", "inline"] {
        let path = dir.path().join(name);
        let error = scan(&path, &ScanOptions::default(), &HASH, &Silent).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot open {}", path.display()));
    }
}

#[test]
fn a_repository_stores_the_contents() {
    let dir = example();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("repository");
    crate::repository::Repository::init(&path, Algorithm::Sha256, crate::repository::Verity::Unverified).unwrap();
    let repository = crate::repository::Repository::open(&path).unwrap();
    let tree = scan(dir.path(), &ScanOptions::default(), &repository, &Silent).unwrap();
    assert_eq!(tree, scan_all(dir.path()));
    for size in [65, 300_000, 2 << 20] {
        let digest = fsverity::digest(Algorithm::Sha256, &vec![b'x'; size]);
        assert_eq!(repository.read_object(&digest).unwrap().len(), size);
    }
}
