//! The fields of a file.

use std::fmt;

use crate::digest::Digest;
use crate::tree::LeafKind;

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Directory.
    Directory,
    /// Regular file.
    Regular,
    /// Symbolic link.
    Symlink,
    /// Character device with number 0: removes a file of a lower layer.
    Whiteout,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

impl FileKind {
    pub(super) fn of(kind: &LeafKind) -> Self {
        match kind {
            LeafKind::Regular(_) => Self::Regular,
            LeafKind::Symlink(_) => Self::Symlink,
            LeafKind::CharDevice(0) => Self::Whiteout,
            LeafKind::CharDevice(_) => Self::CharDevice,
            LeafKind::BlockDevice(_) => Self::BlockDevice,
            LeafKind::Fifo => Self::Fifo,
            LeafKind::Socket => Self::Socket,
        }
    }

    /// Its name: `directory`, `file`, `symlink`, `whiteout`, `character device`, `block device`, `fifo`, `socket`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Regular => "file",
            Self::Symlink => "symlink",
            Self::Whiteout => "whiteout",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Seconds since the epoch.
    pub secs: i64,
    /// Nanoseconds of the second.
    pub nanos: u32,
}

/// Seconds with nine digits of fraction, which for negative times still counts upward from the second.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.secs, self.nanos)
    }
}

/// How one field differs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The path is not on the right side.
    OnlyLeft(FileKind),
    /// The path is not on the left side.
    OnlyRight(FileKind),
    /// The types differ; then nothing else is compared but the metadata.
    Kind {
        /// Left.
        left: FileKind,
        /// Right.
        right: FileKind,
    },
    /// Permission bits.
    Mode {
        /// Left.
        left: u16,
        /// Right.
        right: u16,
    },
    /// Owner.
    Uid {
        /// Left.
        left: u32,
        /// Right.
        right: u32,
    },
    /// Group.
    Gid {
        /// Left.
        left: u32,
        /// Right.
        right: u32,
    },
    /// Modification time.
    Mtime {
        /// Left.
        left: Time,
        /// Right.
        right: Time,
    },
    /// One extended attribute; `None`: it is not there.
    Xattr {
        /// Its name.
        name: Box<[u8]>,
        /// Left.
        left: Option<Box<[u8]>>,
        /// Right.
        right: Option<Box<[u8]>>,
    },
    /// Size of a regular file in bytes.
    Size {
        /// Left.
        left: u64,
        /// Right.
        right: u64,
    },
    /// Contents of a regular file, by their fs-verity digests where these are known.
    Contents {
        /// Left.
        left: Option<Digest>,
        /// Right.
        right: Option<Digest>,
    },
    /// The same contents, in the image itself on one side and outside of it on the other.
    Stored {
        /// In the image on the left side.
        left_inline: bool,
    },
    /// The same contents are looked for under different paths below the object directory.
    Payload {
        /// Left.
        left: Option<Box<[u8]>>,
        /// Right.
        right: Option<Box<[u8]>>,
    },
    /// Target of a symbolic link.
    Target {
        /// Left.
        left: Box<[u8]>,
        /// Right.
        right: Box<[u8]>,
    },
    /// Device number, in the kernel's 32-bit encoding.
    Device {
        /// Left.
        left: u32,
        /// Right.
        right: u32,
    },
    /// The path is another name of the file at this path; `None`: a file of its own, as far as both sides have its names.
    HardLink {
        /// Left.
        left: Option<Vec<u8>>,
        /// Right.
        right: Option<Vec<u8>>,
    },
    /// Link count; differs from the number of names only where a dumpfile states another one.
    LinkCount {
        /// Left.
        left: u32,
        /// Right.
        right: u32,
    },
    /// The name under which a dumpfile defines a file with several names; `None`: the first.
    PrimaryName {
        /// Left.
        left: Option<Vec<u8>>,
        /// Right.
        right: Option<Vec<u8>>,
    },
}

impl Change {
    /// The name of the field, as it is shown: `mode`, `mtime`, ...
    pub const fn field(&self) -> &'static str {
        match self {
            Self::OnlyLeft(_) | Self::OnlyRight(_) => "path",
            Self::Kind { .. } => "type",
            Self::Mode { .. } => "mode",
            Self::Uid { .. } => "uid",
            Self::Gid { .. } => "gid",
            Self::Mtime { .. } => "mtime",
            Self::Xattr { .. } => "xattr",
            Self::Size { .. } => "size",
            Self::Contents { .. } => "contents",
            Self::Stored { .. } => "stored",
            Self::Payload { .. } => "payload",
            Self::Target { .. } => "target",
            Self::Device { .. } => "device",
            Self::HardLink { .. } => "hard link",
            Self::LinkCount { .. } => "link count",
            Self::PrimaryName { .. } => "primary name",
        }
    }
}
