//! System calls on an image that is served through FUSE: each ends as on the kernel's mount.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Mode, OFlags, RawDir, SeekFrom, Timespec, Timestamps, XattrFlags, chownat, lgetxattr,
    lremovexattr, lsetxattr, mkdirat, mknodat, open, readlink, seek, statvfs, utimensat,
};
use rustix::io::Errno;

use crate::docker_registry::have;
use crate::fuse::{MANY, Server, can_mount, place};
use crate::place::{Place, Run};

const ACL: &str = "system.posix_acl_access";
const LABEL: &str = "security.selinux";
/// Nobody else may read, but the user 65534 may: version 2, then tag, permissions and user of each entry.
const ACL_VALUE: [[u16; 4]; 5] = [
    [1, 6, 0xffff, 0xffff],
    [2, 4, 65534, 0],
    [4, 0, 0xffff, 0xffff],
    [16, 4, 0xffff, 0xffff],
    [32, 0, 0xffff, 0xffff],
];

/// The image of the other tests, with odd names and an ACL, mounted in `kernel` and in `fuse`.
struct Mounted(Place);

impl Mounted {
    fn new() -> Self {
        let place = place();
        let tree = place.path().join("tree");
        fs::write(tree.join("n".repeat(255)), "long").unwrap();
        symlink("loop", tree.join("loop")).unwrap();
        symlink("x/".repeat(2047) + "x", tree.join("far")).unwrap();
        fs::write(tree.join("shared"), "by an ACL").unwrap();
        let acl: Vec<u8> = 2_u32
            .to_le_bytes()
            .into_iter()
            .chain(ACL_VALUE.iter().flatten().flat_map(|part| part.to_le_bytes()))
            .collect();
        lsetxattr(tree.join("shared"), ACL, &acl, XattrFlags::empty()).unwrap();
        lsetxattr(tree.join("shared"), LABEL, b"label", XattrFlags::empty()).unwrap();
        fs::copy("/bin/true", tree.join("program")).unwrap();
        fs::set_permissions(tree.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
        drop(place.run(&["image", "create", "--no-transform", "tree", "calls"]).done());
        drop(place.run(&["image", "mount", "--fuse=never", "refs/calls", "kernel"]).done());
        drop(place.run(&["image", "mount", "--fuse", "refs/calls", "fuse"]).done());
        Self(place)
    }

    /// What a test finds in the kernel's mount and in ours.
    fn both<T>(&self, find: impl Fn(&Path) -> T) -> [T; 2] {
        ["kernel", "fuse"].map(|name| find(&self.0.path().join(name)))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for name in ["fuse", "kernel"] {
            let run = self.0.run(&["image", "unmount", name]);
            assert!(run.status == 0 || std::thread::panicking(), "{}", run.stderr);
        }
    }
}

fn errno<T>(result: Result<T, Errno>) -> Errno {
    result.err().unwrap_or(Errno::from_raw_os_error(1))
}

fn io_errno<T>(result: std::io::Result<T>) -> Errno {
    Errno::from_io_error(&result.err().unwrap()).unwrap()
}

#[test]
fn every_call_that_changes_something_is_refused() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let changes = |root: &Path| {
        let (file, new, dir) = (root.join("small"), root.join("new"), root.join("many"));
        let mode = Mode::from_raw_mode(0o644);
        let now = Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = Timestamps { last_access: now, last_modification: now };
        let opened = |path: &Path, flags| errno(open(path, flags, mode));
        vec![
            ("write", opened(&file, OFlags::WRONLY)),
            ("read and write", opened(&file, OFlags::RDWR)),
            ("append", opened(&file, OFlags::WRONLY | OFlags::APPEND)),
            ("truncate on open", opened(&file, OFlags::RDWR | OFlags::TRUNC)),
            ("create", opened(&new, OFlags::WRONLY | OFlags::CREATE)),
            ("create what is there", opened(&file, OFlags::RDWR | OFlags::CREATE)),
            ("create and read", opened(&new, OFlags::RDONLY | OFlags::CREATE)),
            ("mkdir", errno(mkdirat(CWD, &new, mode))),
            ("mkfifo", errno(mknodat(CWD, &new, FileType::Fifo, mode, 0))),
            ("mknod", errno(mknodat(CWD, &new, FileType::CharacterDevice, mode, Dev::from(259_u64)))),
            ("bind", io_errno(UnixListener::bind(&new))),
            ("symlink", io_errno(symlink("x", &new))),
            ("link", io_errno(fs::hard_link(&file, &new))),
            ("unlink", io_errno(fs::remove_file(&file))),
            ("rmdir", io_errno(fs::remove_dir(&dir))),
            ("rename", io_errno(fs::rename(&file, &new))),
            ("rename over", io_errno(fs::rename(&file, root.join("large")))),
            ("rename directory", io_errno(fs::rename(&dir, &new))),
            ("chmod", io_errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))),
            ("chmod directory", io_errno(fs::set_permissions(root, fs::Permissions::from_mode(0o700)))),
            ("chown", io_errno(std::os::unix::fs::chown(&file, Some(1), Some(1)))),
            ("lchown", errno(chownat(CWD, root.join("symlink"), None, None, AtFlags::SYMLINK_NOFOLLOW))),
            ("utimes", errno(utimensat(CWD, &file, &times, AtFlags::empty()))),
            ("setxattr", errno(lsetxattr(&file, "user.new", b"x", XattrFlags::empty()))),
            ("removexattr", errno(lremovexattr(root.join("large"), "user.long"))),
            ("set ACL", errno(lsetxattr(&file, ACL, &2_u32.to_le_bytes(), XattrFlags::empty()))),
            ("access", errno(rustix::fs::access(&file, rustix::fs::Access::WRITE_OK))),
        ]
    };
    for refused in mounted.both(changes) {
        for (call, errno) in refused {
            assert_eq!(errno, Errno::ROFS, "{call}");
        }
    }
}

#[test]
fn odd_paths_and_reads_end_as_on_the_mount_of_the_kernel() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let paths = |root: &Path| {
        let flags = |name: &str, flags| errno(open(root.join(name), flags, Mode::empty()));
        [
            flags(&"n".repeat(256), OFlags::RDONLY),
            flags(&"x/".repeat(2100), OFlags::RDONLY),
            flags("loop", OFlags::RDONLY),
            flags("symlink", OFlags::NOFOLLOW),
            flags("small/x", OFlags::RDONLY),
            flags("small", OFlags::DIRECTORY),
            flags("symlink/", OFlags::RDONLY),
            flags("many", OFlags::RDWR),
            flags("none/x", OFlags::RDONLY),
            flags("far", OFlags::RDONLY),
            errno(readlink(root.join("small"), Vec::new())),
            errno(lgetxattr(root.join("small"), "user.none", &mut [0_u8; 8])),
            errno(lgetxattr(root.join("large"), "user.long", &mut [0_u8; 8])),
        ]
    };
    let [kernel, fuse] = mounted.both(paths);
    use Errno as E;
    let expected = [
        E::NAMETOOLONG,
        E::NAMETOOLONG,
        E::LOOP,
        E::LOOP,
        E::NOTDIR,
        E::NOTDIR,
        E::NOTDIR,
        E::ISDIR,
        E::NOENT,
        E::NOENT,
        E::INVAL,
        E::NODATA,
        E::RANGE,
    ];
    assert_eq!((kernel, fuse), (expected, expected));
    let good = |root: &Path| {
        let long = fs::read(root.join("n".repeat(255))).unwrap();
        let far = readlink(root.join("far"), Vec::new()).unwrap().into_bytes();
        (long, far, Command::new(root.join("program")).status().unwrap().success())
    };
    let [kernel, fuse] = mounted.both(good);
    assert_eq!((fuse.0.as_slice(), fuse.1.len(), fuse.2), (&b"long"[..], 4095, true));
    assert_eq!(kernel, fuse);
    // Parts of a large file, of a small one that is in the image itself, and of an empty one.
    let reads = |root: &Path| {
        let mut found = Vec::new();
        for name in ["large", "small", "many/a-name-of-some-length-7"] {
            let file = File::open(root.join(name)).unwrap();
            let length = file.metadata().unwrap().len();
            let around = [0, 1, 4095, 4096, 131_071, 1 << 20, length.saturating_sub(1), length, length + 1, 1 << 40];
            for offset in around.into_iter().chain([i64::MAX as u64 - 8192]) {
                for size in [0, 1, 4097, 200_000] {
                    let mut buffer = vec![0; size];
                    let read = file.read_at(&mut buffer, offset).map_err(|error| error.raw_os_error());
                    found.push((offset, read, buffer));
                }
            }
            found.push((seek(&file, SeekFrom::End(0)).unwrap(), Ok(0), Vec::new()));
            found.push((seek(&file, SeekFrom::End(1)).unwrap(), Ok(0), Vec::new()));
            found.push((
                0,
                seek(&file, SeekFrom::Current(-i64::MAX)).map(|_| 0).map_err(|e| Some(e.raw_os_error())),
                Vec::new(),
            ));
        }
        found
    };
    let [kernel, fuse] = mounted.both(reads);
    assert!(kernel == fuse);
    let [kernel, fuse] = mounted.both(|root| statvfs(root).unwrap());
    assert_eq!((fuse.f_namemax, fuse.f_bfree, fuse.f_bavail, fuse.f_ffree), (255, 0, 0, 0));
    assert!(
        fuse.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
            && kernel.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
    );
    assert!(fuse.f_files > MANY as u64 && fuse.f_blocks * fuse.f_bsize > 3_000_000);
}

#[test]
fn a_large_directory_is_read_on_from_every_place_in_it() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let directory = open(mounted.0.path().join("fuse/many"), OFlags::DIRECTORY, Mode::empty()).unwrap();
    let read = |from: u64, most: usize| {
        seek(&directory, SeekFrom::Start(from)).unwrap();
        let mut buffer = [const { MaybeUninit::uninit() }; 2048];
        let mut entries = RawDir::new(&directory, &mut buffer);
        let mut found = Vec::new();
        while found.len() < most
            && let Some(entry) = entries.next()
        {
            let entry = entry.unwrap();
            found.push((entry.file_name().to_owned(), entry.next_entry_cookie()));
        }
        found
    };
    let all = read(0, usize::MAX);
    // With `.`, `..` and the second name of a file.
    assert_eq!(all.len(), MANY + 3);
    for at in [0, 1, 2, 3, 50, 51, MANY / 2, MANY, MANY + 1, MANY + 2] {
        assert_eq!(read(all[at].1, 100), all[at + 1..(at + 101).min(all.len())], "after {at}");
    }
    // Beyond the end there is nothing, and backwards everything again.
    assert_eq!(read(1 << 40, 10), []);
    assert!(read(0, usize::MAX) == all);
}

#[test]
fn programs_hear_once_that_an_image_has_no_labels_and_lists() {
    if !can_mount() {
        return;
    }
    let ask = |root: &Path, name| errno(lgetxattr(root.join("small"), name, &mut [0_u8; 100]));
    let with = Mounted::new();
    for name in [ACL, LABEL, "security.capability"] {
        assert_eq!(with.both(|root| ask(root, name)), [Errno::NODATA; 2], "{name}");
    }
    let without = place();
    let server = Server::start(&without);
    let root = without.path().join("fuse");
    assert_eq!([ACL, LABEL].map(|name| ask(&root, name)), [Errno::OPNOTSUPP; 2]);
    assert_eq!(ask(&root, "security.capability"), Errno::NODATA);
    drop(server.end(Signal::SIGTERM));
}

#[test]
fn acls_are_shown_and_obeyed() {
    if !can_mount() || !have(&["setpriv"]) {
        return;
    }
    let mounted = Mounted::new();
    let acl = |root: &Path| {
        let mut value = [0; 100];
        let length = lgetxattr(root.join("shared"), ACL, &mut value).unwrap();
        (value[..length].to_vec(), errno(lgetxattr(root.join("small"), ACL, &mut [0_u8; 100])))
    };
    let [kernel, fuse] = mounted.both(acl);
    assert_eq!((fuse.0.len(), fuse.1), (4 + 5 * 8, Errno::NODATA));
    assert_eq!(kernel, fuse);
    fs::set_permissions(mounted.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let read = |user: &str, root: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups", "cat"]).arg(root.join("shared"));
        Run::of(&mut command)
    };
    for run in mounted.both(|root| read("65534", root)) {
        assert_eq!(run.done(), "by an ACL");
    }
    for run in mounted.both(|root| read("65533", root)) {
        assert!(run.failed(1).contains("Permission denied"));
    }
}
