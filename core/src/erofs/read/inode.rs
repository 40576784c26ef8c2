//! One inode and where its data is.

use super::ReadProblem;
use super::image::Image;
use crate::erofs::layout::{
    BLOCK, CompactInode, DataLayout, ExtendedInode, FIRST_INODE_AT, FORMAT_EXTENDED, SLOT, XattrHeader, dirent_type,
};

#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) nid: u64,
    /// Offset in the image.
    pub(super) at: usize,
    pub(super) extended: bool,
    pub(super) layout: DataLayout,
    /// Type and permission bits; the type is one of the seven.
    pub(super) mode: u16,
    pub(super) nlink: u32,
    pub(super) size: u64,
    pub(super) data: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) xattrs_at: usize,
    pub(super) xattrs_size: usize,
}

impl Inode {
    pub(super) fn read(image: &Image<'_>, nid: u64) -> Result<Self, ReadProblem> {
        let outside = || ReadProblem::InodeOutside(nid);
        let at = usize::try_from(nid).ok().and_then(|nid| nid.checked_mul(SLOT)).ok_or_else(outside)?;
        if at < FIRST_INODE_AT {
            return Err(outside());
        }
        let compact: &CompactInode = image.get_struct(at).ok_or_else(outside)?;
        let format = compact.format.get();
        // Higher bits mean nothing to other readers either.
        let layout = match format >> 1 & 7 {
            0 => DataLayout::Plain,
            2 => DataLayout::Inline,
            4 => DataLayout::Chunks,
            other => return Err(ReadProblem::Layout(other)),
        };
        let extended = format & FORMAT_EXTENDED != 0;
        let inode_size = if extended { size_of::<ExtendedInode>() } else { size_of::<CompactInode>() };
        let xattrs_size = match usize::from(compact.xattr_count.get()) {
            0 => 0,
            // The kernel reads no attributes of such an inode (EOPNOTSUPP), and overlayfs no inode without.
            1 => return Err(ReadProblem::XattrEmpty),
            count => size_of::<XattrHeader>() + (count - 1) * 4,
        };
        image.get(at, inode_size + xattrs_size).ok_or_else(outside)?;

        let inode = if extended {
            let inode: &ExtendedInode = image.get_struct(at).ok_or_else(outside)?;
            Self {
                nid,
                at,
                extended,
                layout,
                mode: inode.mode.get(),
                nlink: inode.nlink.get(),
                size: inode.size.get(),
                data: inode.data.get(),
                uid: inode.uid.get(),
                gid: inode.gid.get(),
                mtime: (inode.mtime.get(), inode.mtime_nanos.get()),
                xattrs_at: at + inode_size,
                xattrs_size,
            }
        } else {
            Self {
                nid,
                at,
                extended,
                layout,
                mode: compact.mode.get(),
                nlink: u32::from(compact.nlink.get()),
                size: u64::from(compact.size.get()),
                data: compact.data.get(),
                uid: u32::from(compact.uid.get()),
                gid: u32::from(compact.gid.get()),
                mtime: image.build_time,
                xattrs_at: at + inode_size,
                xattrs_size,
            }
        };
        if dirent_type(inode.mode).is_none() {
            return Err(ReadProblem::Mode(inode.mode));
        }
        if inode.mtime.1 >= 1_000_000_000 {
            return Err(ReadProblem::Nanoseconds(inode.mtime.1));
        }
        Ok(inode)
    }

    /// Where data behind the inode begins.
    pub(super) const fn tail_at(&self) -> usize {
        self.xattrs_at + self.xattrs_size
    }

    /// Data that is in the image: that in blocks, and that behind the inode.
    pub(super) fn data<'i>(&self, image: &Image<'i>) -> Result<(&'i [u8], &'i [u8]), ReadProblem> {
        let outside = || ReadProblem::DataOutside(self.size);
        let size = usize::try_from(self.size).ok().filter(|size| *size <= image.len()).ok_or_else(outside)?;
        let in_blocks = match self.layout {
            DataLayout::Plain => size,
            DataLayout::Inline => size / BLOCK * BLOCK,
            DataLayout::Chunks => return Err(ReadProblem::UnexpectedData),
        };
        let blocks = match in_blocks {
            0 => &[],
            _ => {
                let at = self.data as usize * BLOCK;
                // The last block is there as a whole.
                image.get(at, in_blocks.next_multiple_of(BLOCK)).ok_or_else(outside)?;
                image.get(at, in_blocks).ok_or_else(outside)?
            }
        };
        let tail = image.get(self.tail_at(), size - in_blocks).ok_or_else(outside)?;
        if !tail.is_empty() && self.tail_at() / BLOCK != (self.tail_at() + tail.len() - 1) / BLOCK {
            return Err(ReadProblem::TailCrosses);
        }
        Ok((blocks, tail))
    }
}
