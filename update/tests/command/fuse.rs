//! Images served through FUSE: the same files as in the kernel's mount, and clear ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};

use crate::docker_registry::have;
use crate::place::{Place, Run};

const OSUPDATE: &str = env!("CARGO_BIN_EXE_osupdate");
/// Enough for several answers to `readdir`.
pub(crate) const MANY: usize = 3000;

pub(crate) fn can_mount() -> bool {
    if !rustix::process::geteuid().is_root() || !have(&["/dev/fuse", "mknod", "mkfifo"]) {
        println!("skipped: mounting needs root and FUSE");
        return false;
    }
    true
}

/// A repository with an image `refs/fuse` of a tree with every kind of file; directories `kernel` and `fuse`.
pub(crate) fn place() -> Place {
    let place = Place::with_repository();
    let path = |name: &str| place.path().join(name);
    fs::create_dir_all(path("tree/many")).unwrap();
    for number in 0..MANY {
        fs::write(path(&format!("tree/many/a-name-of-some-length-{number}")), "").unwrap();
    }
    fs::write(path("tree/small"), "small").unwrap();
    let large: Vec<u8> = (0..3_000_001_u32).map(|number| (number % 251) as u8).collect();
    fs::write(path("tree/large"), large).unwrap();
    fs::hard_link(path("tree/large"), path("tree/many/link")).unwrap();
    std::os::unix::fs::symlink("many/../small", path("tree/symlink")).unwrap();
    fs::set_permissions(path("tree/small"), fs::Permissions::from_mode(0o4750)).unwrap();
    lsetxattr(path("tree/large"), "user.empty", b"", XattrFlags::empty()).unwrap();
    lsetxattr(path("tree/large"), "user.long", &[b'x'; 1000], XattrFlags::empty()).unwrap();
    lsetxattr(path("tree/many"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    std::os::unix::net::UnixListener::bind(path("tree/socket")).unwrap();
    for arguments in [&["mkfifo", "fifo"][..], &["mknod", "null", "c", "1", "3"], &["mknod", "disk", "b", "259", "300"]]
    {
        let made = Command::new(arguments[0]).args(&arguments[1..]).current_dir(path("tree")).status();
        assert!(made.unwrap().success());
    }
    drop(place.run(&["image", "create", "--no-transform", "tree", "fuse"]).done());
    fs::create_dir(path("kernel")).unwrap();
    fs::create_dir(path("fuse")).unwrap();
    place
}

/// A server in the foreground.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(place: &Place) -> Self {
        Self::start_with(place, "refs/fuse").unwrap()
    }

    /// What it has said if it refuses the image.
    pub(crate) fn start_with(place: &Place, image: &str) -> Result<Self, String> {
        let mut server = Command::new(OSUPDATE)
            .args(["image", "--repo", "repo", "mount", "--fuse", "--foreground", image, "fuse"])
            .current_dir(place.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line == "ready\n" {
            return Ok(Self(server));
        }
        let output = server.wait_with_output().unwrap();
        assert_eq!((line.as_str(), output.status.code()), ("", Some(1)));
        Err(String::from_utf8(output.stderr).unwrap())
    }

    /// How often it has read anything, requests of the kernel included.
    pub(crate) fn calls(&self) -> usize {
        let text = fs::read_to_string(format!("/proc/{}/io", self.0.id())).unwrap();
        text.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
    }

    /// Ends it by a signal; returns what it has said.
    pub(crate) fn end(self, signal: Signal) -> String {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
        self.ended()
    }

    /// Waits for its end; returns what it has said.
    fn ended(mut self) -> String {
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.0.wait().unwrap().success(), "{text}");
        text
    }
}

pub(crate) fn is_mounted(path: &Path) -> bool {
    fs::metadata(path).unwrap().dev() != fs::metadata(path.parent().unwrap()).unwrap().dev()
}

#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    /// Mode, links, owner, group, device, size (not of directories) and time.
    stat: [u64; 6],
    times: [(i64, i64); 3],
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    contents: Vec<u8>,
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = llistxattr(path, &mut names[..]).unwrap();
    let mut all = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 4096];
        let length = lgetxattr(path, name, &mut value[..]).unwrap();
        all.insert(name.to_vec(), value[..length].to_vec());
    }
    all
}

pub(crate) fn see(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(path) = queue.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let contents = if kind.is_dir() {
            queue.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if kind.is_file() {
            fs::read(&path).unwrap()
        } else {
            assert!(kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device());
            Vec::new()
        };
        let size = if kind.is_dir() { 0 } else { metadata.size() };
        let (mode, uid, gid) = (metadata.mode().into(), metadata.uid().into(), metadata.gid().into());
        let this = Seen {
            stat: [mode, metadata.nlink(), uid, gid, metadata.rdev(), size],
            times: [
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec()),
                (metadata.atime(), metadata.atime_nsec()),
            ],
            xattrs: xattrs(&path),
            contents,
        };
        seen.insert(path.strip_prefix(root).unwrap().to_owned(), this);
    }
    seen
}

#[test]
fn a_served_image_has_the_files_of_the_mounted_one() {
    if !can_mount() {
        return;
    }
    let place = place();
    let (kernel, fuse) = (place.path().join("kernel"), place.path().join("fuse"));
    drop(place.run(&["image", "mount", "--fuse=never", "refs/fuse", "kernel"]).done());
    // It is ready when the command returns, and the command returns although a server goes on.
    drop(place.run(&["image", "mount", "--fuse", "refs/fuse", "fuse"]).done());
    let (by_kernel, by_fuse, again) = (see(&kernel), see(&fuse), see(&fuse));
    let inodes = ["large", "many/link"].map(|name| fs::metadata(fuse.join(name)).unwrap().ino());
    let too_long = fs::metadata(fuse.join("x".repeat(256))).unwrap_err();
    let below_file = fs::metadata(fuse.join("small/x")).unwrap_err();
    let refused = [
        fs::write(fuse.join("small"), "x").unwrap_err(),
        fs::write(fuse.join("new"), "x").unwrap_err(),
        fs::create_dir(fuse.join("new")).unwrap_err(),
        fs::remove_file(fuse.join("small")).unwrap_err(),
        fs::remove_dir(fuse.join("many")).unwrap_err(),
        fs::rename(fuse.join("small"), fuse.join("new")).unwrap_err(),
        fs::hard_link(fuse.join("small"), fuse.join("new")).unwrap_err(),
        fs::set_permissions(fuse.join("small"), fs::Permissions::from_mode(0o644)).unwrap_err(),
        lsetxattr(fuse.join("small"), "user.new", b"", XattrFlags::empty()).unwrap_err().into(),
    ];
    let short_buffer = lgetxattr(fuse.join("large"), "user.long", &mut [0; 10][..]);
    drop(place.run(&["image", "unmount", "fuse"]).done());
    drop(place.run(&["image", "unmount", "kernel"]).done());
    assert!(!is_mounted(&fuse) && !is_mounted(&kernel));
    assert_eq!(by_fuse.len(), MANY + 10);
    assert_eq!(by_fuse.keys().collect::<Vec<_>>(), by_kernel.keys().collect::<Vec<_>>());
    for (path, seen) in &by_fuse {
        assert!(seen == &by_kernel[path], "{}: {:?} {:?}", path.display(), seen.stat, by_kernel[path].stat);
    }
    assert!(again == by_fuse);
    assert_eq!(inodes[0], inodes[1]);
    assert_eq!(too_long.raw_os_error(), Some(rustix::io::Errno::NAMETOOLONG.raw_os_error()));
    assert_eq!(below_file.kind(), std::io::ErrorKind::NotADirectory);
    for error in refused {
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(short_buffer, Err(rustix::io::Errno::RANGE));
}

#[test]
fn an_object_that_rots_is_an_io_error_and_named() {
    if !can_mount() {
        return;
    }
    let place = place();
    let large = place.path().join("tree/large");
    let find = |dir: PathBuf| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let same = |path: &PathBuf| fs::metadata(path).unwrap().len() == fs::metadata(&large).unwrap().len();
    let object = find(place.path().join("repo/objects")).into_iter().flat_map(find).find(same).unwrap();
    let server = Server::start(&place);
    let file = place.path().join("fuse/large");
    let good = fs::read(&object).unwrap();
    let before = fs::read(&file);
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&object, [&b"rot"[..], &good[3..]].concat()).unwrap();
    let rotten = fs::read(&file);
    fs::write(&object, &good).unwrap();
    let after = fs::read(&file);
    let said = server.end(Signal::SIGTERM);
    assert!(!is_mounted(&place.path().join("fuse")));
    assert!(before.unwrap() == good && after.unwrap() == good);
    assert_eq!(rotten.unwrap_err().raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    let name = object.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name) && said.contains("is damaged"), "{said}");
}

#[test]
fn a_mounted_image_stays_when_garbage_is_collected() {
    if !can_mount() {
        return;
    }
    let place = place();
    let large = fs::read(place.path().join("tree/large")).unwrap();
    drop(place.run(&["image", "mount", "--fuse", "refs/fuse", "fuse"]).done());
    fs::remove_file(place.path().join("repo/images/refs/fuse")).unwrap();
    let collected = place.run(&["repo", "gc", "--lock-timeout", "0"]);
    let read = fs::read(place.path().join("fuse/large"));
    drop(place.run(&["image", "unmount", "fuse"]).done());
    drop(collected.done());
    assert!(read.unwrap() == large);
    drop(place.run(&["repo", "gc"]).done());
    assert_eq!(fs::read_dir(place.path().join("repo/images")).unwrap().count(), 1, "only refs");
}

#[test]
fn a_server_that_ends_leaves_alone_what_was_mounted_there_since() {
    if !can_mount() {
        return;
    }
    let place = place();
    let first = Server::start(&place);
    let file = fs::File::open(place.path().join("fuse/small")).unwrap();
    drop(place.run(&["image", "unmount", "fuse"]).done());
    drop(place.run(&["image", "mount", "--fuse", "refs/fuse", "fuse"]).done());
    drop(file);
    drop(first.ended());
    let second = fs::read(place.path().join("fuse/small"));
    drop(place.run(&["image", "unmount", "fuse"]).done());
    assert_eq!(second.unwrap(), b"small");
}

#[test]
fn a_signal_ends_a_server_whose_place_is_another_s_and_nothing_else() {
    if !can_mount() {
        return;
    }
    let place = place();
    let server = Server::start(&place);
    // Its place is given up while a file is open, so it goes on.
    let open = fs::File::open(place.path().join("fuse/large")).unwrap();
    drop(place.run(&["image", "unmount", "fuse"]).done());
    drop(place.run(&["image", "mount", "--fuse=never", "refs/fuse", "fuse"]).done());
    assert_eq!(server.end(Signal::SIGTERM), "");
    assert_eq!(fs::read(place.path().join("fuse/small")).unwrap(), b"small");
    drop(open);
    drop(place.run(&["image", "unmount", "fuse"]).done());
}

#[test]
fn an_image_is_served_straight_from_where_it_is() {
    if !can_mount() {
        return;
    }
    let place = place();
    let scratch = || {
        let names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("osupdate-")).count()
    };
    drop(place.run(&["image", "mount", "--fuse", "oci:image:1", "fuse"]).done());
    let (read, during) = (fs::read(place.path().join("fuse/usr/share/large")), scratch());
    drop(place.run(&["image", "unmount", "fuse"]).done());
    assert_eq!((read.unwrap(), during), (vec![7; 10_000], 1));
    let began = std::time::Instant::now();
    while scratch() > 0 {
        assert!(began.elapsed().as_secs() < 20, "the temporary repository stays");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // What the server has said is not said again, and nothing stays.
    for image in ["refs/fuse", "oci:image:1"] {
        let error = place.run(&["image", "mount", "--fuse", image, "nowhere"]).failed(1);
        assert_eq!(error.matches("error:").count(), 1, "{error}");
        assert!(error.contains("cannot find the directory nowhere"), "{error}");
    }
    assert_eq!(scratch(), 0);
}

#[test]
fn thousands_of_files_are_open_at_once_and_a_busy_mount_ends_with_its_last_file() {
    if !can_mount() {
        return;
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
    let place = place();
    let server = Server::start(&place);
    let names: Vec<_> = see(&place.path().join("fuse/many")).into_keys().filter(|name| name != Path::new("")).collect();
    let opened: Vec<_> = (0..4)
        .flat_map(|_| names.iter().map(|name| fs::File::open(place.path().join("fuse/many").join(name))))
        .take(10_000)
        .collect();
    let mut large = fs::File::open(place.path().join("fuse/large")).unwrap();
    kill(Pid::from_raw(server.0.id() as i32), Signal::SIGHUP).unwrap();
    while is_mounted(&place.path().join("fuse")) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mut contents = Vec::new();
    let read = large.read_to_end(&mut contents);
    assert_eq!(opened.into_iter().map(Result::unwrap).collect::<Vec<_>>().len(), 10_000);
    drop(large);
    let said = server.ended();
    read.unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(contents == fs::read(place.path().join("tree/large")).unwrap());
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    if !can_mount() || !have(&["unshare", "setpriv", "fusermount3"]) {
        return;
    }
    let place = place();
    // A device that all may use, as udev makes it, for this mount namespace only.
    let script = "set -e; mount --make-rprivate /; mknod -m 666 device c 10 229; mount --bind device /dev/fuse
        chmod 755 .; chmod -R a+rX repo; chown 65534 fuse; cp \"$0\" program; chmod 755 program
        as() { setpriv --reuid 65534 --regid 65534 --clear-groups ./program \"$@\"; }
        as image --repo repo mount refs/fuse fuse
        setpriv --reuid 65534 --regid 65534 --clear-groups cmp fuse/large tree/large
        test $(setpriv --reuid 65534 --regid 65534 --clear-groups ls fuse/many | wc -l) = 3001
        if setpriv --reuid 65534 --regid 65534 --clear-groups cat fuse/small; then exit 8; fi
        if cat fuse/large; then exit 9; fi
        as image unmount fuse; if grep -q \" $PWD/fuse \" /proc/mounts; then exit 10; fi";
    let run = Run::of(Command::new("unshare").args(["-m", "sh", "-c", script, OSUPDATE]).current_dir(place.path()));
    assert!(run.stderr.contains("serving it through FUSE"), "{}", run.stderr);
    assert!(run.stderr.contains("fuse/small: Permission denied"), "{}", run.stderr);
    drop(run.done());
}
