//! Conflicts in /etc: files that were changed on this machine and that an update changes, too.
//!
//! The local changes are the upper layer of an overlay, and are carried to the next deployment as they are. Whatever is in
//! it hides what the image has at the same path; nobody notices unless the image's file has changed meanwhile.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use osupdate_core::tree::{Directory, Entry, Stat, Tree};
use rustix::fs::lgetxattr;

/// Says that a directory of the upper layer hides the one below it; the value is `y`.
const OPAQUE: &str = "trusted.overlay.opaque";

/// The paths in conflict, with `/etc` in front, in order. `upper` are the changes that were made to the files of `running`.
///
/// Times are not compared: an image that is built again has others.
pub fn find(upper: &Path, running: &Tree, update: &Tree) -> io::Result<Vec<String>> {
    let (old, new) = (running.directory("etc"), update.directory("etc"));
    let mut found = Vec::new();
    walk(upper, |path, metadata| {
        let before = old.and_then(|etc| lookup(etc, path));
        let after = new.and_then(|etc| lookup(etc, path));
        let opaque = metadata.is_dir() && is_opaque(&upper.join(path));
        // Any other directory is merged with that of the image, unless that is none.
        let hides = !metadata.is_dir() || opaque || matches!(after, Some(Entry::Leaf(_)));
        if hides && !same((running, before), (update, after)) {
            found.push(Path::new("/etc").join(path).to_string_lossy().into_owned());
        }
        !opaque
    })?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// What a copy of a directory with all that is in it takes up.
pub(crate) fn allocated_bytes(directory: &Path) -> io::Result<u64> {
    const BLOCK_BYTES: u64 = 512;
    let mut blocks = fs::symlink_metadata(directory)?.blocks();
    walk(directory, |_, metadata| {
        blocks += metadata.blocks();
        true
    })?;
    Ok(blocks * BLOCK_BYTES)
}

/// Visits everything below a directory, with its path from there. A directory is entered if the visitor says so.
fn walk(directory: &Path, mut visit: impl FnMut(&Path, &fs::Metadata) -> bool) -> io::Result<()> {
    let mut open = vec![PathBuf::new()];
    while let Some(parent) = open.pop() {
        for entry in fs::read_dir(directory.join(&parent))? {
            let entry = entry?;
            let path = parent.join(entry.file_name());
            let metadata = entry.metadata()?;
            if visit(&path, &metadata) && metadata.is_dir() {
                open.push(path);
            }
        }
    }
    Ok(())
}

/// The entry at a path below a directory.
fn lookup<'a>(mut directory: &'a Directory, path: &Path) -> Option<&'a Entry> {
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        let entry = directory.entries.get(name.as_bytes())?;
        match entry {
            _ if names.peek().is_none() => return Some(entry),
            Entry::Directory(child) => directory = child,
            Entry::Leaf(_) => return None,
        }
    }
    None
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0; 2];
    matches!(lgetxattr(directory, OPAQUE, &mut value[..]), Ok(1) if value[0] == b'y')
}

/// Whether two entries are the same to those who use them.
fn same(old: (&Tree, Option<&Entry>), new: (&Tree, Option<&Entry>)) -> bool {
    match (old.1, new.1) {
        (None, None) => true,
        (Some(Entry::Leaf(before)), Some(Entry::Leaf(after))) => {
            let (before, after) = (old.0.leaf(*before), new.0.leaf(*after));
            same_stat(&before.stat, &after.stat) && before.kind == after.kind
        }
        (Some(Entry::Directory(before)), Some(Entry::Directory(after))) => {
            same_stat(&before.stat, &after.stat)
                && before.entries.len() == after.entries.len()
                && before
                    .entries
                    .iter()
                    .all(|(name, entry)| same((old.0, Some(entry)), (new.0, after.entries.get(name))))
        }
        _ => false,
    }
}

fn same_stat(old: &Stat, new: &Stat) -> bool {
    (old.mode, old.uid, old.gid, &old.xattrs) == (new.mode, new.uid, new.gid, &new.xattrs)
}

#[cfg(test)]
mod tests {
    use osupdate_core::tree::{Content, Leaf, LeafKind};

    use super::*;

    /// A tree with these files in /etc; all of their directories have the same metadata.
    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, contents) in files {
            let content = Content::Inline(contents.as_bytes().into());
            let leaf = tree.push_leaf(Leaf::new(Stat::default(), LeafKind::Regular(content)));
            let mut directory = &mut tree.root;
            let path = format!("etc/{path}");
            let (parents, name) = path.rsplit_once('/').unwrap();
            for parent in parents.split('/') {
                let entry = directory.entries.entry(parent.as_bytes().into());
                let Entry::Directory(child) = entry.or_insert_with(|| Entry::Directory(Directory::default())) else {
                    panic!("{parent} is a file");
                };
                directory = child;
            }
            directory.entries.insert(name.as_bytes().into(), Entry::Leaf(leaf));
        }
        tree
    }

    #[test]
    fn what_both_have_changed_is_in_conflict() {
        let upper = tempfile::tempdir().unwrap();
        let path = |name: &str| upper.path().join(name);
        for directory in ["ssh", "app", "new"] {
            fs::create_dir(path(directory)).unwrap();
        }
        for file in ["hosts", "kept", "ssh/config", "gone", "local", "appeared", "app/x"] {
            fs::write(path(file), "changed here").unwrap();
        }
        let running = tree(&[
            ("hosts", "1"),
            ("kept", "1"),
            ("ssh/config", "1"),
            ("ssh/other", "1"),
            ("gone", "1"),
            ("app/y", ""),
        ]);
        let update = tree(&[
            ("hosts", "2"),
            ("kept", "1"),
            ("ssh/config", "2"),
            ("ssh/other", "2"),
            ("appeared", "1"),
            ("app", ""),
        ]);
        let found = find(upper.path(), &running, &update).unwrap();
        assert_eq!(found, ["/etc/app", "/etc/appeared", "/etc/gone", "/etc/hosts", "/etc/ssh/config"]);
        assert_eq!(find(upper.path(), &running, &running).unwrap(), [""; 0]);
    }

    #[test]
    fn times_are_no_change() {
        let upper = tempfile::tempdir().unwrap();
        fs::write(upper.path().join("hosts"), "changed here").unwrap();
        let running = tree(&[("hosts", "1")]);
        let mut update = running.clone();
        update.leaves[0].stat.mtime_secs = 7;
        assert_eq!(find(upper.path(), &running, &update).unwrap(), [""; 0]);
        update.leaves[0].stat.mode = 0o600;
        assert_eq!(find(upper.path(), &running, &update).unwrap(), ["/etc/hosts"]);
    }
}
