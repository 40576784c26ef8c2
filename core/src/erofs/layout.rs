//! Structures and constants of the on-disk format. Sizes and offsets in bytes; all integers little-endian.
//!
//! Source: `fs/erofs/erofs_fs.h` of the kernel; the header before it is composefs' own. Changing anything here changes
//! every image digest.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const BLOCK: usize = 4096;
pub(super) const BLOCK_BITS: u8 = 12;
/// Inodes begin at multiples of this; an inode's number (nid) is its offset divided by it.
pub(super) const SLOT: usize = 32;
pub(super) const SUPERBLOCK_AT: usize = 1024;
pub(super) const FIRST_INODE_AT: usize = SUPERBLOCK_AT + size_of::<Superblock>();

pub(super) const HEADER_MAGIC: u32 = 0xd078_629a;
pub(super) const HEADER_VERSION: u32 = 1;
/// Flag of the header: some inode has a POSIX ACL.
pub(super) const HEADER_HAS_ACL: u32 = 1;
pub(super) const SUPERBLOCK_MAGIC: u32 = 0xe0f5_e1e2;
pub(super) const COMPAT_CHECKSUM: u32 = 1;
pub(super) const COMPAT_MTIME: u32 = 2;
pub(super) const COMPAT_XATTR_FILTER: u32 = 4;
pub(super) const INCOMPAT_CHUNKED_FILE: u32 = 4;

/// The composefs header at offset 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: U32,
    pub(super) version: U32,
    pub(super) flags: U32,
    pub(super) composefs_version: U32,
    pub(super) unused: [U32; 4],
}

/// The EROFS superblock.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Superblock {
    pub(super) magic: U32,
    pub(super) checksum: U32,
    pub(super) feature_compat: U32,
    pub(super) block_bits: u8,
    pub(super) extra_slots: u8,
    pub(super) root_nid: U16,
    pub(super) inodes: U64,
    /// Modification time of compact inodes.
    pub(super) build_time: I64,
    pub(super) build_time_nanos: U32,
    pub(super) blocks: U32,
    pub(super) meta_block: U32,
    pub(super) xattr_block: U32,
    pub(super) uuid: [u8; 16],
    pub(super) volume_name: [u8; 16],
    pub(super) feature_incompat: U32,
    pub(super) compression: U16,
    pub(super) extra_devices: U16,
    pub(super) device_table_slot: U16,
    pub(super) directory_block_bits: u8,
    pub(super) xattr_prefix_count: u8,
    pub(super) xattr_prefix_start: U32,
    pub(super) packed_nid: U64,
    pub(super) xattr_filter_reserved: u8,
    pub(super) reserved: [u8; 23],
}

/// Bit 0 of an inode's format.
pub(super) const FORMAT_EXTENDED: u16 = 1;

/// Where an inode's data is: bits 1 to 3 of its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// In blocks.
    Plain = 0,
    /// In blocks, and the last part behind the inode.
    Inline = 2,
    /// Elsewhere; a table of chunks is behind the inode.
    Chunks = 4,
}

/// Inode without a time of its own, 32 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct CompactInode {
    pub(super) format: U16,
    pub(super) xattr_count: U16,
    pub(super) mode: U16,
    pub(super) nlink: U16,
    pub(super) size: U32,
    pub(super) reserved: U32,
    pub(super) data: U32,
    pub(super) inode_number: U32,
    pub(super) uid: U16,
    pub(super) gid: U16,
    pub(super) reserved2: U32,
}

/// Inode with all fields, 64 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtendedInode {
    pub(super) format: U16,
    pub(super) xattr_count: U16,
    pub(super) mode: U16,
    pub(super) reserved: U16,
    pub(super) size: U64,
    /// First block, device number or chunk format.
    pub(super) data: U32,
    pub(super) inode_number: U32,
    pub(super) uid: U32,
    pub(super) gid: U32,
    pub(super) mtime: I64,
    pub(super) mtime_nanos: U32,
    pub(super) nlink: U32,
    pub(super) reserved2: [u8; 16],
}

/// Begins the extended attributes of an inode; shared references (u32 each) and entries follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct XattrHeader {
    /// A set bit says that no name with this hash is there.
    pub(super) filter: U32,
    pub(super) shared_count: u8,
    pub(super) reserved: [u8; 7],
}

/// Begins one extended attribute; the rest of the name, the value and padding to 4 bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct XattrEntry {
    pub(super) name_len: u8,
    pub(super) name_index: u8,
    pub(super) value_len: U16,
}

/// Directory entry; the names follow all entries of a block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Dirent {
    pub(super) nid: U64,
    /// From the start of the block.
    pub(super) name_offset: U16,
    pub(super) file_type: u8,
    pub(super) reserved: u8,
}

const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(size_of::<Superblock>() == 128);
    assert!(size_of::<CompactInode>() == 32);
    assert!(size_of::<ExtendedInode>() == 64);
    assert!(size_of::<XattrHeader>() == 12);
    assert!(size_of::<XattrEntry>() == 4);
    assert!(size_of::<Dirent>() == 12);
};

/// File type bits of a mode.
pub(super) const S_IFMT: u16 = 0o170000;
pub(super) const S_IFIFO: u16 = 0o010000;
pub(super) const S_IFCHR: u16 = 0o020000;
pub(super) const S_IFDIR: u16 = 0o040000;
pub(super) const S_IFBLK: u16 = 0o060000;
pub(super) const S_IFREG: u16 = 0o100000;
pub(super) const S_IFLNK: u16 = 0o120000;
pub(super) const S_IFSOCK: u16 = 0o140000;

/// The type in a directory entry for a mode; `None` if the mode's type is none of the seven.
pub(super) fn dirent_type(mode: u16) -> Option<u8> {
    match mode & S_IFMT {
        S_IFREG => Some(1),
        S_IFDIR => Some(2),
        S_IFCHR => Some(3),
        S_IFBLK => Some(4),
        S_IFIFO => Some(5),
        S_IFSOCK => Some(6),
        S_IFLNK => Some(7),
        _ => None,
    }
}

/// What a chunk table has for "no block": all chunks of our files.
pub(super) const NULL_CHUNK: u32 = 0xffff_ffff;
/// Chunks have at most 2^43 bytes.
const CHUNK_BITS_MAX: u32 = 43;
/// Chunk format of every external file in version 2 images.
pub(super) const V2_CHUNK_FORMAT: u32 = 31;

/// Chunk format and number of chunks of an external file in version 0 and 1 images. `size` is above 0.
pub(super) fn chunks(size: u64) -> (u32, u64) {
    let bits = (u64::BITS - (size - 1).leading_zeros()).clamp(u32::from(BLOCK_BITS), CHUNK_BITS_MAX);
    (bits - u32::from(BLOCK_BITS), size.div_ceil(1 << bits))
}

/// `offset` rounded up to a multiple of `step`, a power of two.
pub(super) const fn round_up(offset: usize, step: usize) -> usize {
    (offset + step - 1) & !(step - 1)
}
