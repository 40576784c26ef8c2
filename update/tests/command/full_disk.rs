//! Repositories on file systems that get full.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::docker_registry::have;
use crate::faulty_proxy::Random;
use crate::layout::Layout;
use crate::place::{Place, Run};
use crate::published_tree::Tree;
use crate::server::Server;

const MIB: u64 = 1 << 20;

/// A place with a repository `disk/repo` on a small file system of its own.
struct SmallDisk {
    place: Place,
}

impl SmallDisk {
    /// `None`, and it is said why, where file systems cannot be mounted.
    fn mount(size_mib: u64) -> Option<Self> {
        if !have(&["tar", "gzip", "mkfs.ext4", "mount", "umount"]) {
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting a file system needs root");
            return None;
        }
        let place = Place::new();
        let image = place.path().join("disk.img");
        fs::File::create(&image).unwrap().set_len(size_mib * MIB).unwrap();
        fs::create_dir(place.path().join("disk")).unwrap();
        let made = Run::of(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        drop(made.done());
        let disk = Self { place };
        let mounted = Run::of(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path("")));
        drop(mounted.done());
        drop(disk.run(&["repo", "init", "--unverified"]).done());
        Some(disk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join("disk").join(name)
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.place.run(&[arguments, &["--repo", "disk/repo"]].concat())
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path("")).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Fills the file system up to that many bytes.
    fn leave(&self, bytes: u64) {
        let filler = fs::File::create(self.path("filler")).unwrap();
        let len = self.free_bytes().saturating_sub(bytes);
        rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, len).unwrap();
    }

    /// An image in `big` of many files of 1 MiB, each of them different: few bytes to fetch, many to store.
    fn image(&self, files: u8) {
        let mut layout = Layout::create(&self.place.path().join("big"));
        let contents: Vec<(String, Vec<u8>)> =
            (0..files).map(|number| (format!("usr/share/{number}"), vec![number; MIB as usize])).collect();
        let files: Vec<(&str, &[u8])> =
            contents.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let image = layout.image(&osupdate_core::oci::Platform::host().architecture, &[&files]);
        layout.tag("1", &image);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.path("")).status().unwrap();
        assert!(status.success() || std::thread::panicking(), "umount failed");
    }
}

#[test]
fn a_pull_stops_before_the_disk_is_full_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    disk.image(24);
    disk.leave(15 * MIB);
    let said = disk.run(&["image", "pull", "oci:big"]).failed(1);
    assert!(said.contains("there is no room for the layer"), "{said}");
    assert!(said.contains("no space left in disk/repo: ") && said.contains(" are left alone"), "{said}");
    assert!(said.contains("hint: osupdate repo gc --repo disk/repo removes"), "{said}");
    assert!(disk.free_bytes() > MIB, "the reserve is left: {}", disk.free_bytes());
    assert!(disk.free_bytes() < 10 * MIB, "all else was used: {}", disk.free_bytes());

    drop(disk.run(&["repo", "fsck"]).done());
    assert_eq!(disk.run(&["image", "list", "--json"]).json()["images"], serde_json::json!([]));
    drop(disk.run(&["repo", "gc"]).done());
    assert!(disk.free_bytes() > 12 * MIB, "what was stored is given back: {}", disk.free_bytes());

    fs::remove_file(disk.path("filler")).unwrap();
    let pulled = disk.run(&["image", "pull", "oci:big", "--json"]).json();
    let elsewhere = disk.place.run(&["image", "digest", "--hex", "--source", "oci:big"]).done();
    assert_eq!(format!("{}\n", pulled["image_digest"].as_str().unwrap()), elsewhere);
    drop(disk.run(&["repo", "fsck"]).done());
}

#[test]
fn what_fits_without_what_is_kept_is_pulled() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let mut layout = Layout::create(&disk.place.path().join("big"));
    // They do not compress: what is kept of them is as large as what is stored.
    let contents: Vec<Vec<u8>> = (1..=16).map(|seed| Random::new(seed).bytes(MIB as usize)).collect();
    let names: Vec<String> = (1..=16).map(|number| format!("usr/share/{number}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
    let image = layout.image(&osupdate_core::oci::Platform::host().architecture, &[&files[..12], &files[12..]]);
    layout.tag("1", &image);
    let server = Server::of_layout(&layout, image["digest"].as_str().unwrap(), |_| ());
    disk.leave(25 * MIB);
    let reference = format!("docker://{}/os:1", server.address);
    drop(disk.run(&["image", "pull", &reference, "--plain-http"]).done());
    let blobs = server.requests().iter().filter(|request| request.path.contains("/blobs/")).count();
    assert_eq!(blobs, 3, "nothing is fetched twice");
    drop(disk.run(&["repo", "fsck"]).done());
    let left = fs::read_dir(disk.path("repo")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!left.into_iter().any(|name| name.to_str().unwrap().starts_with(".blob-")));
}

#[test]
fn what_is_known_not_to_fit_is_not_begun() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    disk.leave(3 * MIB);
    let noise = Random::new(1).bytes(MIB as usize);
    let mut layout = Layout::create(&disk.place.path().join("big"));
    let image = layout.image(&osupdate_core::oci::Platform::host().architecture, &[&[("usr/noise", &noise)]]);
    layout.tag("1", &image);
    let objects = || fs::read_dir(disk.path("repo/objects")).map_or(0, Iterator::count);
    let before = objects();
    let said = disk.run(&["image", "pull", "oci:big"]).failed(1);
    assert!(said.contains("not enough space in disk/repo: ") && said.contains("3 MiB are free"), "{said}");
    assert!(said.contains("osupdate repo gc --repo disk/repo"), "{said}");
    assert_eq!(objects(), before, "nothing was written");
    fs::remove_file(disk.path("filler")).unwrap();
    drop(disk.run(&["image", "pull", "oci:big"]).done());
}

#[test]
fn what_arrived_too_long_ago_is_not_counted() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let mut layout = Layout::create(&disk.place.path().join("big"));
    let noise = Random::new(1).bytes(12 * MIB as usize);
    let image = layout.image(&osupdate_core::oci::Platform::host().architecture, &[&[("usr/noise", &noise)]]);
    layout.tag("1", &image);
    let manifest =
        fs::read(layout.path.join("blobs").join(image["digest"].as_str().unwrap().replace(':', "/"))).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = &manifest["layers"][0];
    let path = disk.path("repo").join(format!(".blob-{}", layer["digest"].as_str().unwrap()));
    let arrived = fs::File::create(&path).unwrap();
    // It takes up nothing, so that removing it makes no room.
    arrived.set_len(layer["size"].as_u64().unwrap()).unwrap();
    arrived.set_modified(SystemTime::now() - Duration::from_secs(8 * 24 * 60 * 60)).unwrap();
    disk.leave(8 * MIB);
    let server = Server::of_layout(&layout, image["digest"].as_str().unwrap(), |_| ());
    let reference = format!("docker://{}/os:1", server.address);
    let said = disk.run(&["image", "pull", &reference, "--plain-http"]).failed(1);
    assert!(said.contains("not enough space in disk/repo: 13 MiB are missing"), "{said}");
    assert!(!path.exists());
    let asked = server.requests();
    assert!(!asked.iter().any(|request| request.path.ends_with(layer["digest"].as_str().unwrap())), "{asked:?}");
}

#[test]
fn a_disk_that_gets_full_is_told_with_numbers() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let files = disk.place.path().join("files/usr");
    fs::create_dir_all(&files).unwrap();
    for number in 0..15_u8 {
        fs::write(files.join(number.to_string()), vec![number; MIB as usize]).unwrap();
    }
    disk.leave(10 * MIB);
    let said = disk.run(&["image", "create", "files"]).failed(1);
    assert!(said.contains("the file system of disk/repo is full: ") && said.contains(" are free"), "{said}");
    assert!(said.contains("hint: osupdate repo gc removes"), "{said}");
    drop(disk.run(&["repo", "fsck"]).done());
    drop(disk.run(&["repo", "gc"]).done());
    fs::remove_file(disk.path("filler")).unwrap();
    drop(disk.run(&["image", "create", "files"]).done());
    drop(disk.run(&["repo", "fsck"]).done());
}

#[test]
fn objects_of_a_tree_that_do_not_fit_are_not_begun() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    disk.leave(15 * MIB);
    let mut tree = Tree::new();
    let contents: Vec<Vec<u8>> = (0..24).map(|number| vec![number; MIB as usize]).collect();
    let names: Vec<String> = (0..24).map(|number| format!("usr/{number}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
    tree.publish("1", &[&files]);
    let server = tree.serve();
    let reference = format!("http://{}/team/os:1", server.address);
    let pull = || disk.run(&["image", "pull", &reference, "--plain-http"]);
    let said = pull().failed(1);
    assert!(said.contains("not enough space in disk/repo: 24 MiB are missing"), "{said}");
    assert!(said.contains("osupdate repo gc --repo disk/repo"), "{said}");
    assert!(!server.requests().iter().any(|request| request.path.contains("/objects/")));
    fs::remove_file(disk.path("filler")).unwrap();
    drop(pull().done());
    drop(disk.run(&["repo", "fsck"]).done());
}
