//! Images that need everything that a layer can hold, and repositories to put them into.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use osupdate_core::oci::{Layout, Platform};
use osupdate_core::{Algorithm, Digest};
use osupdate_tests::layout;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use crate::cfsctl::Cfsctl;

/// Kinds of repositories: algorithm, EROFS format.
pub(crate) const KINDS: [Kind; 4] = [
    Kind { algorithm: "fsverity-sha512-12", format: "1" },
    Kind { algorithm: "fsverity-sha256-12", format: "1" },
    Kind { algorithm: "fsverity-sha512-12", format: "2" },
    Kind { algorithm: "fsverity-sha256-12", format: "2" },
];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    algorithm: &'static str,
    format: &'static str,
}

/// Sizes on both sides of every limit: inline and external, blocks, spilled to a temporary file.
const SIZES: [usize; 14] = [0, 1, 63, 64, 65, 66, 4095, 4096, 4097, 8192, 65_537, 262_144, 1 << 20, (1 << 20) + 1];

/// Directories of one test.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new repository of cfsctl.
    pub(crate) fn repository(&self, cfsctl: &Cfsctl, name: &str, kind: Kind) -> PathBuf {
        let path = self.path(name);
        cfsctl.init(&path, kind.algorithm, kind.format);
        path
    }

    /// A copy of a repository.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.path(name);
        let status = Command::new("cp").arg("--archive").arg(from).arg(&to).status().unwrap();
        assert!(status.success());
        to
    }

    /// An image of layers.
    fn image(&self, name: &str, layers: Vec<Layer>) -> Image {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        let tars = layers.into_iter().enumerate().map(|(number, layer)| {
            let tar = path.join(format!("{number}.tar"));
            fs::write(&tar, layer.0.into_inner().unwrap()).unwrap();
            tar
        });
        let tars: Vec<PathBuf> = tars.collect();
        layout::write(&path, &tars, "latest").unwrap();
        Image(path)
    }

    /// A bootable image: two layers that use all that layers have.
    pub(crate) fn image_a(&self) -> Image {
        self.image("a", vec![base(), top_of_a()])
    }

    /// Another one on the same base.
    pub(crate) fn image_b(&self) -> Image {
        let mut top = Layer::new();
        top.directory("usr/share/b");
        top.file("usr/share/b/only-here", &contents(70_000, 9));
        // Has it in common with the other one.
        top.file("usr/share/b/from-a", &contents(50_000, 7));
        top.file("usr/lib/os-release", b"ID=b\n");
        self.image("b", vec![base(), top])
    }

    /// Another manifest with the configuration of the first image.
    pub(crate) fn image_a_again(&self) -> Image {
        let Image(path) = self.image("a-again", vec![base(), top_of_a()]);
        layout::annotate(&path, "org.example.build", "2").unwrap();
        Image(path)
    }
}

/// An OCI image layout.
pub(crate) struct Image(PathBuf);

impl Image {
    /// As references have it.
    pub(crate) fn reference(&self) -> String {
        format!("oci:{}:latest", self.0.display())
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::open(&self.0, Some("latest"), &Platform::host()).unwrap()
    }

    /// The layers: diff_id and bytes, lowest first.
    pub(crate) fn layers(&self) -> Vec<(String, Vec<u8>)> {
        let digests = layout::layer_digests(&self.0).unwrap();
        digests
            .into_iter()
            .map(|digest| (digest.clone(), fs::read(layout::blob_path(&self.0, &digest)).unwrap()))
            .collect()
    }
}

pub(crate) fn contents(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|place| (place % 251) as u8 ^ seed).collect()
}

pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(&mut self, header: &mut Header, path: &str, contents: &[u8]) {
        header.set_size(contents.len() as u64);
        self.0.append_data(header, path, contents).unwrap();
    }

    fn directory(&mut self, path: &str) {
        self.add(&mut header(EntryType::Directory, 0o755), path, &[]);
    }

    fn file(&mut self, path: &str, contents: &[u8]) {
        self.add(&mut header(EntryType::Regular, 0o644), path, contents);
    }

    fn link(&mut self, kind: EntryType, path: &str, target: &str) {
        let mut header = header(kind, 0o777);
        header.set_size(0);
        self.0.append_link(&mut header, path, target).unwrap();
    }

    /// What the next entry has besides its header.
    fn pax(&mut self, records: &[(&str, &[u8])]) {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_700_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn base() -> Layer {
    let mut layer = Layer::new();
    // What the root, /run, and in the boot form /boot and /sysroot take from it.
    layer.pax(&[("mtime", b"1650000000.25")]);
    layer.directory("usr");
    for path in ["boot", "etc", "run", "run/lock", "sysroot", "usr/bin", "usr/lib", "usr/lib/modules", "usr/share"] {
        layer.directory(path);
    }
    layer.directory("usr/lib/modules/6.1.0");
    layer.file("usr/lib/modules/6.1.0/vmlinuz", &contents(30_000, 1));
    layer.file("usr/lib/modules/6.1.0/initramfs.img", &contents(40_000, 2));
    layer.file("boot/left-over", &contents(100, 3));
    layer.file("run/lock/left-over", &contents(100, 4));
    layer.file("usr/lib/os-release", b"ID=base\n");
    for size in SIZES {
        layer.file(&format!("usr/share/size-{size}"), &contents(size, 5));
    }
    layer.file("usr/share/goes-away", &contents(5000, 6));
    layer.directory("usr/share/emptied");
    layer.file("usr/share/emptied/goes-away", &contents(5001, 6));
    layer
}

fn top_of_a() -> Layer {
    let mut layer = Layer::new();
    layer.file("usr/share/.wh.goes-away", &[]);
    layer.directory("usr/share/emptied");
    layer.file("usr/share/emptied/.wh..wh..opq", &[]);
    layer.file("usr/share/emptied/new", &contents(50_000, 7));
    layer.pax(&[("mtime", b"1600000000.123456789"), ("uid", b"100000"), ("SCHILY.xattr.user.note", b"text\0and more")]);
    layer.file("usr/share/dated", b"small");
    layer.pax(&[("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0")]);
    layer.file("usr/bin/ping", &contents(20_000, 8));
    layer.link(EntryType::Link, "usr/bin/ping6", "usr/bin/ping");
    layer.link(EntryType::Symlink, "bin", "usr/bin");
    layer.add(&mut header(EntryType::Fifo, 0o600), "usr/share/fifo", &[]);
    let mut device = header(EntryType::Char, 0o666);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    layer.add(&mut device, "usr/share/null", &[]);
    let long = format!("usr/share/{}", "long-".repeat(40));
    layer.directory(&long);
    layer.file(&format!("{long}/{}", "name-".repeat(20)), &contents(200, 8));
    layer
}

/// A layer that no image has.
pub(crate) fn loose_layer() -> Vec<u8> {
    let mut layer = Layer::new();
    layer.file("loose", &contents(6000, 10));
    layer.0.into_inner().unwrap()
}

/// Names of all objects of a repository, as digests.
pub(crate) fn objects(repository: &Path) -> Vec<Digest> {
    let mut found = Vec::new();
    for prefix in fs::read_dir(repository.join("objects")).unwrap() {
        let prefix = prefix.unwrap();
        for object in fs::read_dir(prefix.path()).unwrap() {
            let rest = object.unwrap().file_name();
            let name = format!("{}{}", prefix.file_name().display(), rest.display());
            found.push(name.parse().unwrap());
        }
    }
    found.sort();
    found
}

/// The algorithm of a kind of repository.
pub(crate) fn algorithm(kind: Kind) -> Algorithm {
    if kind.algorithm.contains("512") { Algorithm::Sha512 } else { Algorithm::Sha256 }
}
