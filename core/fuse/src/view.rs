//! An image as FUSE wants it: inodes by number.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};
use osupdate_core::Digest;
use osupdate_core::repository::Repository;
use osupdate_core::tree::{Content, Directory as TreeDirectory, Entry, Leaf, LeafKind, Stat, Tree, Xattrs};

use crate::contents::Contents;

/// Size of the blocks that `stat` and `statfs` tell.
pub(crate) const BLOCK: u32 = 4096;
pub(crate) const ACL: &[u8] = b"system.posix_acl_";
/// How attributes begin that programs ask every file for: access control lists, and SELinux labels.
const ASKED_FOR: [&[u8]; 2] = [ACL, b"security.selinux"];

/// A whole image, ready to be served. Whiteouts have no place in it: they hide what is nowhere.
#[derive(Debug)]
pub struct View {
    nodes: Vec<Node>,
    pub(crate) contents: Contents,
    /// Which of [`ASKED_FOR`] no file has.
    lacking: Vec<&'static [u8]>,
    /// Bytes of all files.
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attr: FileAttr,
    pub(crate) xattrs: Xattrs,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Directory(Directory),
    Inline(Box<[u8]>),
    /// Index of an object.
    Object(u32),
    /// A size, and contents that nobody has.
    Nowhere,
    Symlink(Box<[u8]>),
    /// Devices, pipes and sockets.
    Special,
}

#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) parent: u64,
    /// In byte order of the names.
    pub(crate) entries: Vec<(Box<[u8]>, u64)>,
}

impl View {
    /// The view of a tree whose contents are in a repository. The repository stays open, so locked against collections, unless
    /// it is unlocked.
    pub fn new(tree: Tree, repository: impl Into<Arc<Repository>>) -> Self {
        let mut builder = Builder::default();
        let mut leaves: Vec<_> = tree.leaves.into_iter().map(Some).collect();
        let mut leaf_numbers = vec![0_u64; leaves.len()];
        let mut stated_nlinks = Vec::new();
        let TreeDirectory { stat, entries } = tree.root;
        builder.add_directory(1, stat);
        let mut queue = std::collections::VecDeque::from([(1_u64, entries)]);
        while let Some((number, entries)) = queue.pop_front() {
            let mut names = Vec::with_capacity(entries.len());
            let mut name_bytes = 0;
            for (name, entry) in entries {
                let child = match entry {
                    Entry::Directory(child) => {
                        let child_number = builder.add_directory(number, child.stat);
                        builder.nodes[number as usize - 1].attr.nlink += 1;
                        queue.push_back((child_number, child.entries));
                        child_number
                    }
                    Entry::Leaf(id) => {
                        if let Some(leaf) = leaves[id.0].take() {
                            if leaf.kind == LeafKind::CharDevice(0) {
                                continue;
                            }
                            let stated = leaf.stated_nlink;
                            leaf_numbers[id.0] = builder.add_leaf(leaf);
                            stated_nlinks.extend(stated.map(|nlink| (leaf_numbers[id.0], nlink)));
                        }
                        let leaf_number = leaf_numbers[id.0];
                        if leaf_number == 0 {
                            // Another name of a whiteout.
                            continue;
                        }
                        builder.nodes[leaf_number as usize - 1].attr.nlink += 1;
                        leaf_number
                    }
                };
                name_bytes += name.len() as u64;
                names.push((name, child));
            }
            let node = &mut builder.nodes[number as usize - 1];
            // As in the image, padding apart: 12 bytes for each entry, and `.` and `..`.
            node.attr.size = name_bytes + 12 * (names.len() as u64 + 2) + 3;
            node.attr.blocks = blocks(node.attr.size);
            if let Kind::Directory(directory) = &mut node.kind {
                directory.entries = names;
            }
        }
        for (number, nlink) in stated_nlinks {
            builder.nodes[number as usize - 1].attr.nlink = nlink;
        }
        let mut nodes = builder.nodes;
        nodes.shrink_to_fit();
        let has = |start: &[u8]| nodes.iter().any(|node| node.xattrs.keys().any(|name| name.starts_with(start)));
        let lacking = ASKED_FOR.into_iter().filter(|start| !has(start)).collect();
        let bytes = nodes.iter().fold(0_u64, |sum, node| sum.saturating_add(node.attr.size));
        Self { nodes, contents: Contents::new(repository.into(), builder.objects), lacking, bytes }
    }

    pub(crate) fn node(&self, number: INodeNo) -> Option<&Node> {
        self.nodes.get(usize::try_from(number.0).ok()?.checked_sub(1)?)
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn len(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// Whether an attribute is of those that programs ask every file for, and no file has it.
    pub(crate) fn lacks(&self, name: &[u8]) -> bool {
        self.lacking.iter().any(|start| name.starts_with(start))
    }
}

impl Directory {
    pub(crate) fn get(&self, name: &[u8]) -> Option<INodeNo> {
        let at = self.entries.binary_search_by_key(&name, |(name, _)| name).ok()?;
        Some(INodeNo(self.entries[at].1))
    }
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    objects: Vec<(Digest, u64)>,
    /// Files of one digest and size share an object.
    object_numbers: HashMap<(Digest, u64), u32>,
}

impl Builder {
    fn push(&mut self, stat: Stat, file_type: FileType, size: u64, rdev: u32, kind: Kind) -> u64 {
        let number = self.nodes.len() as u64 + 1;
        let time = time(stat.mtime_secs, stat.mtime_nanos);
        let attr = FileAttr {
            ino: INodeNo(number),
            size,
            blocks: blocks(size),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: file_type,
            perm: stat.mode,
            nlink: 0,
            uid: stat.uid,
            gid: stat.gid,
            rdev,
            blksize: BLOCK,
            flags: 0,
        };
        self.nodes.push(Node { attr, xattrs: stat.xattrs, kind });
        number
    }

    fn add_directory(&mut self, parent: u64, stat: Stat) -> u64 {
        let kind = Kind::Directory(Directory { parent, entries: Vec::new() });
        let number = self.push(stat, FileType::Directory, 0, 0, kind);
        self.nodes[number as usize - 1].attr.nlink = 2;
        number
    }

    fn add_leaf(&mut self, leaf: Leaf) -> u64 {
        let (file_type, size, rdev, kind) = match leaf.kind {
            LeafKind::Regular(Content::Inline(bytes)) => {
                (FileType::RegularFile, bytes.len() as u64, 0, Kind::Inline(bytes))
            }
            LeafKind::Regular(Content::External { size, payload, digest }) => {
                let named = || Digest::from_object_path(std::str::from_utf8(payload.as_deref()?).ok()?).ok();
                let kind = digest.or_else(named).map_or(Kind::Nowhere, |digest| self.object(digest, size));
                (FileType::RegularFile, size, 0, kind)
            }
            LeafKind::Symlink(target) => (FileType::Symlink, target.len() as u64, 0, Kind::Symlink(target)),
            LeafKind::CharDevice(device) => (FileType::CharDevice, 0, device, Kind::Special),
            LeafKind::BlockDevice(device) => (FileType::BlockDevice, 0, device, Kind::Special),
            LeafKind::Fifo => (FileType::NamedPipe, 0, 0, Kind::Special),
            LeafKind::Socket => (FileType::Socket, 0, 0, Kind::Special),
        };
        self.push(leaf.stat, file_type, size, rdev, kind)
    }

    fn object(&mut self, digest: Digest, size: u64) -> Kind {
        let next = self.objects.len() as u32;
        let number = *self.object_numbers.entry((digest, size)).or_insert(next);
        if number == next {
            self.objects.push((digest, size));
        }
        Kind::Object(number)
    }
}

/// Blocks of 512 bytes, which `stat` counts in.
fn blocks(size: u64) -> u64 {
    size.div_ceil(512)
}

fn time(secs: i64, nanos: u32) -> SystemTime {
    let whole = Duration::from_secs(secs.unsigned_abs());
    let time = match secs {
        0.. => SystemTime::UNIX_EPOCH.checked_add(whole),
        _ => SystemTime::UNIX_EPOCH.checked_sub(whole),
    };
    time.and_then(|time| time.checked_add(Duration::from_nanos(nanos.into()))).unwrap_or(SystemTime::UNIX_EPOCH)
}
