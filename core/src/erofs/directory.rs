//! How directory entries are packed into blocks.

use std::ops::Range;

use super::layout::{BLOCK, Dirent};

/// A last part larger than this is a block of its own.
const TAIL_MAX: usize = BLOCK / 2;

/// Entries of a directory, in groups: each but perhaps the last is a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packing {
    pub(super) blocks: Vec<Range<usize>>,
    /// Entries in the part behind the inode, and its size in bytes.
    pub(super) tail: Option<(Range<usize>, usize)>,
}

/// Packs entries with these names, `.` and `..` included.
pub(super) fn pack<'n>(names: impl Iterator<Item = &'n [u8]>) -> Packing {
    let mut blocks = Vec::new();
    let (mut start, mut end, mut size) = (0, 0, 0);
    for name in names {
        let entry = size_of::<Dirent>() + name.len();
        if size + entry > BLOCK {
            blocks.push(start..end);
            (start, size) = (end, 0);
        }
        size += entry;
        end += 1;
    }
    if size > TAIL_MAX {
        blocks.push(start..end);
        Packing { blocks, tail: None }
    } else {
        Packing { blocks, tail: Some((start..end, size)) }
    }
}
