//! Layers that other programs write: the archive is kept byte by byte, and its tree is what GNU tar extracts.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{PullOptions, StoredImage, image_tree, pull};
use osupdate_core::repository::Repository;
use osupdate_core::tree::{Directory, Entry, LeafKind, Stat, Tree};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Mode, Timespec, Timestamps, XattrFlags, lgetxattr, lsetxattr, major, makedev, minor,
    mknodat, utimensat,
};

use crate::fixture::{Image, merged, repository};
use crate::tools::{have, output};

const CAPABILITY: &str = "security.capability";
/// `cap_net_bind_service=ep`, version 2.
const CAPABILITY_VALUE: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Numbers that look random and are the same for the same seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes files of all kinds with all kinds of metadata in a directory that exists.
struct Maker {
    random: Random,
    files: Vec<PathBuf>,
    root: bool,
    /// Names and link targets may be as long as file systems allow.
    long: bool,
    count: u32,
}

impl Maker {
    fn fill(&mut self, dir: &Path, depth: u32) {
        for _ in 0..self.random.below(9) + 2 {
            let path = dir.join(self.name());
            self.make(&path, depth);
        }
    }

    fn name(&mut self) -> OsString {
        self.count += 1;
        let mut name = format!("{:x}", self.count).into_bytes();
        let max: &[usize] = if self.long { &[1, 5, 99, 100, 101, 155, 254, 255] } else { &[1, 5, 20] };
        let len = self.random.of(max);
        let bytes = self.random.of(&[&b"n"[..], b"x y", b"\xff\xfe", b"\xc3\xa4", b"\n", b"=", b"-.", b"\\"]);
        while name.len() + bytes.len() <= len {
            name.extend(bytes);
        }
        OsString::from_vec(name)
    }

    fn make(&mut self, path: &Path, depth: u32) {
        let mut links = false;
        match self.random.below(if self.root { 12 } else { 10 }) {
            0 | 1 if depth < 6 => {
                fs::create_dir(path).unwrap();
                self.fill(path, depth + 1);
            }
            2 => {
                let max: &[usize] = if self.long { &[1, 60, 99, 100, 101, 1000, 4000] } else { &[1, 60] };
                symlink("t/".repeat(self.random.of(max).div_ceil(2)), path).unwrap();
            }
            3 if !self.files.is_empty() => {
                let target = self.files[self.random.below(self.files.len() as u64) as usize].clone();
                fs::hard_link(target, path).unwrap();
                links = true;
            }
            4 => mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
            5 => self.sparse(path),
            10 => self.device(path, FileType::CharacterDevice),
            11 => self.device(path, FileType::BlockDevice),
            _ => {
                let size = self.random.of(&[0, 1, 63, 64, 65, 511, 512, 513, 4096, 70_000]);
                let byte = self.random.below(256) as u8;
                fs::write(path, vec![byte; size]).unwrap();
            }
        }
        if !links {
            self.files.push(path.to_owned());
            self.files.retain(|path| !path.is_dir());
            self.metadata(path);
        }
    }

    fn sparse(&mut self, path: &Path) {
        let mut file = File::create(path).unwrap();
        let mut at = 0;
        for _ in 0..self.random.of(&[0, 1, 2, 3, 4, 5, 30]) {
            at += self.random.of(&[0, 4096, 65_536, 1_000_000]);
            file.seek(SeekFrom::Start(at)).unwrap();
            let size = self.random.of(&[1, 10, 100, 4096, 10_000]);
            file.write_all(&vec![b'd'; size]).unwrap();
            at += size as u64;
        }
        file.set_len(at + self.random.of(&[0, 1, 64, 5000, 3_000_000])).unwrap();
    }

    fn device(&mut self, path: &Path, kind: FileType) {
        let device: Dev = makedev(self.random.of(&[0, 1, 8, 259]), self.random.of(&[0, 3, 255, 256, 70_000]));
        mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device).unwrap();
    }

    fn metadata(&mut self, path: &Path) {
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        if self.root {
            let id =
                |random: &mut Random| Some(random.of(&[0, 1000, 65_534, 65_536, 2_097_151, 2_097_152, 4_000_000_000]));
            lchown(path, id(&mut self.random), id(&mut self.random)).unwrap();
            if kind.is_file() && self.random.below(4) == 0 {
                lsetxattr(path, CAPABILITY, &CAPABILITY_VALUE, XattrFlags::empty()).unwrap();
                lsetxattr(path, "user.note", b"dropped", XattrFlags::empty()).unwrap();
            }
        }
        if !kind.is_symlink() {
            let owner = if kind.is_dir() { 0o700 } else { 0o400 };
            let mode = self.random.of(&[0o644, 0o755, 0o000, 0o4711, 0o2755, 0o1777, 0o440]);
            fs::set_permissions(path, fs::Permissions::from_mode(mode | owner)).unwrap();
        }
        self.time(path);
    }

    fn time(&mut self, path: &Path) {
        let secs = self.random.of(&[0, 1, -1, -1_000_000_000, 1_700_000_000, 4_294_967_296, 8_589_934_592]);
        // Python writes tiny fractions with an exponent.
        let nanos = self.random.of(&[0, 0, 250_000_000, 750_000_000]);
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// What is compared of a file.
#[derive(Debug, PartialEq)]
struct Facts {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    capability: Option<Vec<u8>>,
    /// All names of the file but directories have one.
    links: Vec<String>,
}

fn show(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

fn contents_facts(bytes: &[u8]) -> String {
    format!("file of {} bytes {}", bytes.len(), osupdate_core::fsverity::digest(Algorithm::Sha256, bytes))
}

/// What is on disk below a directory, `/run` and the root itself left out.
fn extracted(dir: &Path) -> BTreeMap<String, Facts> {
    let mut found: Vec<(PathBuf, fs::Metadata)> = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(parent) = pending.pop() {
        for entry in fs::read_dir(&parent).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                pending.push(path.clone());
            }
            found.push((path, metadata));
        }
    }
    let name = |path: &Path| show(path.strip_prefix(dir).unwrap());
    let mut links: HashMap<u64, Vec<String>> = HashMap::new();
    for (path, metadata) in &found {
        links.entry(metadata.ino()).or_default().push(name(path));
    }
    links.values_mut().for_each(|names| names.sort());
    let facts = |(path, metadata): (PathBuf, fs::Metadata)| {
        let kind = metadata.file_type();
        let device = format!("{} {}", major(metadata.rdev()), minor(metadata.rdev()));
        let kind = if kind.is_dir() {
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("link to {}", show(&fs::read_link(&path).unwrap()))
        } else if kind.is_fifo() {
            "pipe".to_owned()
        } else if kind.is_char_device() {
            format!("char {device}")
        } else if kind.is_block_device() {
            format!("block {device}")
        } else {
            contents_facts(&fs::read(&path).unwrap())
        };
        let mut value = [0; 64];
        let capability = lgetxattr(&path, CAPABILITY, &mut value).ok().map(|len| value[..len].to_vec());
        let facts = Facts {
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            capability,
            links: if kind == "directory" { Vec::new() } else { links[&metadata.ino()].clone() },
            kind,
        };
        (name(&path), facts)
    };
    found.into_iter().map(facts).collect()
}

/// The same of the tree of an image.
fn imported(repository: &Repository, tree: &Tree) -> BTreeMap<String, Facts> {
    fn visit<'t>(directory: &'t Directory, path: &Path, found: &mut Vec<(PathBuf, &'t Entry)>) {
        for (name, entry) in &directory.entries {
            let path = path.join(OsStr::from_bytes(name));
            found.push((path.clone(), entry));
            if let Entry::Directory(child) = entry {
                visit(child, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    visit(&tree.root, Path::new(""), &mut found);
    let mut links: HashMap<usize, Vec<String>> = HashMap::new();
    for (path, entry) in &found {
        if let Entry::Leaf(id) = entry {
            links.entry(id.0).or_default().push(show(path));
        }
    }
    links.values_mut().for_each(|names| names.sort());
    let facts = |kind: String, stat: &Stat, links: Vec<String>| Facts {
        kind,
        mode: stat.mode.into(),
        owner: (stat.uid, stat.gid),
        mtime: (stat.mtime_secs, stat.mtime_nanos.into()),
        capability: stat.xattrs.get(CAPABILITY.as_bytes()).map(|value| value.to_vec()),
        links,
    };
    let device = |number: u32| format!("{} {}", number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    let entry = |(path, entry): (PathBuf, &Entry)| match entry {
        Entry::Directory(directory) => (show(&path), facts("directory".into(), &directory.stat, Vec::new())),
        Entry::Leaf(id) => {
            let leaf = tree.leaf(*id);
            let kind = match &leaf.kind {
                LeafKind::Regular(content) => {
                    let mut bytes = Vec::new();
                    repository.open_content(content).unwrap().read_to_end(&mut bytes).unwrap();
                    assert_eq!(bytes.len() as u64, content.size());
                    contents_facts(&bytes)
                }
                LeafKind::Symlink(target) => format!("link to {}", target.escape_ascii()),
                LeafKind::Fifo => "pipe".into(),
                LeafKind::CharDevice(number) => format!("char {}", device(*number)),
                LeafKind::BlockDevice(number) => format!("block {}", device(*number)),
                LeafKind::Socket => "socket".into(),
            };
            (show(&path), facts(kind, &leaf.stat, links[&id.0].clone()))
        }
    };
    found.into_iter().map(entry).collect()
}

fn import(layers: &[Vec<u8>]) -> (tempfile::TempDir, Repository, StoredImage) {
    let (dir, repository) = repository(Algorithm::Sha256);
    let stored = pull(&repository, &Image::new(layers), &PullOptions::default(), &Silent).unwrap();
    for (layer, (_, stream)) in layers.iter().zip(&stored.layers) {
        assert!(merged(&repository, stream) == *layer, "the layer is not what was imported");
    }
    (dir, repository, stored)
}

#[track_caller]
fn assert_same(expected: &BTreeMap<String, Facts>, found: &BTreeMap<String, Facts>, what: &str) {
    for (path, facts) in expected {
        assert_eq!(found.get(path), Some(facts), "{what}: {path}");
    }
    assert_eq!(expected.len(), found.len(), "{what}");
}

/// Imports an archive and compares with what GNU tar extracts from it.
#[track_caller]
fn check(archive: Vec<u8>, what: &str) {
    let (_repository_dir, repository, stored) = import(std::slice::from_ref(&archive));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("layer.tar");
    fs::write(&file, archive).unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    // bsdtar writes some links after all other files.
    let arguments =
        ["--delay-directory-restore", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", "../layer.tar"];
    output(&root, "tar", &arguments);
    let tree = image_tree(&repository, &stored).unwrap();
    assert_same(&extracted(&root), &imported(&repository, &tree), what);
    // Negative times and long names also fit into an image.
    osupdate_core::erofs::write(&tree, osupdate_core::erofs::Format::V1).unwrap();
}

const GNU: &[&[&str]] = &[
    &["--format=gnu"],
    &["--format=gnu", "--sparse"],
    &["--format=oldgnu", "--sparse"],
    &["--format=posix", "--xattrs", "--xattrs-include=*"],
    &["--format=posix", "--sparse", "--sparse-version=0.0"],
    &["--format=posix", "--sparse", "--sparse-version=0.1"],
    &["--format=posix", "--sparse", "--sparse-version=1.0", "--xattrs", "--xattrs-include=*"],
];
const BSD: &[&[&str]] = &[&["--format=pax"], &["--format=pax", "--no-xattrs"], &["--format=gnutar"]];
const PYTHON: &str = "
import sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=int(sys.argv[1])) as archive:
    archive.add('.')
";

fn random_tree(seed: u64, long: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("usr")).unwrap();
    let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut maker = Maker { random, files: Vec::new(), root: is_root(), long, count: 0 };
    for _ in 0..4 {
        maker.fill(&dir.path().join("usr"), 0);
    }
    maker.metadata(&dir.path().join("usr"));
    dir
}

#[test]
fn random_trees_by_gnu_tar() {
    for (seed, options) in (1..).zip(GNU) {
        let dir = random_tree(seed, true);
        let archive = output(dir.path(), "tar", &[options, &["-cf", "-", "."][..]].concat());
        check(archive, &format!("seed {seed}, tar {options:?}"));
    }
}

#[test]
fn random_trees_by_bsdtar() {
    if !have(&["bsdtar"]) {
        return;
    }
    for (seed, options) in (100..).zip(BSD) {
        let dir = random_tree(seed, true);
        let archive = output(dir.path(), "bsdtar", &[options, &["-cf", "-", "."][..]].concat());
        check(archive, &format!("seed {seed}, bsdtar {options:?}"));
    }
}

#[test]
fn random_trees_by_python() {
    if !have(&["python3"]) {
        return;
    }
    // GNU_FORMAT and PAX_FORMAT.
    for (seed, format) in (200..).zip(["1", "2"]) {
        let dir = random_tree(seed, true);
        let archive = output(dir.path(), "python3", &["-c", PYTHON, format]);
        check(archive, &format!("seed {seed}, tarfile format {format}"));
    }
}

/// Formats without extensions: names of up to 100 bytes, or 255 with a prefix, and times from 1970 on.
#[test]
fn old_formats() {
    let dir = tempfile::tempdir().unwrap();
    let usr = dir.path().join("usr");
    let long = usr.join("d".repeat(60)).join("e".repeat(60));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("f".repeat(100)), vec![b'x'; 1000]).unwrap();
    check(output(dir.path(), "tar", &["--format=ustar", "-cf", "-", "usr"]), "tar ustar");
    if have(&["bsdtar"]) {
        check(output(dir.path(), "bsdtar", &["--format=ustar", "-cf", "-", "usr"]), "bsdtar ustar");
    }
    fs::remove_dir_all(usr.join("d".repeat(60))).unwrap();
    fs::create_dir(usr.join("empty")).unwrap();
    fs::write(usr.join("file"), vec![b'x'; 1000]).unwrap();
    fs::hard_link(usr.join("file"), usr.join("hard")).unwrap();
    symlink("file", usr.join("soft")).unwrap();
    check(output(dir.path(), "tar", &["--format=v7", "-cf", "-", "usr"]), "tar v7");
    if have(&["bsdtar"]) {
        check(output(dir.path(), "bsdtar", &["--format=v7tar", "-cf", "-", "usr"]), "bsdtar v7");
    }
}

/// An archive may hold a file several times, as `tar --append` leaves it, and begin with a global header.
#[test]
fn appended_archives() {
    let dir = tempfile::tempdir().unwrap();
    let usr = dir.path().join("usr");
    fs::create_dir(&usr).unwrap();
    fs::write(usr.join("a"), vec![b'1'; 1000]).unwrap();
    fs::create_dir(usr.join("b")).unwrap();
    output(dir.path(), "tar", &["--format=posix", "--pax-option=comment=global", "-cf", "x.tar", "usr"]);
    fs::write(usr.join("a"), vec![b'2'; 2000]).unwrap();
    fs::remove_dir(usr.join("b")).unwrap();
    symlink("a", usr.join("b")).unwrap();
    output(dir.path(), "tar", &["--format=posix", "-rf", "x.tar", "usr/a", "usr/b"]);
    let archive = fs::read(dir.path().join("x.tar")).unwrap();
    assert_eq!(archive[156], b'g');
    let (_dir, repository, stored) = import(&[archive]);
    let facts = imported(&repository, &image_tree(&repository, &stored).unwrap());
    assert_eq!(facts["usr/a"].kind, contents_facts(&[b'2'; 2000]));
    assert_eq!(facts["usr/b"].kind, "link to a");
}

/// A sparse file takes as many bytes of the stream as of the archive, and the whole file is an object that stays.
#[test]
fn a_sparse_file_is_kept_by_its_layer() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("usr")).unwrap();
    let mut file = File::create(dir.path().join("usr/sparse")).unwrap();
    file.set_len(50_000_000).unwrap();
    file.seek(SeekFrom::Start(1_000_000)).unwrap();
    file.write_all(&[7; 100_000]).unwrap();
    let archive = output(dir.path(), "tar", &["--sparse", "-cf", "-", "usr"]);
    assert!(archive.len() < 200_000);
    let (dir, mut repository, stored) = import(&[archive]);
    repository.set_ref(osupdate_core::repository::Namespace::Streams, "kept", &stored.stream_name()).unwrap();
    repository.gc(&Default::default(), &Silent).unwrap();
    let tree = image_tree(&repository, &stored).unwrap();
    let mut bytes = Vec::new();
    repository.open_content(tree.regular_file("usr/sparse").unwrap()).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 50_000_000);
    assert_eq!(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 700_000);
    // Holes take no room.
    let object = osupdate_core::fsverity::digest(Algorithm::Sha256, &bytes);
    let metadata = fs::metadata(dir.path().join("objects").join(object.object_path())).unwrap();
    assert!(metadata.blocks() * 512 < 5_000_000, "{} blocks", metadata.blocks());
}

/// Two containers' worth of changes, written by buildah, with whatever whiteouts it makes of them.
#[test]
fn changes_by_buildah() {
    if !is_root() {
        println!("skipped: buildah's containers are only mounted by root");
        return;
    }
    if !have(&["buildah"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("storage");
    let run = dir.path().join("run");
    let buildah = |arguments: &[&str]| {
        let storage = ["--root", root.to_str().unwrap(), "--runroot", run.to_str().unwrap(), "--storage-driver", "vfs"];
        let text = String::from_utf8(output(dir.path(), "buildah", &[&storage[..], arguments].concat())).unwrap();
        text.trim().to_owned()
    };
    let lower = random_tree(300, false);
    let usr = lower.path().join("usr");
    for name in ["replaced/a", "opaque/old", "gone/x", "to-file/x"] {
        fs::create_dir_all(usr.join(name).parent().unwrap()).unwrap();
        fs::write(usr.join(name), vec![b'o'; 100]).unwrap();
    }
    fs::write(usr.join("linked"), vec![b'l'; 1000]).unwrap();

    let container = buildah(&["from", "scratch"]);
    let mount = PathBuf::from(buildah(&["mount", &container]));
    output(lower.path(), "cp", &["-a", "usr", mount.to_str().unwrap()]);
    buildah(&["commit", "--disable-compression", &container, "one"]);
    let container = buildah(&["from", "one"]);
    let mount = PathBuf::from(buildah(&["mount", &container])).join("usr");
    fs::remove_dir_all(mount.join("opaque")).unwrap();
    fs::create_dir(mount.join("opaque")).unwrap();
    fs::write(mount.join("opaque/new"), b"new").unwrap();
    fs::remove_dir_all(mount.join("gone")).unwrap();
    fs::remove_dir_all(mount.join("to-file")).unwrap();
    fs::write(mount.join("to-file"), b"now a file").unwrap();
    fs::remove_file(mount.join("replaced/a")).unwrap();
    fs::create_dir(mount.join("replaced/a")).unwrap();
    fs::hard_link(mount.join("linked"), mount.join("link-to-lower")).unwrap();
    chown(mount.join("linked"), Some(7), Some(8)).unwrap();
    let image = buildah(&["commit", "--disable-compression", &container, "two"]);
    buildah(&["push", &image, &format!("oci:{}:two", dir.path().join("layout").display())]);

    let (_repository_dir, repository) = repository(Algorithm::Sha512);
    let layout =
        osupdate_core::oci::Layout::open(&dir.path().join("layout"), None, &osupdate_core::oci::Platform::host());
    let stored = pull(&repository, &layout.unwrap(), &PullOptions::default(), &Silent).unwrap();
    assert_eq!(stored.layers.len(), 2);
    let found = imported(&repository, &image_tree(&repository, &stored).unwrap());
    let expected: BTreeMap<_, _> = extracted(mount.parent().unwrap());
    // Layers of buildah have whole seconds, none before 1970; its storage does not keep links to other things than files.
    let reduced = |mut facts: BTreeMap<String, Facts>| {
        for facts in facts.values_mut() {
            facts.mtime = (facts.mtime.0.max(0), 0);
            if !facts.kind.starts_with("file") {
                facts.links.clear();
            }
        }
        facts
    };
    assert_same(&reduced(expected), &reduced(found), "buildah");
    buildah(&["umount", "--all"]);
}
