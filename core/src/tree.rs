//! The file tree: what an image contains, before and after it is EROFS.
//!
//! A [`Tree`] is a root [`Directory`] and a table of [`Leaf`] values. Directory entries are ordered by the bytes of
//! their names and point at leaves by [`LeafId`], so that a hard link is two entries with one id. The tree knows
//! nothing of stubs, whiteout escapes or overlay xattrs: the EROFS writer adds them and the reader removes them.

mod follow;
mod names;

use std::collections::BTreeMap;

pub(crate) use names::Place;

use crate::digest::Digest;

/// Extended attributes: name (with its namespace prefix) to value, in byte order of the names.
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Longest file name in bytes.
pub const NAME_MAX: usize = 255;
/// Largest regular file, 2^53 bytes: what the chunk table of an image can describe.
pub const FILE_SIZE_MAX: u64 = 1 << 53;
/// Longest symlink target in bytes.
pub const SYMLINK_MAX: usize = 4095;
/// Longest path of contents below the object directory, in bytes.
pub const PAYLOAD_MAX: usize = 4095;
/// Most bytes of a regular file that an image can hold itself.
pub const INLINE_LIMIT: usize = 5000;
/// Files up to this many bytes are stored in the image itself when real files or layers are read.
/// Changing it changes every digest.
pub const INLINE_MAX: u64 = 64;

/// Metadata common to all kinds of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Permission bits, at most 0o7777; the type is told by the kind of node.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since the epoch.
    pub mtime_secs: i64,
    /// Modification time, nanoseconds, below 10^9.
    pub mtime_nanos: u32,
    /// Extended attributes as users see them (no overlay escapes).
    pub xattrs: Xattrs,
}

/// Contents of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Bytes stored in the image; may be empty.
    Inline(Box<[u8]>),
    /// Bytes stored elsewhere. `payload` is the path below the object directory, normally `digest.object_path()`;
    /// the two are separate because dumpfiles may name them independently. Both `None`: a sparse stub.
    External {
        /// Size in bytes, above 0.
        size: u64,
        /// Path of the contents below the object directory, without a leading slash.
        payload: Option<Box<[u8]>>,
        /// fs-verity digest of the contents.
        digest: Option<Digest>,
    },
}

impl Content {
    /// Contents in the repository object `digest`, `size` bytes.
    pub fn object(digest: Digest, size: u64) -> Self {
        Self::External { size, payload: Some(digest.object_path().into_bytes().into()), digest: Some(digest) }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::External { size, .. } => *size,
        }
    }
}

/// What a leaf is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// Regular file.
    Regular(Content),
    /// Symbolic link; target of 1..=4095 bytes without NUL.
    Symlink(Box<[u8]>),
    /// Character device, in the kernel's 32-bit encoding. 0 is a whiteout.
    CharDevice(u32),
    /// Block device, in the kernel's 32-bit encoding.
    BlockDevice(u32),
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// A file that is not a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Metadata.
    pub stat: Stat,
    /// Type and contents.
    pub kind: LeafKind,
    /// Link count as the source stated it. `None`: the number of names is counted. Only dumpfiles state it.
    pub stated_nlink: Option<u32>,
    /// Absolute path of the name under which the source defined this leaf, where it has several.
    /// `None`: the first in depth-first order. Only dumpfiles tell.
    pub primary_path: Option<Box<[u8]>>,
    /// The inode is written in its extended form although the compact one would hold it. Only dumpfiles that state a size
    /// above 4 GiB for a device, pipe or socket ask for it.
    pub extended: bool,
}

impl Leaf {
    /// A leaf whose links are counted and whose first name is the primary one.
    pub fn new(stat: Stat, kind: LeafKind) -> Self {
        Self { stat, kind, stated_nlink: None, primary_path: None, extended: false }
    }
}

/// Index of a leaf in its tree's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeafId(pub usize);

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Subdirectory.
    Directory(Directory),
    /// Any other file; several entries with one id are hard links.
    Leaf(LeafId),
}

/// A directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Metadata.
    pub stat: Stat,
    /// Names of 1..=255 bytes without `/` and NUL, not `.` or `..`, in byte order.
    pub entries: BTreeMap<Box<[u8]>, Entry>,
}

/// A whole file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The root directory.
    pub root: Directory,
    /// All leaves; those without a name are left out of images.
    pub leaves: Vec<Leaf>,
}

impl Tree {
    /// Adds a leaf to the table; it has no name yet.
    pub fn push_leaf(&mut self, leaf: Leaf) -> LeafId {
        self.leaves.push(leaf);
        LeafId(self.leaves.len() - 1)
    }

    /// The leaf with this id.
    ///
    /// # Panics
    /// If the id is of another tree and beyond this one's table.
    pub fn leaf(&self, id: LeafId) -> &Leaf {
        &self.leaves[id.0]
    }

    /// The entry at a path of plain components (`usr/lib/os-release`); symlinks are not followed.
    pub fn lookup(&self, path: &str) -> Option<&Entry> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.directory(parent)?.entries.get(name.as_bytes())
    }

    /// The directory at a path of plain components; `""` is the root.
    pub fn directory(&self, path: &str) -> Option<&Directory> {
        let mut directory = &self.root;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match directory.entries.get(name.as_bytes())? {
                Entry::Directory(child) => directory = child,
                Entry::Leaf(_) => return None,
            }
        }
        Some(directory)
    }

    /// The contents of the regular file at a path of plain components.
    pub fn regular_file(&self, path: &str) -> Option<&Content> {
        match self.lookup(path)? {
            Entry::Leaf(id) => match &self.leaf(*id).kind {
                LeafKind::Regular(content) => Some(content),
                _ => None,
            },
            Entry::Directory(_) => None,
        }
    }
}
