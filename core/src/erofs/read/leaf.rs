//! One inode that is not a directory.

use super::image::Image;
use super::inode::Inode;
use super::xattrs::Attributes;
use super::{Budget, ReadProblem};
use crate::digest::Digest;
use crate::erofs::Format;
use crate::erofs::layout::{
    BLOCK, DataLayout, NULL_CHUNK, S_IFBLK, S_IFCHR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, V2_CHUNK_FORMAT, chunks,
};
use crate::erofs::overlay;
use crate::erofs::validate::{V2_INLINE_LIMIT, V2_SYMLINK_MAX};
use crate::tree::{Content, FILE_SIZE_MAX, INLINE_LIMIT, Leaf, LeafKind, SYMLINK_MAX, Stat, Xattrs};

/// Metadata of an inode with these attributes.
pub(super) fn stat(inode: &Inode, xattrs: Xattrs) -> Stat {
    Stat {
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        mtime_secs: inode.mtime.0,
        mtime_nanos: inode.mtime.1,
        xattrs,
    }
}

/// Reads an inode as a leaf. Its link count is checked when all names are known.
pub(super) fn read(image: &Image<'_>, inode: &Inode, budget: &mut Budget) -> Result<Leaf, ReadProblem> {
    let mut attributes = Attributes::read(image, inode, budget)?;
    let external = inode.mode & S_IFMT == S_IFREG && inode.layout == DataLayout::Chunks;
    attributes.check_overlay(external, false)?;

    let kind = match inode.mode & S_IFMT {
        S_IFREG if external => LeafKind::Regular(external_content(image, inode, &mut attributes)?),
        S_IFREG => {
            let limit = if image.format == Format::V2 { V2_INLINE_LIMIT } else { INLINE_LIMIT };
            if inode.size > limit as u64 {
                return Err(ReadProblem::InlineLength(inode.size));
            }
            let (blocks, tail) = inode.data(image)?;
            LeafKind::Regular(Content::Inline([blocks, tail].concat().into()))
        }
        S_IFLNK => LeafKind::Symlink(target(image, inode)?),
        _ if inode.size != 0 || inode.layout != DataLayout::Plain => return Err(ReadProblem::UnexpectedData),
        S_IFCHR => LeafKind::CharDevice(inode.data),
        S_IFBLK => LeafKind::BlockDevice(inode.data),
        S_IFIFO => LeafKind::Fifo,
        _ => LeafKind::Socket,
    };
    let empty = LeafKind::Regular(Content::Inline(Box::default()));
    let kind = if kind == empty && attributes.marks_whiteout() {
        if image.format == Format::V2 {
            return Err(ReadProblem::Whiteout(image.format.number()));
        }
        Attributes::remove_stored(&mut attributes.user, overlay::WHITEOUT);
        LeafKind::CharDevice(0)
    } else {
        kind
    };

    let special = !matches!(inode.mode & S_IFMT, S_IFREG | S_IFLNK);
    let mut leaf = Leaf::new(stat(inode, attributes.user), kind);
    leaf.extended = special && image.format != Format::V2 && inode.extended && would_be_compact(image, inode);
    Ok(leaf)
}

fn would_be_compact(image: &Image<'_>, inode: &Inode) -> bool {
    let fits = |number| number <= u32::from(u16::MAX);
    inode.mtime == image.build_time && fits(inode.nlink) && fits(inode.uid) && fits(inode.gid)
}

fn target(image: &Image<'_>, inode: &Inode) -> Result<Box<[u8]>, ReadProblem> {
    let max = if image.format == Format::V2 { V2_SYMLINK_MAX } else { SYMLINK_MAX };
    let bad = || ReadProblem::Target(inode.size);
    if !(1..=max as u64).contains(&inode.size) {
        return Err(bad());
    }
    let (block, tail) = inode.data(image)?;
    // Kernels before 6.12 want all of the inode in one block.
    let end = inode.tail_at() + tail.len() - 1;
    if image.format != Format::V2 && !tail.is_empty() && inode.at / BLOCK != end / BLOCK {
        return Err(ReadProblem::TailCrosses);
    }
    let target = [block, tail].concat();
    if target.contains(&0) { Err(bad()) } else { Ok(target.into()) }
}

/// Contents that are not in the image; its chunks are all holes.
fn external_content(image: &Image<'_>, inode: &Inode, attributes: &mut Attributes) -> Result<Content, ReadProblem> {
    if inode.size == 0 {
        return Ok(Content::Inline(Box::default()));
    }
    if inode.size > FILE_SIZE_MAX {
        return Err(ReadProblem::ExternalSize(inode.size));
    }
    let digest = attributes.metacopy.take().ok_or(ReadProblem::MetacopyMissing)?;
    let (format_found, format, count) = match image.format {
        Format::V0 | Format::V1 => {
            let (format, count) = chunks(inode.size);
            let room = BLOCK - inode.tail_at() % BLOCK;
            match count as usize * size_of_val(&NULL_CHUNK) {
                table if table <= room => (inode.data, format, count),
                // Where the table fits nowhere, writers leave it out and add a block number.
                _ => (inode.data & 0xffff, format, 0),
            }
        }
        Format::V2 => (inode.data, V2_CHUNK_FORMAT, u64::from(digest.is_some())),
    };
    let table = image.get(inode.tail_at(), count as usize * size_of_val(&NULL_CHUNK));
    let all_null = table.is_some_and(|table| table.iter().all(|&byte| byte == 0xff));
    if format_found != format || !all_null {
        return Err(ReadProblem::Chunks);
    }
    let payload = attributes.redirect.take();
    if image.format == Format::V2 {
        // There, the path is always that of an object, and of no other than the digest's.
        let object = payload.as_deref().map(|path| Digest::from_object_path(str::from_utf8(path).ok()?).ok());
        let consistent = match object {
            None => digest.is_none(),
            Some(object) => object.is_some() && (digest.is_none() || digest == object),
        };
        if !consistent {
            return Err(ReadProblem::Redirect);
        }
    }
    Ok(Content::External { size: inode.size, payload, digest })
}
