//! Directories on the disk, messages, mounts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

use crate::tools::Tools;

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Fills a directory with files of all kinds that this user may make.
fn fill(directory: &Path, numbers: &mut Numbers, depth: u64) {
    for index in 0..numbers.next(12) {
        let path =
            directory.join(format!("{:x}{}", numbers.next(256), ["", " b", "\n", "=", "\\x", "ü"][index as usize % 6]));
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match numbers.next(9) {
            0..=2 if depth < 4 => {
                fs::create_dir(&path).unwrap();
                fill(&path, numbers, depth + 1);
            }
            3 => symlink("x".repeat(1 + numbers.next(300) as usize), &path).unwrap(),
            4 => mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
            5 if rustix::process::geteuid().is_root() => {
                let device = rustix::fs::makedev(numbers.next(3) as u32, numbers.next(300) as u32);
                mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, device).unwrap();
            }
            _ => {
                let size = [0, 1, 64, 65, 4096, 5000, 300_000][numbers.next(7) as usize];
                fs::write(&path, vec![numbers.next(4) as u8; size]).unwrap();
                if numbers.next(3) == 0 {
                    // Some file systems have none.
                    let value = vec![b'v'; numbers.next(40) as usize];
                    if let Err(errno) = lsetxattr(&path, "user.some", &value, XattrFlags::empty()) {
                        println!("without attributes: {errno}");
                    }
                }
            }
        }
    }
}

#[test]
fn directories() {
    let Some(tools) = Tools::find() else { return };
    for seed in 0..8 {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("source");
        fs::create_dir(&source).unwrap();
        fill(&source, &mut Numbers(seed), 0);
        for options in [
            &[][..],
            &["--use-epoch"],
            &["--skip-devices", "--skip-xattrs"],
            &["--user-xattrs", "--min-version=1"],
            &["--threads=1", "--max-version=0"],
        ] {
            tools.agree("mkcomposefs", &[options, &["--print-digest-only", "source"]].concat(), place.path());
        }
        // The digest store, and what is missing of it.
        for (command, store, image) in
            [(tools.c("mkcomposefs"), "theirs", "a"), (Tools::ours("mkcomposefs"), "ours", "b")]
        {
            let mut command = command;
            command.arg(format!("--digest-store={store}")).args(["source", image]).current_dir(place.path());
            assert!(command.status().unwrap().success());
        }
        assert_eq!(fs::read(place.path().join("a")).unwrap(), fs::read(place.path().join("b")).unwrap());
        // Where there is nothing to store there is no store either.
        let there = |store: &str| place.path().join(store).exists();
        assert_eq!(there("theirs"), there("ours"), "{seed}");
        if there("ours") {
            let same = Command::new("diff").args(["-r", "theirs", "ours"]).current_dir(place.path()).output().unwrap();
            assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
        }
        let objects = tools.agree("composefs-info", &["objects", "a"], place.path());
        let none = tools.agree("composefs-info", &["missing-objects", "--basedir=ours", "a"], place.path());
        assert!(none.stdout.is_empty());
        if let Some(object) = objects.stdout.split(|&byte| byte == b'\n').next().filter(|object| !object.is_empty()) {
            let object = str::from_utf8(object).unwrap();
            fs::remove_file(place.path().join("ours").join(object)).unwrap();
            let one = tools.agree("composefs-info", &["--basedir", "ours", "missing-objects", "a", "b"], place.path());
            assert_eq!(one.stdout, format!("{object}\n").into_bytes());
        }
        for entry in fs::read_dir(&source).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            for command in ["ls", "dump"] {
                tools.agree("composefs-info", &[command, "a", &format!("--filter={name}")], place.path());
            }
        }
        tools.agree("composefs-info", &["measure-file", "a", "b"], place.path());
    }
}

#[test]
fn wrong_calls_fail_in_the_same_way() {
    let Some(tools) = Tools::find() else { return };
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("source")).unwrap();
    fs::write(place.path().join("text"), "text").unwrap();
    let calls: [(&str, &[&str]); 17] = [
        ("mkcomposefs", &[]),
        ("mkcomposefs", &["--bad"]),
        ("mkcomposefs", &["source"]),
        ("mkcomposefs", &["none", "image"]),
        ("mkcomposefs", &["text", "image"]),
        ("mkcomposefs", &["source", "none/image"]),
        ("mkcomposefs", &["source", "image", "more"]),
        ("mkcomposefs", &["--from-file", "text", "image"]),
        ("mkcomposefs", &["--from-file", "source", "image"]),
        ("mkcomposefs", &["--min-version=2", "source", "image"]),
        ("mkcomposefs", &["--threads=0", "source", "image"]),
        ("composefs-info", &[]),
        ("composefs-info", &["ls"]),
        ("composefs-info", &["bad", "text"]),
        ("composefs-info", &["dump", "text"]),
        ("mount.composefs", &["text", "source"]),
        ("mount.composefs", &["-o", "basedir=source,bad", "text", "source"]),
    ];
    for (tool, arguments) in calls {
        let run = tools.agree(tool, arguments, place.path());
        assert_eq!((run.status, run.stdout.len()), (Some(1), 0), "{tool} {arguments:?}");
        assert!(!run.stderr.is_empty(), "{tool} {arguments:?} says nothing");
    }
}

#[test]
fn mounts() {
    let Some(tools) = Tools::find() else { return };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source, &mut Numbers(3), 0);
    fs::write(source.join("large"), [7; 10_000]).unwrap();
    for name in ["theirs", "ours", "up per", "work", "empty:dir"] {
        fs::create_dir(place.path().join(name)).unwrap();
    }
    let make = ["--digest-store=store", "source", "image"];
    assert!(Tools::ours("mkcomposefs").args(make).current_dir(place.path()).status().unwrap().success());
    // In a mount namespace of its own: nothing is left mounted.
    let script = r#"
        set -e
        eval "$THEIRS -o basedir=store image theirs"
        "$OURS" mount.composefs -o 'basedir=empty\:dir:store' image ours
        for side in theirs ours; do
            (cd $side && find . -printf '%P %y %m %U %G %T@ %l %s\n' | sort > ../$side.list)
            (cd $side && find . -type f -exec sha256sum {} + | sort > ../$side.sums)
        done
        cmp theirs.list ours.list
        cmp theirs.sums ours.sums
        "$OURS" image diff source ours --no-transform --digest sha256 --quiet
        if touch ours/new 2> /dev/null; then exit 9; fi
        umount ours
        "$OURS" mount.composefs -t composefs -o basedir=store -o 'upperdir=up per,workdir=work,rw' image ours
        touch ours/new
        test -e 'up per/new'
        umount ours
        "$OURS" mount.composefs -o basedir=store,upperdir=up\ per,workdir=work,ro image ours
        test -e ours/new
        if touch ours/newer 2> /dev/null; then exit 9; fi
        umount ours
        unshare --user sleep 60 & sleeper=$!
        until [ "$(readlink /proc/$sleeper/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.05; done
        echo 0 1000000 65536 > /proc/$sleeper/uid_map
        echo 0 1000000 65536 > /proc/$sleeper/gid_map
        "$OURS" mount.composefs -o basedir=store,idmap=/proc/$sleeper/ns/user image ours
        kill $sleeper
        test "$(stat -c %u:%g ours)" = "$(stat -c '%u %g' source | { read u g; echo $((u + 1000000)):$((g + 1000000)); })"
    "#;
    let theirs = tools.c("mount.composefs");
    let words = [theirs.get_program()].into_iter().chain(theirs.get_args());
    let words: Vec<_> = words.map(|word| format!("'{}'", word.display())).collect();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .env("THEIRS", words.join(" "))
        .env("OURS", env!("CARGO_BIN_EXE_osupdate"))
        .current_dir(place.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{:?} {}", output, String::from_utf8_lossy(&output.stderr));
}
