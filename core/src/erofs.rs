//! composefs images: EROFS file systems that hold the metadata of a tree and small files.
//!
//! The fs-verity digest of an image is its identity, so one tree has exactly one image in each [`Format`]; the writer
//! makes the same bytes as `mkcomposefs` (V0, V1) and the Rust composefs 0.9 (V2). Larger files are only described: their
//! inode names path and digest of the contents in attributes that overlayfs follows.
//!
//! ```text
//! 0      composefs header, 32 bytes
//! 1024   EROFS superblock, 128 bytes
//! 1152   inodes, on multiples of 32 bytes, each followed by its extended attributes and the tail of its data
//!        shared extended attributes
//!        data blocks, from the next multiple of 4096
//! ```
//!
//! [`read`] takes any bytes: it checks what it follows, needs time and memory in proportion to the image, and refuses what
//! no writer makes.

mod directory;
mod inodes;
mod layout;
mod overlay;
mod plan;
mod read;
mod shared;
mod stored;
mod validate;
mod write;
mod xattr;

use zerocopy::FromBytes;

pub use read::{ReadError, ReadProblem, find_objects, objects, read};
pub use stored::dump_stored;
pub use validate::{WriteError, WriteProblem};
pub use write::write;

/// Version of the image format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// What `mkcomposefs` makes by default, as long as there are no whiteouts.
    V0,
    /// As V0, but whiteouts are also marked for kernels from 6.8 on. The format of new images.
    V1,
    /// The first format of the Rust composefs, in existing repositories.
    V2,
}

impl Format {
    /// Number in the header of images.
    pub const fn number(self) -> u32 {
        match self {
            Self::V0 => 0,
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The format with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::V0),
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// Whether an image has POSIX ACLs, from its first 32 bytes. `None`: these do not begin a composefs image.
///
/// An image without them is mounted with `noacl`. Version 2 images do not say, so they may have some.
pub fn uses_acl(header: &[u8]) -> Option<bool> {
    let (header, _) = layout::Header::read_from_prefix(header).ok()?;
    if header.magic.get() != layout::HEADER_MAGIC || header.version.get() != layout::HEADER_VERSION {
        return None;
    }
    let format = Format::from_number(header.composefs_version.get())?;
    Some(format == Format::V2 || header.flags.get() & layout::HEADER_HAS_ACL != 0)
}

#[cfg(test)]
mod tests;
