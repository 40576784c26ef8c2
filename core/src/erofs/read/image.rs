//! The bytes of an image, with all that its superblock says. Nothing here reads outside of them.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::ReadError;
use crate::erofs::Format;
use crate::erofs::layout::{
    BLOCK, BLOCK_BITS, COMPAT_CHECKSUM, COMPAT_MTIME, COMPAT_XATTR_FILTER, HEADER_MAGIC, HEADER_VERSION, Header,
    INCOMPAT_CHUNKED_FILE, SUPERBLOCK_AT, SUPERBLOCK_MAGIC, Superblock,
};

#[derive(Debug)]
pub(super) struct Image<'i> {
    bytes: &'i [u8],
    pub(super) format: Format,
    pub(super) root_nid: u64,
    /// Modification time of compact inodes.
    pub(super) build_time: (i64, u32),
    /// What references to shared attributes count from.
    pub(super) shared_base: usize,
    /// Attributes have name filters that the kernel uses.
    pub(super) has_filters: bool,
}

impl<'i> Image<'i> {
    pub(super) fn new(bytes: &'i [u8]) -> Result<Self, ReadError> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK) {
            return Err(ReadError::Length(bytes.len()));
        }
        let whole_blocks = |_| ReadError::Length(bytes.len());
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|error| whole_blocks(error.into_src()))?;
        let (superblock, _) =
            Superblock::ref_from_prefix(&bytes[SUPERBLOCK_AT..]).map_err(|error| whole_blocks(error.into_src()))?;

        let check = |structure, field, value: u64, good: bool| match good {
            true => Ok(()),
            false => Err(ReadError::Field { structure, field, value }),
        };
        let header_field = |field, value: u32, good| check("header", field, u64::from(value), good);
        header_field("magic", header.magic.get(), header.magic.get() == HEADER_MAGIC)?;
        header_field("version", header.version.get(), header.version.get() == HEADER_VERSION)?;
        let composefs_version = header.composefs_version.get();
        let format = Format::from_number(composefs_version).ok_or(ReadError::Field {
            structure: "header",
            field: "composefs version",
            value: u64::from(composefs_version),
        })?;

        let field = |field, value: u64, good| check("superblock", field, value, good);
        let magic = superblock.magic.get();
        field("magic", u64::from(magic), magic == SUPERBLOCK_MAGIC)?;
        field("block size bits", u64::from(superblock.block_bits), superblock.block_bits == BLOCK_BITS)?;
        let compat = superblock.feature_compat.get();
        let known_compat = COMPAT_CHECKSUM | COMPAT_MTIME | COMPAT_XATTR_FILTER;
        field("compatible features", u64::from(compat), compat & !known_compat == 0)?;
        let incompat = superblock.feature_incompat.get();
        field("incompatible features", u64::from(incompat), incompat & !INCOMPAT_CHUNKED_FILE == 0)?;
        let build_time_nanos = superblock.build_time_nanos.get();
        field("build time nanoseconds", u64::from(build_time_nanos), build_time_nanos < 1_000_000_000)?;
        let shared_base = superblock.xattr_block.get() as usize * BLOCK;
        field("attribute block", u64::from(superblock.xattr_block.get()), shared_base <= bytes.len())?;
        for (name, value) in [
            ("extra slots", u64::from(superblock.extra_slots)),
            ("compression", u64::from(superblock.compression.get())),
            ("extra devices", u64::from(superblock.extra_devices.get())),
            ("packed inode", superblock.packed_nid.get()),
            ("metadata block", u64::from(superblock.meta_block.get())),
            ("attribute prefixes", u64::from(superblock.xattr_prefix_count)),
        ] {
            field(name, value, value == 0)?;
        }
        Ok(Self {
            bytes,
            format,
            root_nid: u64::from(superblock.root_nid.get()),
            build_time: (superblock.build_time.get(), build_time_nanos),
            shared_base,
            has_filters: compat & COMPAT_XATTR_FILTER != 0,
        })
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// `len` bytes at `at`, if all of them are in the image.
    pub(super) fn get(&self, at: usize, len: usize) -> Option<&'i [u8]> {
        self.bytes.get(at..at.checked_add(len)?)
    }

    /// All bytes from `at` on.
    pub(super) fn get_from(&self, at: usize) -> Option<&'i [u8]> {
        self.bytes.get(at..)
    }

    pub(super) fn get_struct<T: FromBytes + KnownLayout + Immutable + Unaligned>(&self, at: usize) -> Option<&'i T> {
        T::ref_from_bytes(self.get(at, size_of::<T>())?).ok()
    }
}
