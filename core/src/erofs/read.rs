//! Image to tree, for any bytes.
//!
//! What is followed is checked first: offsets against the image, every directory for being met once, sums of sizes
//! against the image's own size. So time and memory are in proportion to the image. What no writer makes is refused, not
//! guessed at: two readers of one image must never see two trees.

mod directory;
mod image;
mod inode;
mod leaf;
mod objects;
mod problem;
mod walk;
mod xattrs;

use std::collections::BTreeSet;

pub use objects::find_objects;
pub use problem::{ReadError, ReadProblem};

use super::Format;
use super::layout::DataLayout;
use crate::digest::Digest;
use crate::tree::{Content, LeafKind, Tree};
use image::Image;
use inode::Inode;
use walk::Walk;

/// Reads an image: the tree without what the writer added, and its format.
///
/// Writing the tree in that format again makes the same image, if the image was made by one of the known writers.
///
/// # Errors
/// The first thing that is wrong, on the way through the directories from the root.
pub fn read(image: &[u8]) -> Result<(Tree, Format), ReadError> {
    let image = Image::new(image)?;
    let tree = Walk::new(&image)?.into_tree();
    Ok((tree, image.format))
}

/// All objects that a mounted image can be asked for: those that its files are verified against, and those that they are
/// read from, should these ever differ.
///
/// # Errors
/// As [`read`]: of an image that is not understood nothing is known.
pub fn objects(image: &[u8]) -> Result<BTreeSet<Digest>, ReadError> {
    let image = Image::new(image)?;
    let mut objects = BTreeSet::new();
    for leaf in Walk::new(&image)?.into_leaves() {
        if let LeafKind::Regular(Content::External { payload, digest, .. }) = leaf.kind {
            let read_from = payload.as_deref().and_then(|path| str::from_utf8(path).ok());
            objects.extend(read_from.and_then(|path| Digest::from_object_path(path).ok()));
            objects.extend(digest);
        }
    }
    Ok(objects)
}

/// What is left of the sizes that an image can have in all.
#[derive(Debug)]
struct Budget {
    image_size: u64,
    /// Bytes that no inode has claimed.
    image_bytes: u64,
    /// Bytes of attributes; shared ones count for each inode that refers to them.
    xattr_bytes: usize,
}

impl Budget {
    /// Attributes in all: this many bytes, and this many times the image's size. Labels and ACLs need less than three times.
    const XATTR_BYTES: usize = 64 << 20;
    const XATTR_FACTOR: usize = 32;

    fn new(image: &Image<'_>) -> Self {
        let xattr_bytes = image.len().saturating_mul(Self::XATTR_FACTOR).saturating_add(Self::XATTR_BYTES);
        Self { image_size: image.len() as u64, image_bytes: image.len() as u64, xattr_bytes }
    }

    /// Claims an inode with its attributes and its data in the image. Writers let nothing overlap.
    fn charge_inode(&mut self, inode: &Inode) -> Result<(), ReadProblem> {
        let data = if inode.layout == DataLayout::Chunks { 0 } else { inode.size };
        if data > self.image_size {
            return Err(ReadProblem::DataOutside(data));
        }
        let size = data.checked_add((inode.tail_at() - inode.at) as u64);
        self.image_bytes = size.and_then(|size| self.image_bytes.checked_sub(size)).ok_or(ReadProblem::Overlap)?;
        Ok(())
    }

    fn charge_xattr(&mut self, size: usize) -> Result<(), ReadProblem> {
        self.xattr_bytes = self.xattr_bytes.checked_sub(size).ok_or(ReadProblem::XattrTotal)?;
        Ok(())
    }
}
