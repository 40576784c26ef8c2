//! The inodes of an image, in the order in which they are written, with everything that the tree does not have:
//! overlay attributes, whiteouts as files, stubs.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::layout::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK};
use super::xattr::{Value, Xattr};
use super::{Format, overlay, validate};
use crate::digest::Digest;
use crate::tree::{Content, Directory, Entry, Leaf, LeafId, LeafKind, Place, Stat, Tree};

/// What an inode's data is.
#[derive(Debug)]
pub(super) enum Data<'t> {
    /// All entries in byte order of names, `.` and `..` included.
    Directory(Vec<(&'t [u8], Target)>),
    /// Contents of a regular file, not empty.
    Bytes(&'t [u8]),
    /// Contents elsewhere.
    External {
        size: u64,
        digest_known: bool,
    },
    Symlink(&'t [u8]),
    Device(u32),
    /// Empty file, pipe or socket.
    None,
}

/// What a directory entry refers to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// Number of an inode.
    Inode(usize),
    /// A leaf, whose inode may come later.
    Leaf(LeafId),
}

#[derive(Debug)]
pub(super) struct Inode<'t> {
    pub(super) stat: &'t Stat,
    /// Type and permission bits.
    pub(super) mode: u16,
    pub(super) nlink: u32,
    /// In the order in which they are written.
    pub(super) xattrs: Vec<Xattr<'t>>,
    pub(super) data: Data<'t>,
    /// The extended form is wanted even if the compact one would do.
    pub(super) extended: bool,
}

/// All inodes of an image; the root is the first one.
#[derive(Debug)]
pub(super) struct Inodes<'t> {
    pub(super) list: Vec<Inode<'t>>,
    of_leaf: Vec<usize>,
}

impl Inodes<'_> {
    /// Number of the inode that an entry refers to.
    pub(super) fn number(&self, target: Target) -> usize {
        match target {
            Target::Inode(number) => number,
            Target::Leaf(id) => self.of_leaf[id.0],
        }
    }

    /// A path of the inode, for an error message. Slow.
    pub(super) fn path(&self, number: usize) -> String {
        let mut names = Vec::new();
        let mut child = number;
        while child != 0 {
            let parent = self.list.iter().enumerate().find_map(|(parent, inode)| {
                let Data::Directory(entries) = &inode.data else { return None };
                let real = entries.iter().filter(|(name, _)| !matches!(*name, b"." | b".."));
                Some((parent, real.into_iter().find(|(_, target)| self.number(*target) == child)?.0))
            });
            let Some((parent, name)) = parent else { break };
            names.push(name);
            child = parent;
        }
        validate::printable_path(names.into_iter().rev())
    }
}

/// Makes the inodes of a valid tree.
pub(super) fn collect(tree: &Tree, format: Format) -> Inodes<'_> {
    match format {
        Format::V0 | Format::V1 => breadth_first(tree, format),
        Format::V2 => depth_first(tree),
    }
}

/// What an entry is, before inodes are numbered.
enum Source<'t> {
    Entry(&'t Entry),
    /// `.`
    Itself,
    /// `..`
    Parent,
    Stub,
}

fn sorted_entries<'t>(directory: &'t Directory, stubs: bool) -> Vec<(&'t [u8], Source<'t>)> {
    let mut entries: Vec<(&[u8], Source<'_>)> = Vec::with_capacity(directory.entries.len() + 2);
    entries.push((b".", Source::Itself));
    entries.push((b"..", Source::Parent));
    entries.extend(directory.entries.iter().map(|(name, entry)| (&**name, Source::Entry(entry))));
    if stubs {
        let missing = overlay::STUB_NAMES.iter().filter(|name| !directory.entries.contains_key(&name[..]));
        entries.extend(missing.map(|name| (&name[..], Source::Stub)));
    }
    entries.sort_by_key(|(name, _)| *name);
    entries
}

/// Versions 0 and 1: all of one level before the next.
fn breadth_first(tree: &Tree, format: Format) -> Inodes<'_> {
    let names = tree.names();
    let mut of_leaf = vec![0; tree.leaves.len()];
    let mut list = vec![directory_inode(&tree.root)];
    let mut open = VecDeque::from([(0, 0, &tree.root)]);
    while let Some((number, parent, directory)) = open.pop_front() {
        let mut has_whiteout = false;
        let sources = sorted_entries(directory, number == 0);
        let mut entries = Vec::with_capacity(sources.len());
        for (name, source) in sources {
            let target = match source {
                Source::Itself => Target::Inode(number),
                Source::Parent => Target::Inode(parent),
                Source::Stub => {
                    list.push(stub_inode(&tree.root.stat));
                    Target::Inode(list.len() - 1)
                }
                Source::Entry(Entry::Directory(child)) => {
                    open.push_back((list.len(), number, child));
                    list.push(directory_inode(child));
                    Target::Inode(list.len() - 1)
                }
                Source::Entry(Entry::Leaf(id)) => {
                    let leaf = tree.leaf(*id);
                    let names = &names[id.0];
                    if names.primary(tree, *id, leaf) == Some(Place { directory, name }) {
                        of_leaf[id.0] = list.len();
                        list.push(leaf_inode(leaf, leaf.stated_nlink.unwrap_or(names.count)));
                        has_whiteout |= leaf.kind == LeafKind::CharDevice(0);
                    }
                    Target::Leaf(*id)
                }
            };
            entries.push((name, target));
        }
        let inode = &mut list[number];
        inode.nlink = 2 + entries_of_directories(directory);
        inode.data = Data::Directory(entries);
        if has_whiteout {
            overlay::WHITEOUTS.iter().for_each(|name| set(&mut inode.xattrs, name, b""));
            if format == Format::V1 {
                let value = overlay::WHITEOUTS_OPAQUE_VALUE;
                overlay::WHITEOUTS_OPAQUE.iter().for_each(|name| set(&mut inode.xattrs, name, value));
            }
        }
    }
    set(&mut list[0].xattrs, overlay::OPAQUE, overlay::OPAQUE_YES);
    for inode in &mut list {
        inode.xattrs.sort_unstable();
    }
    Inodes { list, of_leaf }
}

/// Version 2: each directory is followed by what is in it. Nothing is converted.
fn depth_first(tree: &Tree) -> Inodes<'_> {
    let names = tree.names();
    let mut of_leaf: Vec<Option<usize>> = vec![None; tree.leaves.len()];
    let mut list = vec![directory_inode(&tree.root)];
    let mut open = vec![(0, 0, &tree.root, sorted_entries(&tree.root, false).into_iter(), Vec::new())];
    while let Some((number, parent, directory, sources, entries)) = open.last_mut() {
        let Some((name, source)) = sources.next() else {
            let inode = &mut list[*number];
            inode.nlink = 2 + entries_of_directories(directory);
            inode.data = Data::Directory(std::mem::take(entries));
            open.pop();
            continue;
        };
        let next = list.len();
        match source {
            Source::Itself => entries.push((name, Target::Inode(*number))),
            Source::Parent => entries.push((name, Target::Inode(*parent))),
            Source::Stub => entries.push((name, Target::Inode(next))),
            Source::Entry(Entry::Leaf(id)) => {
                entries.push((name, Target::Leaf(*id)));
                if of_leaf[id.0].is_none() {
                    of_leaf[id.0] = Some(next);
                    list.push(v2_leaf_inode(tree.leaf(*id), names[id.0].count));
                }
            }
            Source::Entry(Entry::Directory(child)) => {
                entries.push((name, Target::Inode(next)));
                let parent = *number;
                list.push(directory_inode(child));
                open.push((next, parent, child, sorted_entries(child, false).into_iter(), Vec::new()));
            }
        }
    }
    Inodes { list, of_leaf: of_leaf.into_iter().map(Option::unwrap_or_default).collect() }
}

fn entries_of_directories(directory: &Directory) -> u32 {
    directory.entries.values().filter(|entry| matches!(entry, Entry::Directory(_))).count() as u32
}

fn user_xattrs(stat: &Stat) -> impl Iterator<Item = Xattr<'_>> {
    stat.xattrs
        .iter()
        .map(|(name, value)| Xattr { name: overlay::escape(name), value: Value::Bytes(Cow::Borrowed(value)) })
}

/// Adds an attribute or replaces its value.
fn set<'t>(xattrs: &mut Vec<Xattr<'t>>, name: &'static [u8], value: &'static [u8]) {
    xattrs.retain(|xattr| *xattr.name != *name);
    xattrs.push(Xattr { name: Cow::Borrowed(name), value: Value::Bytes(Cow::Borrowed(value)) });
}

/// Its entries and links are known only when all of them were seen.
fn directory_inode(directory: &Directory) -> Inode<'_> {
    Inode {
        stat: &directory.stat,
        mode: S_IFDIR | directory.stat.mode,
        nlink: 0,
        xattrs: user_xattrs(&directory.stat).collect(),
        data: Data::None,
        extended: false,
    }
}

fn stub_inode(root: &Stat) -> Inode<'_> {
    let label = root.xattrs.get(overlay::STUB_XATTR);
    let label = label
        .map(|value| Xattr { name: Cow::Borrowed(overlay::STUB_XATTR), value: Value::Bytes(Cow::Borrowed(value)) });
    Inode {
        stat: root,
        mode: S_IFCHR | 0o644,
        nlink: 1,
        xattrs: label.into_iter().collect(),
        data: Data::Device(0),
        extended: false,
    }
}

fn leaf_inode(leaf: &Leaf, nlink: u32) -> Inode<'_> {
    let (file_type, data) = match &leaf.kind {
        LeafKind::Regular(Content::Inline(bytes)) if bytes.is_empty() => (S_IFREG, Data::None),
        LeafKind::Regular(Content::Inline(bytes)) => (S_IFREG, Data::Bytes(bytes)),
        LeafKind::Regular(Content::External { size, digest, .. }) => {
            (S_IFREG, Data::External { size: *size, digest_known: digest.is_some() })
        }
        LeafKind::Symlink(target) => (S_IFLNK, Data::Symlink(target)),
        LeafKind::CharDevice(0) => (S_IFREG, Data::None),
        LeafKind::CharDevice(rdev) => (S_IFCHR, Data::Device(*rdev)),
        LeafKind::BlockDevice(rdev) => (S_IFBLK, Data::Device(*rdev)),
        LeafKind::Fifo => (S_IFIFO, Data::None),
        LeafKind::Socket => (S_IFSOCK, Data::None),
    };
    let external = matches!(leaf.kind, LeafKind::Regular(Content::External { .. }));
    let mut xattrs = Vec::with_capacity(leaf.stat.xattrs.len() + if external { 2 } else { 0 });
    xattrs.extend(user_xattrs(&leaf.stat));
    match &leaf.kind {
        LeafKind::Regular(Content::External { payload, digest, .. }) => {
            xattrs.push(metacopy(digest.as_ref()));
            if let Some(payload) = payload.as_deref().filter(|payload| !payload.is_empty()) {
                xattrs.push(Xattr { name: Cow::Borrowed(overlay::REDIRECT), value: Value::Redirect(payload) });
            }
        }
        LeafKind::CharDevice(0) => overlay::WHITEOUT.iter().for_each(|name| set(&mut xattrs, name, b"")),
        _ => {}
    }
    let mode = file_type | leaf.stat.mode;
    Inode { stat: &leaf.stat, mode, nlink, xattrs, data, extended: leaf.extended }
}

fn metacopy(digest: Option<&Digest>) -> Xattr<'_> {
    Xattr { name: Cow::Borrowed(overlay::METACOPY), value: Value::Metacopy(digest) }
}

/// Whiteouts stay devices; contents are always named by an object; overlay attributes come first.
fn v2_leaf_inode(leaf: &Leaf, nlink: u32) -> Inode<'_> {
    let mut inode = leaf_inode(leaf, nlink);
    let mut xattrs = Vec::new();
    match &leaf.kind {
        LeafKind::CharDevice(0) => {
            inode.mode = S_IFCHR | leaf.stat.mode;
            inode.data = Data::Device(0);
        }
        LeafKind::Regular(Content::External { payload, digest, .. }) => {
            let object = digest.or_else(|| validate::payload_object(payload.as_deref()?));
            xattrs.push(metacopy(digest.as_ref()));
            xattrs.extend(object.map(|object| Xattr {
                name: Cow::Borrowed(overlay::REDIRECT),
                value: Value::Bytes(Cow::Owned(format!("/{}", object.object_path()).into_bytes())),
            }));
        }
        _ => {}
    }
    xattrs.extend(user_xattrs(&leaf.stat));
    inode.xattrs = xattrs;
    inode
}
