use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, makedev};

use super::*;

/// Directories to copy from and to. `None` without root, which devices, owners and trusted attributes need.
fn directories() -> Option<(tempfile::TempDir, PathBuf, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, parent) = (dir.path().join("source"), dir.path().join("parent"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&parent).unwrap();
    Some((dir, source, parent))
}

fn copy(source: &Path, parent: &Path) -> Result<PathBuf> {
    let (source, to) = (open_directory(CWD, source)?, open_directory(CWD, parent)?);
    copy_directory(source.as_fd(), to.as_fd(), "copy")?;
    Ok(parent.join("copy"))
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// All attributes of the kinds that a test sets.
fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = list_xattrs(path)
        .unwrap()
        .into_iter()
        .map(|name| (name.to_str().unwrap().to_owned(), get_xattr(path, &name).unwrap()))
        .collect();
    all.sort();
    all
}

fn set_times(path: &Path, secs: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn contents_and_metadata_are_the_same() {
    let Some((_dir, source, parent)) = directories() else { return };
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/empty"), "").unwrap();
    let large: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(source.join("a/large"), &large).unwrap();
    fs::write(source.join("a/suid"), "x").unwrap();
    std::os::unix::fs::chown(source.join("a/suid"), Some(12), Some(34)).unwrap();
    fs::set_permissions(source.join("a/suid"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::set_permissions(source.join("a"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&source, Some(5), Some(6)).unwrap();
    let all = ["a/b/empty", "a/large", "a/suid", "a/b", "a", ""];
    for (i, name) in all.iter().enumerate() {
        set_times(&source.join(name), 1_000_000 * (i as i64 + 1));
    }

    let copy = copy(&source, &parent).unwrap();
    assert_eq!(fs::read(copy.join("a/large")).unwrap(), large);
    assert_eq!(fs::read(copy.join("a/b/empty")).unwrap(), b"");
    for name in all {
        let (from, to) = (fs::metadata(source.join(name)).unwrap(), fs::metadata(copy.join(name)).unwrap());
        let facts = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.len(), m.mtime(), m.mtime_nsec());
        let (mut from, mut to) = (facts(&from), facts(&to));
        if to.0 & 0o170_000 == 0o040_000 {
            // The size of a directory is the file system's business.
            (from.3, to.3) = (0, 0);
        }
        assert_eq!(to, from, "{name}");
    }
}

#[test]
fn names_and_link_targets_need_not_be_utf8() {
    let Some((_dir, source, parent)) = directories() else { return };
    let name = OsStr::from_bytes(b"caf\xe9 \n");
    fs::write(source.join(name), "x").unwrap();
    symlink(OsStr::from_bytes(b"/gone/\xff"), source.join("link")).unwrap();
    set_times(&source.join("link"), 77);
    std::os::unix::fs::lchown(source.join("link"), Some(3), Some(4)).unwrap();

    let copy = copy(&source, &parent).unwrap();
    assert_eq!(fs::read(copy.join(name)).unwrap(), b"x");
    assert_eq!(fs::read_link(copy.join("link")).unwrap().as_os_str().as_bytes(), b"/gone/\xff");
    let link = fs::symlink_metadata(copy.join("link")).unwrap();
    assert_eq!((link.uid(), link.gid(), link.mtime()), (3, 4, 77));
}

#[test]
fn whiteouts_devices_pipes_and_sockets_are_kept() {
    let Some((_dir, source, parent)) = directories() else { return };
    let mknod = |name: &str, kind, device| {
        mknodat(CWD, source.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    mknod("whiteout", FileType::CharacterDevice, 0);
    mknod("null", FileType::CharacterDevice, makedev(1, 3));
    mknod("block", FileType::BlockDevice, makedev(7, 200));
    mknod("fifo", FileType::Fifo, 0);
    drop(UnixListener::bind(source.join("socket")).unwrap());

    let copy = copy(&source, &parent).unwrap();
    let facts = |name: &str| {
        let metadata = fs::symlink_metadata(copy.join(name)).unwrap();
        (metadata.file_type(), metadata.rdev(), metadata.mode() & 0o7777)
    };
    assert!(facts("whiteout").0.is_char_device());
    assert_eq!(facts("whiteout").1, 0);
    assert_eq!((facts("null").1, facts("null").2), (makedev(1, 3), 0o640));
    assert!(facts("block").0.is_block_device());
    assert_eq!(facts("block").1, makedev(7, 200));
    assert!(facts("fifo").0.is_fifo());
    assert!(facts("socket").0.is_socket());
}

#[test]
fn hard_links_stay_hard_links_across_directories() {
    let Some((_dir, source, parent)) = directories() else { return };
    fs::create_dir_all(source.join("x/y")).unwrap();
    fs::write(source.join("one"), "shared").unwrap();
    fs::hard_link(source.join("one"), source.join("x/y/two")).unwrap();
    fs::hard_link(source.join("one"), source.join("x/three")).unwrap();
    // The kernel links all whiteouts of an overlay to one inode.
    mknodat(CWD, source.join("w1"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    fs::hard_link(source.join("w1"), source.join("x/w2")).unwrap();
    // A link to a name outside of what is copied.
    fs::write(parent.join("outside"), "o").unwrap();
    fs::hard_link(parent.join("outside"), source.join("inside")).unwrap();

    let copy = copy(&source, &parent).unwrap();
    let inode = |name: &str| fs::symlink_metadata(copy.join(name)).unwrap().ino();
    assert_eq!(inode("one"), inode("x/y/two"));
    assert_eq!(inode("one"), inode("x/three"));
    assert_eq!(inode("w1"), inode("x/w2"));
    assert_ne!(inode("one"), fs::metadata(source.join("one")).unwrap().ino());
    assert_eq!(fs::metadata(copy.join("inside")).unwrap().nlink(), 1);
    assert_eq!(fs::read(copy.join("x/y/two")).unwrap(), b"shared");
}

#[test]
fn attributes_are_kept_but_those_of_the_old_overlay() {
    let Some((_dir, source, parent)) = directories() else { return };
    fs::create_dir(source.join("dir")).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    symlink("file", source.join("link")).unwrap();
    mknodat(CWD, source.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    set_xattr(&source, "trusted.overlay.impure", b"y");
    set_xattr(&source, "trusted.overlay.uuid", b"0123456789abcdef");
    for (name, value) in [
        ("trusted.overlay.opaque", &b"y"[..]),
        ("trusted.overlay.origin", b"\x00\xfb\x1d"),
        ("trusted.overlay.redirect", b"/else"),
        ("trusted.overlay.overlay.opaque", b"y"),
        ("trusted.mine", b""),
        ("security.selinux", b"system_u:object_r:etc_t:s0\0"),
    ] {
        set_xattr(&source.join("dir"), name, value);
    }
    // A capability, cap_net_raw=ep: lost if the owner were set after it.
    let capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    set_xattr(&source.join("file"), "security.capability", capability);
    set_xattr(&source.join("file"), "trusted.overlay.protattr", b"i");
    set_xattr(&source.join("file"), "trusted.overlay.metacopy", b"");
    set_xattr(&source.join("link"), "security.selinux", b"link\0");
    set_xattr(&source.join("fifo"), "trusted.mine", b"fifo");

    let copy = copy(&source, &parent).unwrap();
    let owned =
        |list: &[(&str, &[u8])]| -> Vec<_> { list.iter().map(|(n, v)| ((*n).to_owned(), v.to_vec())).collect() };
    assert_eq!(xattrs(&copy), []);
    assert_eq!(
        xattrs(&copy.join("dir")),
        owned(&[
            ("security.selinux", b"system_u:object_r:etc_t:s0\0"),
            ("trusted.mine", b""),
            ("trusted.overlay.opaque", b"y"),
            ("trusted.overlay.overlay.opaque", b"y"),
        ])
    );
    assert_eq!(
        xattrs(&copy.join("file")),
        owned(&[("security.capability", capability), ("trusted.overlay.protattr", b"i")])
    );
    assert_eq!(xattrs(&copy.join("link")), owned(&[("security.selinux", b"link\0")]));
    assert_eq!(xattrs(&copy.join("fifo")), owned(&[("trusted.mine", b"fifo")]));
}

#[test]
fn default_acls_are_copied_and_not_applied() {
    let Some((_dir, source, parent)) = directories() else { return };
    // Version 2; user::rwx, user:1234:rwx, group::---, mask::rwx, other::---.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions, id) in
        [(1_u16, 7_u16, u32::MAX), (2, 7, 1234), (4, 0, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)]
    {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    fs::create_dir(source.join("dir")).unwrap();
    fs::write(source.join("dir/plain"), "x").unwrap();
    fs::set_permissions(source.join("dir/plain"), fs::Permissions::from_mode(0o604)).unwrap();
    if lsetxattr(source.join("dir"), "system.posix_acl_default", &acl, XattrFlags::empty()) == Err(Errno::OPNOTSUPP) {
        eprintln!("skipped: the file system has no ACLs");
        return;
    }
    let copy = copy(&source, &parent).unwrap();
    assert_eq!(xattrs(&copy.join("dir")), [("system.posix_acl_default".to_owned(), acl)]);
    assert_eq!(xattrs(&copy.join("dir/plain")), []);
    assert_eq!(fs::metadata(copy.join("dir/plain")).unwrap().mode() & 0o7777, 0o604);
}

#[test]
fn holes_stay_holes() {
    let Some((_dir, source, parent)) = directories() else { return };
    let file = File::create(source.join("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"middle", 32 << 20).unwrap();
    let hole = File::create(source.join("hole")).unwrap();
    hole.set_len((8 << 20) + 1).unwrap();

    let copy = copy(&source, &parent).unwrap();
    let metadata = fs::metadata(copy.join("sparse")).unwrap();
    assert_eq!(metadata.len(), 64 << 20);
    assert!(metadata.blocks() < 2048, "{} blocks", metadata.blocks());
    assert!(fs::read(copy.join("sparse")).unwrap() == fs::read(source.join("sparse")).unwrap());
    assert_eq!(fs::metadata(copy.join("hole")).unwrap().len(), (8 << 20) + 1);
}

#[test]
fn failures_name_the_path_and_existing_copies_are_refused() {
    let Some((_dir, source, parent)) = directories() else { return };
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/file"), "x").unwrap();
    copy(&source, &parent).unwrap();
    let message = format!("{:#}", copy(&source, &parent).unwrap_err());
    assert!(message.contains("cannot create \"copy\""), "{message}");
}
