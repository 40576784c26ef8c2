//! Many readers at once, objects that come and go, and images that were made to do harm.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use osupdate_core::{Algorithm, Digest, fsverity};
use rustix::io::Errno;

use crate::docker_registry::have;
use crate::fuse::{Server, can_mount, is_mounted, place, see};
use crate::place::Place;

/// Contents of the large file, their digest, and where their object is.
fn large(place: &Place) -> (Vec<u8>, Digest, PathBuf) {
    let contents = fs::read(place.path().join("tree/large")).unwrap();
    let digest = fsverity::digest(Algorithm::Sha512, &contents);
    (contents, digest, place.path().join("repo/objects").join(digest.object_path()))
}

#[test]
fn readers_get_the_right_bytes_or_an_error_while_an_object_rots_and_heals() {
    if !can_mount() {
        return;
    }
    let place = place();
    let (good, digest, object) = large(&place);
    let rotten = [&b"rot"[..], &good[3..]].concat();
    let put = |contents: &[u8]| {
        let new = place.path().join("new-object");
        fs::write(&new, contents).unwrap();
        fs::rename(new, &object).unwrap();
    };
    let server = Server::start(&place);
    let root = place.path().join("fuse");
    let small = fs::File::open(root.join("small")).unwrap();
    let (over, right, wrong) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for name in ["large", "many/link", "large", "many/link"] {
            let (root, good, over, right, wrong) = (&root, &good, &over, &right, &wrong);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match fs::read(root.join(name)) {
                        Ok(contents) => {
                            assert!(contents == *good);
                            right.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));
                            wrong.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(fs::read_dir(root.join("many")).unwrap().map(Result::unwrap).count(), crate::fuse::MANY + 1);
                let mut contents = [0; 6];
                // Whoever opens many small files is served large ones from what the kernel keeps.
                assert_eq!(small.read_at(&mut contents, 0).unwrap(), 5);
                assert_eq!(&contents, b"small\0");
            }
        });
        let began = Instant::now();
        // Until both have been seen.
        while began.elapsed() < Duration::from_secs(30)
            && (right.load(Ordering::Relaxed) < 20 || wrong.load(Ordering::Relaxed) < 20)
        {
            put(&rotten);
            thread::sleep(Duration::from_millis(50));
            fs::remove_file(&object).unwrap();
            thread::sleep(Duration::from_millis(20));
            put(&good);
            thread::sleep(Duration::from_millis(100));
        }
        over.store(true, Ordering::Relaxed);
    });
    let after = see(&root);
    drop(small);
    let said = server.end(Signal::SIGTERM);
    assert!(right.into_inner() >= 20 && wrong.into_inner() >= 20);
    let server = Server::start(&place);
    assert!(see(&root) == after);
    drop(server.end(Signal::SIGTERM));
    assert!(said.contains(&digest.to_string()), "{said}");
}

#[test]
fn a_file_that_is_open_is_checked_when_it_is_opened_again() {
    if !can_mount() {
        return;
    }
    let place = place();
    let (good, digest, object) = large(&place);
    let server = Server::start(&place);
    let path = place.path().join("fuse/large");
    let open = fs::File::open(&path).unwrap();
    assert!(fs::read(&path).unwrap() == good);
    // In place: it is the same file.
    fs::OpenOptions::new().write(true).open(&object).unwrap().write_all_at(b"rot", 1 << 20).unwrap();
    assert_eq!(Errno::from_io_error(&fs::File::open(&path).unwrap_err()), Some(Errno::IO));
    drop(open);
    fs::write(&object, &good).unwrap();
    let began = Instant::now();
    // The kernel tells of the last close a little later.
    while fs::read(&path).ok().as_deref() != Some(&good) {
        assert!(began.elapsed() < Duration::from_secs(20), "it is good again");
        thread::sleep(Duration::from_millis(10));
    }
    let said = server.end(Signal::SIGTERM);
    assert!(said.contains(&digest.to_string()), "{said}");
}

/// Puts an image into a repository as if it were what its digest says, without looking at it.
pub(crate) fn smuggle(place: &Place, image: &[u8]) -> String {
    let digest = fsverity::digest(Algorithm::Sha512, image);
    let object = place.path().join("repo/objects").join(digest.object_path());
    fs::create_dir_all(object.parent().unwrap()).unwrap();
    fs::write(&object, image).unwrap();
    fs::create_dir_all(place.path().join("repo/images")).unwrap();
    let name = place.path().join("repo/images").join(digest.to_string());
    if !name.exists() {
        symlink(format!("../objects/{}", digest.object_path()), name).unwrap();
    }
    digest.to_string()
}

/// Mounts an image and looks at everything in it, unless it is refused. Tells whether it was mounted.
fn look_at(place: &Place, image: &[u8], what: &str) -> bool {
    let name = smuggle(place, image);
    let server = match Server::start_with(place, &name) {
        Ok(server) => server,
        Err(error) => {
            assert!(error.contains("the image is refused") && !error.contains("panicked"), "{what}: {error}");
            assert!(!is_mounted(&place.path().join("fuse")));
            return false;
        }
    };
    let mut find = Command::new("find");
    find.arg(place.path().join("fuse")).args(["-type", "f", "-exec", "cat", "{}", "+"]);
    let found = find.output().unwrap();
    let said = server.end(Signal::SIGTERM);
    assert!(!said.contains("panicked"), "{what}: {said}");
    assert!(found.status.success() || !found.stderr.is_empty(), "{what}");
    true
}

/// Damaged images that are tried.
const COUNT: usize = 30;

#[test]
fn hostile_images_are_refused_or_served_without_harm() {
    if !can_mount() || !have(&["find"]) {
        return;
    }
    let place = Place::with_repository();
    fs::create_dir_all(place.path().join("tree/directory")).unwrap();
    fs::create_dir(place.path().join("fuse")).unwrap();
    fs::write(place.path().join("tree/directory/file"), [1; 5000]).unwrap();
    fs::write(place.path().join("tree/small"), "small").unwrap();
    symlink("small", place.path().join("tree/link")).unwrap();
    drop(place.run(&["image", "create", "--no-transform", "tree", "good"]).done());
    let good = fs::read(place.path().join("repo/images/refs/good")).unwrap();
    assert!(look_at(&place, &good, "the image itself"));
    let mut served = 0;
    for number in 0..COUNT {
        let mut image = good.clone();
        // Anywhere in what is not zero, so that it means something.
        let bytes: Vec<_> = (0..image.len()).filter(|at| image[*at] != 0).collect();
        let at = bytes[number * bytes.len() / COUNT];
        image[at] ^= [0x01, 0xff, 0x80][number % 3];
        served += usize::from(look_at(&place, &image, &format!("byte {at} is another")));
    }
    assert!(served < COUNT, "no damage was found");
    for length in [0, 1, 1024, good.len() / 2, good.len() - 4096] {
        assert!(!look_at(&place, &good[..length], &format!("cut after {length} bytes")));
    }
}

/// Names, kinds, modes, owners, links, times, targets and sizes (not of directories) of all files; `None` if not all are found.
fn listing(root: &Path) -> Option<BTreeSet<String>> {
    let mut find = Command::new("find");
    let lines = ["(", "-type", "d", "-printf", "%P %y %m %U %G %n %T@\n", ")"];
    let others = ["-o", "-printf", "%P %y %m %U %G %n %T@ %l %s\n"];
    let output = find.arg(root).args(lines).args(others).output().unwrap();
    let lines = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    output.status.success().then_some(lines)
}

#[test]
fn images_of_other_tools_look_as_on_the_mount_of_the_kernel() {
    if !can_mount() || !have(&["find", "gzip"]) {
        return;
    }
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/image/images");
    let Ok(directory) = fs::read_dir(&images) else {
        println!("skipped: there is no {}", images.display());
        return;
    };
    let place = Place::with_repository();
    let roots = ["kernel", "fuse"].map(|name| place.path().join(name));
    roots.iter().for_each(|root| fs::create_dir(root).unwrap());
    let mut seen = 0;
    for entry in directory {
        let path = entry.unwrap().path();
        // The kernel's mount shows whiteouts as empty files; these have some.
        if path.extension() != Some("gz".as_ref())
            || ["whiteout", "random"].iter().any(|part| path.to_string_lossy().contains(part))
        {
            continue;
        }
        let image = Command::new("gzip").arg("-dc").arg(&path).output().unwrap().stdout;
        let name = smuggle(&place, &image);
        drop(place.run(&["image", "mount", "--fuse=never", &name, "kernel"]).done());
        drop(place.run(&["image", "mount", "--fuse", &name, "fuse"]).done());
        let [kernel, fuse] = roots.each_ref().map(|root| listing(root));
        drop(place.run(&["image", "unmount", "kernel"]).done());
        drop(place.run(&["image", "unmount", "fuse"]).done());
        assert!(fuse.is_some(), "{}", path.display());
        // The kernel does not find files whose objects are not there.
        if kernel.is_none() {
            continue;
        }
        assert_eq!(kernel, fuse, "{}", path.display());
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}
