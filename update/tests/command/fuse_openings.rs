//! Openings of many files, and of such that take long to check.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use osupdate_core::erofs::Format;
use osupdate_core::{Algorithm, Digest, dumpfile, erofs, fsverity};

use crate::docker_registry::have;
use crate::fuse::{Server, can_mount, place, see};
use crate::fuse_trouble::smuggle;
use crate::place::Place;

/// What the last bytes of a file are when it is mapped into memory.
fn last_mapped(path: &Path) -> String {
    let program = "import mmap, sys
with open(sys.argv[1]) as file:
    print(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[-4:].hex())";
    let output = Command::new("python3").args(["-c", program]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn files_that_are_known_are_opened_without_the_server_and_large_ones_stay_mappable() {
    if !can_mount() || !have(&["python3"]) {
        return;
    }
    let place = place();
    let contents = fs::read(place.path().join("tree/large")).unwrap();
    let last: String = contents[contents.len() - 4..].iter().map(|byte| format!("{byte:02x}")).collect();
    let server = Server::start(&place);
    let root = place.path().join("fuse");
    // Where the kernel can, it reads this file itself, and goes on to do so.
    let large = fs::File::open(root.join("large")).unwrap();
    see(&root);
    assert_eq!(last_mapped(&root.join("large")), last);
    drop(large);
    // The kernel tells of the last close a little later.
    thread::sleep(Duration::from_millis(200));
    see(&root);
    assert_eq!(last_mapped(&root.join("large")), last);
    let before = server.calls();
    let names: Vec<_> = fs::read_dir(root.join("many")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for name in &names {
        let file = fs::File::open(name).unwrap();
        assert!(file.read_at(&mut [0; 16], 0).is_ok());
    }
    let calls = server.calls() - before;
    assert!(calls < names.len() / 10, "{calls} system calls for {} files", names.len());
    server.end(Signal::SIGTERM);
}

/// Bytes of an object that takes long to hash, without any on the disk.
const LONG: u64 = 1 << 30;
const LONG_COUNT: u64 = 4;

#[test]
fn who_waits_for_a_large_object_to_be_checked_makes_nobody_else_wait() {
    if !can_mount() {
        return;
    }
    let place = Place::with_repository();
    fs::create_dir(place.path().join("fuse")).unwrap();
    let object = |digest: &Digest| {
        let path = place.path().join("repo/objects").join(digest.object_path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(path).unwrap()
    };
    let line = |name: &str, size: u64, digest: &Digest| {
        format!("/{name} {size} 100644 1 0 0 0 0.0 {} - {digest}\n", digest.object_path())
    };
    let mut text = "/ 0 40755 2 0 0 0 0.0 - - -\n".to_owned();
    for number in 0..LONG_COUNT {
        let size = LONG + number;
        // Not what it has: to find that takes as long.
        let digest = fsverity::digest(Algorithm::Sha512, &size.to_le_bytes());
        object(&digest).set_len(size).unwrap();
        text += &line(&format!("long{number}"), size, &digest);
    }
    let contents = [7; 5000];
    let digest = fsverity::digest(Algorithm::Sha512, &contents);
    object(&digest).write_all_at(&contents, 0).unwrap();
    text += &line("short", 5000, &digest);
    let image = erofs::write(&dumpfile::parse(text.as_bytes()).unwrap(), Format::V1).unwrap();
    let server = Server::start_with(&place, &smuggle(&place, &image)).unwrap();
    let root = place.path().join("fuse");
    let (begun, checked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let checked_before = thread::scope(|scope| {
        for number in 0..LONG_COUNT {
            let (root, begun, checked) = (&root, &begun, &checked);
            scope.spawn(move || {
                begun.fetch_add(1, Ordering::Relaxed);
                assert!(fs::read(root.join(format!("long{number}"))).is_err());
                checked.fetch_add(1, Ordering::Relaxed);
            });
        }
        while begun.load(Ordering::Relaxed) < LONG_COUNT as usize {
            thread::yield_now();
        }
        // By now they have asked.
        thread::sleep(Duration::from_millis(50));
        assert_eq!(fs::read(root.join("short")).unwrap(), contents);
        checked.load(Ordering::Relaxed)
    });
    assert_eq!(checked_before, 0);
    let said = server.end(Signal::SIGTERM);
    assert_eq!(said.matches("readers of its file get an I/O error").count(), LONG_COUNT as usize, "{said}");
}

#[test]
fn what_is_prepared_ahead_of_a_reader_is_right_or_an_error_when_it_is_read() {
    if !can_mount() {
        return;
    }
    let place = Place::with_repository();
    fs::create_dir(place.path().join("fuse")).unwrap();
    fs::create_dir(place.path().join("tree")).unwrap();
    let contents = |number: usize| number.to_string().repeat(1000);
    for number in 100..200 {
        fs::write(place.path().join(format!("tree/{number}")), contents(number)).unwrap();
    }
    drop(place.run(&["image", "create", "--no-transform", "tree", "fuse"]).done());
    let rotten = fsverity::digest(Algorithm::Sha512, contents(150).as_bytes());
    fs::write(place.path().join("repo/objects").join(rotten.object_path()), "rot").unwrap();
    let missing = fsverity::digest(Algorithm::Sha512, contents(160).as_bytes());
    fs::remove_file(place.path().join("repo/objects").join(missing.object_path())).unwrap();
    let server = Server::start(&place);
    for number in 100..150 {
        assert_eq!(fs::read_to_string(place.path().join(format!("fuse/{number}"))).unwrap(), contents(number));
    }
    // Nobody has read them yet; there is time to prepare them.
    thread::sleep(Duration::from_millis(200));
    for number in 150..200 {
        let read = fs::read_to_string(place.path().join(format!("fuse/{number}")));
        match number {
            150 | 160 => assert!(read.is_err(), "{number}"),
            _ => assert_eq!(read.unwrap(), contents(number)),
        }
    }
    let said = server.end(Signal::SIGTERM);
    for digest in [rotten, missing] {
        assert_eq!(said.matches(&digest.to_string()).count(), 1, "{said}");
    }
}
