//! Why two images have different digests: every path and field in which their trees differ.
//!
//! A digest covers everything that an image holds, so one nanosecond in the time of one directory changes it. [`diff`]
//! names what is different; [`Causes`] says what that usually comes from. Only what both sides know is compared: see
//! [`DiffOptions`].

mod causes;
mod change;
mod leaves;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

pub use causes::{Cause, Causes, Only};
pub use change::{Change, FileKind, Time};

use crate::tree::{Directory, Entry, Leaf, LeafId, Stat, Tree};
use leaves::{Links, content_changes};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffOptions {
    /// Nanoseconds of times. Images of version 2 have none.
    pub nanoseconds: bool,
}

impl Default for DiffOptions {
    /// Everything.
    fn default() -> Self {
        Self { nanoseconds: true }
    }
}

/// One field of one file that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Absolute path.
    pub path: Vec<u8>,
    /// Whether it is a directory, on the side that has it or on both.
    pub directory: bool,
    /// What differs.
    pub change: Change,
}

/// The result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// All differences, depth-first in byte order of names.
    pub differences: Vec<Difference>,
    /// How many files were compared, directories included.
    pub compared: usize,
    /// How many files have contents that cannot be compared: their digests are of different algorithms.
    pub incomparable: usize,
}

impl Diff {
    /// Whether nothing differs, as far as it can be compared.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Compares two trees.
pub fn diff(left: &Tree, right: &Tree, options: &DiffOptions) -> Diff {
    let mut walk = Walk {
        left,
        right,
        options,
        left_links: Links::new(left, right),
        right_links: Links::new(right, left),
        result: Diff::default(),
    };
    walk.run();
    walk.result
}

struct Walk<'t> {
    left: &'t Tree,
    right: &'t Tree,
    options: &'t DiffOptions,
    left_links: Links,
    right_links: Links,
    result: Diff,
}

/// A pair of directories on the way, and the next names in each.
type Level<'t> = (usize, Entries<'t>, Entries<'t>);
type Entries<'t> = std::iter::Peekable<std::collections::btree_map::Iter<'t, Box<[u8]>, Entry>>;

impl<'t> Walk<'t> {
    fn add(&mut self, path: &[u8], directory: bool, change: Change) {
        let path = if path.is_empty() { b"/".to_vec() } else { path.to_vec() };
        self.result.differences.push(Difference { path, directory, change });
    }

    fn run(&mut self) {
        let (left, right) = (self.left, self.right);
        self.result.compared += 1;
        self.stat(b"", true, &left.root.stat, &right.root.stat);
        let mut path = Vec::new();
        let mut open: Vec<Level<'t>> =
            vec![(0, left.root.entries.iter().peekable(), right.root.entries.iter().peekable())];
        while let Some((path_len, lefts, rights)) = open.last_mut() {
            path.truncate(*path_len);
            let order = match (lefts.peek(), rights.peek()) {
                (Some((left, _)), Some((right, _))) => left.cmp(right),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => {
                    open.pop();
                    continue;
                }
            };
            let one = if order.is_le() { lefts.next() } else { None };
            let other = if order.is_ge() { rights.next() } else { None };
            let Some((name, _)) = one.or(other) else { continue };
            path.push(b'/');
            path.extend_from_slice(name);
            match (one, other) {
                (Some((_, Entry::Directory(left))), Some((_, Entry::Directory(right)))) => {
                    self.result.compared += 1;
                    self.stat(&path, true, &left.stat, &right.stat);
                    open.push((path.len(), left.entries.iter().peekable(), right.entries.iter().peekable()));
                }
                (Some((_, Entry::Leaf(left))), Some((_, Entry::Leaf(right)))) => {
                    self.result.compared += 1;
                    self.leaf(&path, *left, *right);
                }
                (Some((_, left)), Some((_, right))) => {
                    let change = Change::Kind { left: self.kind(left, true), right: self.kind(right, false) };
                    self.add(&path, false, change);
                    self.below(&path, left, true);
                    self.below(&path, right, false);
                }
                (Some((_, entry)), None) => self.missing(&path, entry, true),
                (None, Some((_, entry))) => self.missing(&path, entry, false),
                (None, None) => {}
            }
        }
    }

    fn kind(&self, entry: &Entry, on_left: bool) -> FileKind {
        match entry {
            Entry::Directory(_) => FileKind::Directory,
            Entry::Leaf(id) => FileKind::of(&(if on_left { self.left } else { self.right }).leaf(*id).kind),
        }
    }

    /// Reports a path that only one side has, and all paths below it.
    fn missing(&mut self, path: &[u8], entry: &'t Entry, on_left: bool) {
        let kind = self.kind(entry, on_left);
        let change = if on_left { Change::OnlyLeft(kind) } else { Change::OnlyRight(kind) };
        self.add(path, kind == FileKind::Directory, change);
        self.below(path, entry, on_left);
    }

    fn below(&mut self, path: &[u8], entry: &'t Entry, on_left: bool) {
        let Entry::Directory(directory) = entry else { return };
        let mut path = path.to_vec();
        let mut open = vec![(path.len(), directory.entries.iter())];
        while let Some((path_len, entries)) = open.last_mut() {
            path.truncate(*path_len);
            let Some((name, entry)) = entries.next() else {
                open.pop();
                continue;
            };
            path.push(b'/');
            path.extend_from_slice(name);
            let kind = self.kind(entry, on_left);
            let change = if on_left { Change::OnlyLeft(kind) } else { Change::OnlyRight(kind) };
            self.add(&path, kind == FileKind::Directory, change);
            if let Entry::Directory(Directory { entries, .. }) = entry {
                open.push((path.len(), entries.iter()));
            }
        }
    }

    fn stat(&mut self, path: &[u8], directory: bool, left: &Stat, right: &Stat) {
        if left.mode != right.mode {
            self.add(path, directory, Change::Mode { left: left.mode, right: right.mode });
        }
        if left.uid != right.uid {
            self.add(path, directory, Change::Uid { left: left.uid, right: right.uid });
        }
        if left.gid != right.gid {
            self.add(path, directory, Change::Gid { left: left.gid, right: right.gid });
        }
        let time = |stat: &Stat| Time {
            secs: stat.mtime_secs,
            nanos: if self.options.nanoseconds { stat.mtime_nanos } else { 0 },
        };
        if time(left) != time(right) {
            self.add(path, directory, Change::Mtime { left: time(left), right: time(right) });
        }
        let mut names: Vec<_> = left.xattrs.keys().chain(right.xattrs.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (left, right) = (left.xattrs.get(name), right.xattrs.get(name));
            if left != right {
                let (left, right) = (left.cloned(), right.cloned());
                self.add(path, directory, Change::Xattr { name: name.clone(), left, right });
            }
        }
    }

    fn leaf(&mut self, path: &[u8], left_id: LeafId, right_id: LeafId) {
        let (left, right) = (self.left.leaf(left_id), self.right.leaf(right_id));
        let (left_first, right_first) = (self.left_links.other(left_id, path), self.right_links.other(right_id, path));
        if left_first != right_first {
            let (left, right) = (left_first.map(<[u8]>::to_vec), right_first.map(<[u8]>::to_vec));
            self.add(path, false, Change::HardLink { left, right });
        } else if left_first.is_some() {
            // The same file as that of an earlier path, on both sides: all else was said there.
            return;
        }
        let (left_kind, right_kind) = (FileKind::of(&left.kind), FileKind::of(&right.kind));
        if left_kind != right_kind {
            self.add(path, false, Change::Kind { left: left_kind, right: right_kind });
        }
        self.stat(path, false, &left.stat, &right.stat);
        if left_kind == right_kind {
            let mut changes = Vec::new();
            if content_changes(&left.kind, &right.kind, &mut changes) {
                self.result.incomparable += 1;
            }
            for change in changes {
                self.add(path, false, change);
            }
        }
        self.stated(path, left_id, left, right_id, right);
    }

    /// What only dumpfiles and images made from them have.
    fn stated(&mut self, path: &[u8], left_id: LeafId, left: &Leaf, right_id: LeafId, right: &Leaf) {
        let nlink = |leaf: &Leaf, links: &Links, id| leaf.stated_nlink.unwrap_or_else(|| links.count(id));
        let stated = left.stated_nlink.is_some() || right.stated_nlink.is_some();
        let counts = (nlink(left, &self.left_links, left_id), nlink(right, &self.right_links, right_id));
        if stated && counts.0 != counts.1 {
            self.add(path, false, Change::LinkCount { left: counts.0, right: counts.1 });
        }
        if left.primary_path != right.primary_path {
            let (left, right) = (left.primary_path.as_deref(), right.primary_path.as_deref());
            let change = Change::PrimaryName { left: left.map(<[u8]>::to_vec), right: right.map(<[u8]>::to_vec) };
            self.add(path, false, change);
        }
    }
}
