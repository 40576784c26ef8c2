//! Images of directories, dumpfiles and EROFS files, and why they differ.

use std::fs;
use std::path::Path;
use std::process::Command;

use osupdate_core::erofs;
use osupdate_core::transform::{XattrFilter, transform_for_oci};
use osupdate_core::{Algorithm, dumpfile, fsverity};
use serde_json::Value;

/// A directory `rootfs` with a small OS in it, and a copy `copy` with all its metadata.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let root = place.path().join("rootfs");
        for directory in ["usr/lib/modules/6.1", "etc", "boot", "sysroot", "run"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for (name, contents) in [
            ("usr/lib/modules/6.1/vmlinuz", &b"a kernel"[..]),
            ("usr/lib/modules/6.1/initramfs.img", b"an initramfs"),
            ("usr/lib/large", &[7; 10_000]),
            ("etc/hostname", b"one"),
            ("boot/leftover", b"not booted"),
            ("run/leftover", b"of a container"),
        ] {
            fs::write(root.join(name), contents).unwrap();
        }
        fs::hard_link(root.join("etc/hostname"), root.join("etc/name")).unwrap();
        let copied = Command::new("cp").arg("-a").arg(&root).arg(place.path().join("copy")).status().unwrap();
        assert!(copied.success());
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Exit status, standard output and standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_osupdate"));
        command.args(arguments).current_dir(self.path()).env_clear().env("TMPDIR", self.path());
        command.args(["--quiet", "--repo", "repo"]);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let (status, stdout, stderr) = self.run(arguments);
        assert_eq!(status, 0, "{arguments:?}: {stdout}{stderr}");
        stdout
    }

    #[track_caller]
    fn failed(&self, arguments: &[&str]) -> String {
        let (status, stdout, stderr) = self.run(arguments);
        assert_eq!((status, stdout.as_str()), (1, ""), "{arguments:?}: {stderr}");
        stderr
    }

    #[track_caller]
    fn findings(&self, arguments: &[&str]) -> String {
        let (status, stdout, stderr) = self.run(arguments);
        assert_eq!((status, stderr.as_str()), (3, ""), "{arguments:?}: {stdout}");
        stdout
    }
}

#[test]
fn a_directory_has_the_digest_of_its_image() {
    let place = Place::new();
    let tree = || {
        let options = osupdate_core::scan::ScanOptions::default();
        let contents = osupdate_core::scan::HashOnly(Algorithm::Sha512);
        osupdate_core::scan::scan(&place.path().join("rootfs"), &options, &contents, &osupdate_core::observer::Silent)
            .unwrap()
    };
    let digest_of =
        |tree, format, algorithm| fsverity::digest(algorithm, &erofs::write(tree, format).unwrap()).to_string() + "\n";
    let plain = tree();
    let mut transformed = tree();
    transform_for_oci(&mut transformed, XattrFilter::AllowlistOnly).unwrap();
    let digest = |more: &[&str]| place.done(&[&["image", "digest", "rootfs", "--hex"], more].concat());
    let v1 = erofs::Format::V1;
    assert_eq!(digest(&[]), digest_of(&transformed, v1, Algorithm::Sha512));
    assert_eq!(digest(&["--no-transform"]), digest_of(&plain, v1, Algorithm::Sha512));
    assert_eq!(digest(&["--format", "v2"]), digest_of(&transformed, erofs::Format::V2, Algorithm::Sha512));
    assert_ne!(digest(&["--bootable"]), digest(&[]));
    assert_eq!(digest(&["--digest", "sha256"]).len(), 65);

    // The same by way of a dumpfile, of an EROFS file, and of the repository.
    fs::write(place.path().join("dump"), place.done(&["image", "dump", "rootfs"])).unwrap();
    assert_eq!(place.done(&["image", "digest", "dump", "--hex"]), digest(&[]));
    assert_eq!(place.done(&["image", "mkfs", "./dump", "erofs"]), digest(&[]));
    assert_eq!(place.done(&["image", "digest", "./erofs", "--hex"]), digest(&[]));
    assert_eq!(place.done(&["image", "dump", "erofs"]), place.done(&["image", "dump", "dump"]));
    place.done(&["repo", "init", "--unverified"]);
    assert_eq!(place.done(&["image", "create", "rootfs", "builds/1"]), digest(&[]));
    assert_eq!(place.done(&["image", "create", "rootfs", "builds/2", "--bootable"]), digest(&["--bootable"]));
    let dump = place.done(&["image", "dump", "rootfs"]);
    assert_eq!(place.done(&["image", "dump", "refs/builds/1"]), dump);
    assert_eq!(place.done(&["image", "dump", digest(&[]).trim()]), dump);
    // Both are kept, and their objects are good.
    place.done(&["repo", "gc"]);
    place.done(&["repo", "fsck"]);
    assert!(place.done(&["image", "fsck", "refs/builds/2"]).contains(": ok, version 1"));
}

#[test]
fn a_directory_that_is_no_os_is_taken_only_as_it_is() {
    let place = Place::new();
    let error = place.failed(&["image", "digest", "rootfs/etc"]);
    assert!(error.contains("/usr") && error.contains("--no-transform"), "{error}");
    let found = place.done(&["image", "digest", "rootfs/etc", "--no-transform"]);
    assert!(found.contains("boot image  none: the image has no kernel"), "{found}");
    place.failed(&["image", "digest", "rootfs/etc", "--no-transform", "--bootable"]);
    let error = place.failed(&["image", "digest", "rootfs/etc/hostname"]);
    assert!(error.contains("neither a composefs image nor a dumpfile"), "{error}");
    let error = place.failed(&["image", "digest", "nowhere"]);
    assert!(error.contains("no file nowhere"), "{error}");
}

#[test]
fn dump_chooses_paths() {
    let place = Place::new();
    let paths = |arguments: &[&str]| -> Vec<String> {
        let dump = place.done(&[&["image", "dump", "rootfs"], arguments].concat());
        dump.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(&["/etc/"]), ["/etc", "/etc/hostname", "/etc/name"]);
    assert_eq!(paths(&["etc/hostname", "/boot"]), ["/boot", "/boot/leftover", "/etc/hostname"]);
    assert_eq!(paths(&["--bootable", "/boot"]), ["/boot"]);
    assert_eq!(paths(&["/"]).first().unwrap(), "/");
    let error = place.failed(&["image", "dump", "rootfs", "/etc/none"]);
    assert!(error.contains("rootfs has no /etc/none"), "{error}");
    let objects = place.done(&["image", "dump", "rootfs", "--objects", "/usr"]);
    let digest = fsverity::digest(Algorithm::Sha512, &[7; 10_000]);
    assert!(objects.starts_with(&format!("/usr/lib/large {}\n", digest.object_path())), "{objects}");
    assert!(objects.contains("/vmlinuz inline\n"), "{objects}");
}

#[test]
fn diff_names_what_differs() {
    let place = Place::new();
    assert_eq!(
        place.done(&["image", "diff", "rootfs", "copy"]),
        "left   rootfs (directory)\nright  copy (directory)\nAll 15 files are equal.\n"
    );
    fs::write(place.path().join("dump"), place.done(&["image", "dump", "rootfs"])).unwrap();
    place.done(&["image", "diff", "./dump", "rootfs"]);

    // A time.
    fs::File::open(place.path().join("copy/boot")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let found = place.findings(&["image", "diff", "dump", "copy"]);
    assert!(found.starts_with("/boot: mtime ") && found.contains(" -> 0.000000000\n"), "{found}");
    assert!(found.contains("\nOnly modification times of directories differ.\nhint: "), "{found}");
    place.done(&["image", "diff", "dump", "dump"]);

    // And other things.
    fs::write(place.path().join("copy/usr/lib/large"), [8; 10_000]).unwrap();
    fs::remove_file(place.path().join("copy/etc/name")).unwrap();
    let (status, json, _) = place.run(&["image", "diff", "rootfs", "copy", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &json["version"], &json["equal"], &json["only"]), (3, &1.into(), &false.into(), &Value::Null));
    let rows = json["differences"].as_array().unwrap();
    let row = |path: &str, field: &str| rows.iter().find(|row| row["path"] == path && row["field"] == field).unwrap();
    assert_eq!((&row("/etc/name", "path")["left"], &row("/etc/name", "path")["right"]), (&"file".into(), &Value::Null));
    let digest = |byte| fsverity::digest(Algorithm::Sha512, &[byte; 10_000]).to_string();
    assert_eq!(row("/usr/lib/large", "contents")["left"], digest(7));
    assert_eq!(row("/usr/lib/large", "contents")["right"], digest(8));
    let summary = place.findings(&["image", "diff", "rootfs", "copy", "--summary"]);
    assert!(summary.starts_with("left ") && summary.contains(" differences in "), "{summary}");
}

#[test]
fn diff_tells_what_cannot_be_compared() {
    let place = Place::new();
    for (algorithm, file) in [("sha256", "a"), ("sha512", "b")] {
        place.done(&["image", "mkfs", "rootfs", file, "--digest", algorithm]);
    }
    let found = place.done(&["image", "diff", "./a", "./b"]);
    assert!(found.contains("The contents of 1 files cannot be compared: sha256 and sha512 digests."), "{found}");
    // A directory takes the algorithm of the other side.
    let found = place.done(&["image", "diff", "rootfs", "./a"]);
    assert!(!found.contains("cannot be compared"), "{found}");
    place.done(&["image", "mkfs", "rootfs", "v0", "--format", "v0"]);
    let found = place.done(&["image", "diff", "./v0", "./b"]);
    assert!(found.contains("The images differ in their format: version 0 and version 1."), "{found}");
    place.done(&["image", "mkfs", "rootfs", "v2", "--format", "v2"]);
    let found = place.done(&["image", "diff", "rootfs", "./v2"]);
    assert!(found.contains("Nanoseconds were not compared"), "{found}");
    let error = place.failed(&["image", "diff", &"0".repeat(128), "./a"]);
    assert!(error.contains("a digest tells nothing of the files"), "{error}");
}

#[test]
fn fsck_names_what_is_wrong_with_a_file() {
    let place = Place::new();
    place.done(&["image", "mkfs", "rootfs", "good"]);
    assert_eq!(place.done(&["image", "fsck", "good"]), "good: ok, version 1, 7 files, 1 objects\n".replace("7", "5"));
    let mut bytes = fs::read(place.path().join("good")).unwrap();
    bytes.truncate(bytes.len() - 1);
    fs::write(place.path().join("short"), &bytes).unwrap();
    assert!(place.findings(&["image", "fsck", "short"]).contains("4096-byte blocks"));
    let tree = dumpfile::parse(place.done(&["image", "dump", "good"]).as_bytes()).unwrap();
    let mut image = erofs::write(&tree, erofs::Format::V1).unwrap();
    image[1024 + 40] ^= 1; // low byte of the superblock's metadata block
    fs::write(place.path().join("bad"), &image).unwrap();
    let found = place.findings(&["image", "fsck", "bad"]);
    assert!(found.starts_with("bad: image superblock has metadata block 0x1"), "{found}");
    let mut image = erofs::write(&tree, erofs::Format::V1).unwrap();
    image[1024 + 48] = 1; // a uuid, which readers do not mind
    fs::write(place.path().join("odd"), &image).unwrap();
    assert!(place.findings(&["image", "fsck", "odd"]).contains("differs at byte 1072"));
    fs::write(place.path().join("dump"), place.done(&["image", "dump", "good"])).unwrap();
    assert!(place.failed(&["image", "fsck", "./dump"]).contains("is a dumpfile"));
}
