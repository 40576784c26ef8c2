//! Going through the files of a tree.

use osupdate_core::tree::{Directory, Entry, Leaf, Stat, Tree};

/// A file or directory.
#[derive(Clone, Copy)]
pub(super) enum Node<'t> {
    Directory(&'t Directory),
    Leaf(&'t Leaf),
}

impl<'t> Node<'t> {
    pub(super) fn of(tree: &'t Tree, entry: &'t Entry) -> Self {
        match entry {
            Entry::Directory(directory) => Self::Directory(directory),
            Entry::Leaf(id) => Self::Leaf(tree.leaf(*id)),
        }
    }

    pub(super) fn stat(self) -> &'t Stat {
        match self {
            Self::Directory(directory) => &directory.stat,
            Self::Leaf(leaf) => &leaf.stat,
        }
    }
}

/// Calls `visit` for everything below a directory, given by its path without a slash at the beginning; parents come first, names
/// in byte order. What is in a directory is left out if `visit` says false.
pub(super) fn walk<'t>(tree: &'t Tree, path: &str, visit: &mut dyn FnMut(&[u8], Node<'t>) -> bool) {
    let Some(directory) = tree.directory(path) else { return };
    let mut path = path.as_bytes().to_vec();
    below(tree, directory, &mut path, visit);
}

fn below<'t>(
    tree: &'t Tree,
    directory: &'t Directory,
    path: &mut Vec<u8>,
    visit: &mut dyn FnMut(&[u8], Node<'t>) -> bool,
) {
    for (name, entry) in &directory.entries {
        let len = path.len();
        if len > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let node = Node::of(tree, entry);
        if let (true, Node::Directory(child)) = (visit(path, node), node) {
            below(tree, child, path, visit);
        }
        path.truncate(len);
    }
}

/// How many files, of all kinds but directories, are in a directory and below it.
pub(super) fn count_files(directory: &Directory) -> usize {
    let counts = directory.entries.values().map(|entry| match entry {
        Entry::Directory(child) => count_files(child),
        Entry::Leaf(_) => 1,
    });
    counts.sum()
}

/// A path for people and programs: absolute, bytes that are not UTF-8 as `\xNN`.
pub(super) fn text(path: &[u8]) -> String {
    let mut text = String::from("/");
    for chunk in path.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}
