//! Where everything is in an image.

use super::Format;
use super::directory::{self, Packing};
use super::inodes::{Data, Inode, Inodes};
use super::layout::{
    BLOCK, CompactInode, DataLayout, ExtendedInode, FIRST_INODE_AT, NULL_CHUNK, SLOT, V2_CHUNK_FORMAT, XattrHeader,
    chunks, round_up,
};
use super::shared::SharedXattrs;
use super::validate::{WriteError, WriteProblem};
use super::xattr::{count_field, entry_size, split_name};

/// Contents whose last part is larger than this have a block for it.
const TAIL_MAX: usize = BLOCK / 2;

/// Place and form of one inode.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) extended: bool,
    pub(super) layout: DataLayout,
    pub(super) offset: usize,
    pub(super) size: u64,
    /// Size of the extended attributes behind the inode.
    pub(super) xattr_size: usize,
    /// Size of the data behind the extended attributes.
    pub(super) tail: usize,
    /// Data blocks, and the number of the first one.
    pub(super) blocks: usize,
    pub(super) first_block: u32,
    /// Chunk format of external files.
    pub(super) chunk_format: u32,
}

impl Placed {
    pub(super) fn nid(&self) -> u64 {
        (self.offset / SLOT) as u64
    }

    pub(super) const fn inode_size(&self) -> usize {
        if self.extended { size_of::<ExtendedInode>() } else { size_of::<CompactInode>() }
    }

    pub(super) const fn tail_at(&self) -> usize {
        self.offset + self.inode_size() + self.xattr_size
    }
}

/// The whole image.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) inodes: Vec<Placed>,
    /// How the entries of each directory are packed; `None` for other inodes.
    pub(super) directories: Vec<Option<Packing>>,
    /// Earliest modification time, which compact inodes have.
    pub(super) build_time: (i64, u32),
    pub(super) shared_at: usize,
    pub(super) size: usize,
}

impl Plan {
    pub(super) fn new(inodes: &Inodes<'_>, shared: &SharedXattrs<'_, '_>, format: Format) -> Result<Self, WriteError> {
        let list = &inodes.list;
        let fail = |number, problem| WriteError { path: inodes.path(number), problem };
        let mtime = |inode: &Inode<'_>| (inode.stat.mtime_secs, inode.stat.mtime_nanos);
        let build_time = list.iter().map(mtime).min().unwrap_or_default();
        let build_time = if format == Format::V2 { (0, 0) } else { build_time };

        let mut placed = Vec::with_capacity(list.len());
        let mut directories = Vec::with_capacity(list.len());
        let mut position = FIRST_INODE_AT;
        for (number, inode) in list.iter().enumerate() {
            let (mut place, packing) = match format {
                Format::V0 | Format::V1 => data(inode),
                Format::V2 => v2_data(inode),
            };
            place.xattr_size = xattr_size(number, inode, shared, format);
            if count_field(place.xattr_size).is_none() {
                return Err(fail(number, WriteProblem::XattrTotal(place.xattr_size)));
            }
            position = round_up(position, SLOT);
            match format {
                Format::V0 | Format::V1 => {
                    place.extended = !fits_compact(inode, &place, mtime(inode) == build_time);
                    align(&mut position, &mut place, matches!(inode.data, Data::Symlink(_)));
                }
                Format::V2 => {
                    place.extended = true;
                    v2_align(&mut position, &place);
                }
            }
            place.offset = position;
            position = place.tail_at() + place.tail;
            placed.push(place);
            directories.push(packing);
        }

        let shared_at = round_up(position, SLOT);
        let mut block = round_up(shared_at + shared.size, BLOCK) / BLOCK;
        for place in placed.iter_mut().filter(|place| place.blocks > 0) {
            place.first_block = u32::try_from(block).map_err(|_| fail(0, WriteProblem::ImageSize))?;
            block += place.blocks;
        }
        if u32::try_from(block).is_err() {
            return Err(fail(0, WriteProblem::ImageSize));
        }
        Ok(Self { inodes: placed, directories, build_time, shared_at, size: block * BLOCK })
    }
}

fn xattr_size(number: usize, inode: &Inode<'_>, shared: &SharedXattrs<'_, '_>, format: Format) -> usize {
    if inode.xattrs.is_empty() {
        return 0;
    }
    let (references, own) = shared.split(number, inode);
    let own_size =
        |xattr: &&super::xattr::Xattr<'_>| entry_size(split_name(&xattr.name, format).1.len(), xattr.value.len());
    size_of::<XattrHeader>() + references.len() * size_of::<u32>() + own.iter().map(own_size).sum::<usize>()
}

/// Form of the data of an inode without any; its place is not known yet.
const fn no_data() -> Placed {
    Placed {
        extended: false,
        layout: DataLayout::Plain,
        offset: 0,
        size: 0,
        xattr_size: 0,
        tail: 0,
        blocks: 0,
        first_block: 0,
        chunk_format: 0,
    }
}

fn inline(size: usize, blocks: usize, tail: usize) -> Placed {
    let layout = if tail > 0 { DataLayout::Inline } else { DataLayout::Plain };
    Placed { layout, size: size as u64, blocks, tail, ..no_data() }
}

fn directory_data(entries: &[(&[u8], super::inodes::Target)]) -> (Placed, Option<Packing>) {
    let packing = directory::pack(entries.iter().map(|(name, _)| *name));
    let tail = packing.tail.as_ref().map_or(0, |(_, size)| *size);
    (inline(packing.blocks.len() * BLOCK + tail, packing.blocks.len(), tail), Some(packing))
}

/// Form of the data before alignment, versions 0 and 1.
fn data(inode: &Inode<'_>) -> (Placed, Option<Packing>) {
    let place = match &inode.data {
        Data::Directory(entries) => return directory_data(entries),
        Data::Symlink(target) => inline(target.len(), 0, target.len()),
        Data::Bytes(bytes) => match (bytes.len() / BLOCK, bytes.len() % BLOCK) {
            (blocks, tail) if tail > TAIL_MAX => inline(bytes.len(), blocks + 1, 0),
            (blocks, tail) => inline(bytes.len(), blocks, tail),
        },
        Data::External { size, .. } => {
            let (chunk_format, count) = chunks(*size);
            let tail = count as usize * size_of_val(&NULL_CHUNK); // at most 1024 chunks: sizes are valid
            Placed { layout: DataLayout::Chunks, size: *size, tail, chunk_format, ..no_data() }
        }
        Data::Device(_) | Data::None => no_data(),
    };
    (place, None)
}

/// Form of the data, version 2: contents are always behind the inode, and a known object has one chunk.
fn v2_data(inode: &Inode<'_>) -> (Placed, Option<Packing>) {
    match &inode.data {
        Data::Bytes(bytes) => (inline(bytes.len(), 0, bytes.len()), None),
        Data::External { size, digest_known } => {
            let tail = if *digest_known { size_of_val(&NULL_CHUNK) } else { 0 };
            let layout = DataLayout::Chunks;
            (Placed { layout, size: *size, tail, chunk_format: V2_CHUNK_FORMAT, ..no_data() }, None)
        }
        _ => data(inode),
    }
}

fn fits_compact(inode: &Inode<'_>, place: &Placed, has_build_time: bool) -> bool {
    has_build_time
        && !inode.extended
        && inode.nlink <= u32::from(u16::MAX)
        && inode.stat.uid <= u32::from(u16::MAX)
        && inode.stat.gid <= u32::from(u16::MAX)
        && place.size <= u64::from(u32::MAX)
}

/// Moves `position` so that the tail does not cross a block, versions 0 and 1.
///
/// Symlinks do not cross one with header and attributes either: kernels before 6.12 refuse those. Tails that fit nowhere
/// get a block of their own.
fn align(position: &mut usize, place: &mut Placed, symlink: bool) {
    let before_tail = place.inode_size() + place.xattr_size;
    if symlink {
        let total = before_tail + place.tail;
        let crosses = *position / BLOCK != (*position + total - 1) / BLOCK;
        if total >= BLOCK {
            (place.blocks, place.tail, place.layout) = (1, 0, DataLayout::Plain);
        }
        if crosses {
            *position = round_up(*position, BLOCK);
        }
        return;
    }
    let room_at = |position: usize| BLOCK - (position + before_tail) % BLOCK;
    let room = room_at(*position);
    if room < place.tail {
        let padding = round_up(room, SLOT);
        if place.tail <= room_at(*position + padding) {
            *position += padding;
        } else {
            place.blocks += 1;
            place.tail = 0;
            *position = round_up(*position, BLOCK);
        }
    }
}

/// Moves `position` so that the tail does not cross a block, version 2: also when it would end exactly at one.
fn v2_align(position: &mut usize, place: &Placed) {
    let tail_at = *position + place.inode_size() + place.xattr_size;
    let end = tail_at - 1;
    if place.layout == DataLayout::Inline && end / BLOCK != (tail_at + place.size as usize % BLOCK) / BLOCK {
        *position = round_up(*position + BLOCK - end % BLOCK, SLOT);
    }
}
