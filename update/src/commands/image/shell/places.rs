//! Places of the image that are the machine's when it runs.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Context as _;
use osupdate_core::tree::{Content, Directory, Entry, Leaf, LeafKind, Stat, Tree};
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

/// Those without which programs do not work, then those where they write.
const NEEDED: [&str; 2] = ["proc", "dev"];
const WRITABLE: [&str; 3] = ["tmp", "run", "var/tmp"];
/// How many user namespaces there may be within that of the process that asks.
const NAMESPACES_MAX: &str = "sys/user/max_user_namespaces";
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Makes a directory of each place in the tree; returns those to mount something on. A link in place of one for writing, or
/// in the way to it, stays: it leads into the image, perhaps to another of them.
pub(super) fn prepare(tree: &mut Tree) -> Vec<&'static str> {
    let needed = NEEDED.into_iter().filter(|place| make_directory(&mut tree.root, place, true));
    let mut places: Vec<_> = needed.collect();
    places.extend(WRITABLE.into_iter().filter(|place| make_directory(&mut tree.root, place, false)));
    places
}

fn make_directory(root: &mut Directory, path: &str, replace: bool) -> bool {
    let mut directory = root;
    for name in path.split('/') {
        let new =
            || Entry::Directory(Directory { stat: Stat { mode: 0o755, ..Stat::default() }, ..Directory::default() });
        let entry = directory.entries.entry(name.as_bytes().into()).or_insert_with(new);
        if replace && matches!(entry, Entry::Leaf(_)) {
            *entry = new();
        }
        match entry {
            Entry::Directory(child) => directory = child,
            Entry::Leaf(_) => return false,
        }
    }
    true
}

/// Puts a file into the tree, in place of what is there; not if its directory is not there.
pub(super) fn put_file(tree: &mut Tree, path: &str, contents: Vec<u8>) {
    let stat = Stat { mode: 0o644, ..Stat::default() };
    let leaf = tree.push_leaf(Leaf::new(stat, LeafKind::Regular(Content::Inline(contents.into()))));
    let mut names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
    let Some(name) = names.pop() else { return };
    let mut directory = &mut tree.root;
    for name in names {
        match directory.entries.get_mut(name.as_bytes()) {
            Some(Entry::Directory(child)) => directory = child,
            _ => return,
        }
    }
    directory.entries.insert(name.as_bytes().into(), Entry::Leaf(leaf));
}

/// Mounts what belongs to a place.
pub(super) fn fill(root: &Path, place: &str) -> anyhow::Result<()> {
    let directory = root.join(place);
    let doing = || format!("cannot make /{place}");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let tmpfs = |mode| mount("tmpfs", &directory, "tmpfs", flags, mode);
    match place {
        "proc" => {
            let flags = flags | MountFlags::NOEXEC;
            mount("proc", &directory, "proc", flags, None).with_context(doing)?;
            // In a user namespace within this one the command would have capabilities again.
            fs::write(directory.join(NAMESPACES_MAX), "0").context("cannot keep the command from user namespaces")?;
            // Read-only: what is there for root of the machine may be for root here, too.
            mount_remount(&directory, MountFlags::BIND | flags | MountFlags::RDONLY, "").with_context(doing)
        }
        "dev" => {
            let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
            mount("tmpfs", &directory, "tmpfs", flags, c"mode=755,size=1m").with_context(doing)?;
            fill_dev(&directory).with_context(doing)
        }
        "run" => tmpfs(c"mode=755").with_context(doing),
        _ => tmpfs(c"mode=1777").with_context(doing),
    }
}

fn fill_dev(directory: &Path) -> io::Result<()> {
    for name in DEVICES {
        let (host, here) = (Path::new("/dev").join(name), directory.join(name));
        File::create(&here)?;
        // Not all machines have a terminal.
        if host.exists() {
            mount_bind(&host, &here)?;
        }
    }
    // Programs ask for the name of their terminal, which the image has not.
    let (terminal, console) = (fs::read_link("/proc/self/fd/0")?, directory.join("console"));
    if io::stdin().is_terminal() && terminal.exists() {
        File::create(&console)?;
        mount_bind(&terminal, &console)?;
    }
    for (name, target) in LINKS {
        symlink(target, directory.join(name))?;
    }
    let (terminals, shared) = (directory.join("pts"), directory.join("shm"));
    fs::create_dir(&terminals)?;
    fs::create_dir(&shared)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", &terminals, "devpts", flags, c"newinstance,ptmxmode=0666,mode=620")?;
    Ok(mount("tmpfs", &shared, "tmpfs", flags | MountFlags::NODEV, c"mode=1777")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_become_directories_unless_a_link_leads_elsewhere() {
        let mut tree = Tree::default();
        let link = tree.push_leaf(Leaf::new(Stat::default(), LeafKind::Symlink(b"var/tmp"[..].into())));
        for name in [&b"tmp"[..], b"proc"] {
            tree.root.entries.insert(name.into(), Entry::Leaf(link));
        }
        assert_eq!(prepare(&mut tree), ["proc", "dev", "run", "var/tmp"]);
        assert!(tree.directory("proc").is_some() && tree.directory("var/tmp").is_some());
        assert_eq!(tree.lookup("tmp"), Some(&Entry::Leaf(link)));
        put_file(&mut tree, "/etc/resolv.conf", b"text".to_vec());
        assert_eq!(tree.lookup("etc/resolv.conf"), None);
        put_file(&mut tree, "/run/resolv.conf", b"text".to_vec());
        assert_eq!(tree.regular_file("run/resolv.conf"), Some(&Content::Inline(b"text"[..].into())));
    }
}
