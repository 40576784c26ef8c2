//! Split streams: a byte stream whose large parts live in objects of their own.
//!
//! A split stream is itself an object. It holds the small parts inline, compressed with zstd, names its large parts by
//! digest, and may name other streams under labels of the user's choice (named refs). The *merged* stream, the
//! concatenation of all parts, is byte for byte what was put in. Layout and rationale: `FORMAT.md`, "Split streams".

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{Chunk, Chunks, ReadError, Reader};
pub use writer::Writer;

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Marks a split stream; at byte 0, in the old header at byte 18.
const MAGIC: [u8; 11] = *b"SplitStream";
/// The only version of the format.
const VERSION: u8 = 0;
/// log2 of the fs-verity block size.
const LG_BLOCK_SIZE: u8 = 12;

/// What a split stream contains. On disk a little-endian u64, mostly eight ASCII letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContentType {
    /// Uncompressed tar archive of an OCI layer.
    Layer,
    /// OCI image configuration.
    Config,
    /// OCI manifest.
    Manifest,
    /// Any other OCI blob.
    Blob,
    /// A type of another program, kept as it is.
    Other(u64),
}

impl ContentType {
    /// The number on disk.
    pub const fn number(self) -> u64 {
        match self {
            Self::Layer => u64::from_le_bytes(*b"ocilayer"),
            // Without an i: what all writers of the format wrote.
            Self::Config => u64::from_le_bytes(*b"ociconfg"),
            Self::Manifest => u64::from_le_bytes(*b"ocimanif"),
            Self::Blob => u64::from_le_bytes(*b"oci_blob"),
            Self::Other(number) => number,
        }
    }

    /// The type with this number; [`ContentType::Other`] unless it is one of ours.
    pub fn from_number(number: u64) -> Self {
        [Self::Layer, Self::Config, Self::Manifest, Self::Blob]
            .into_iter()
            .find(|known| known.number() == number)
            .unwrap_or(Self::Other(number))
    }
}

/// Start and end of a section, in bytes from the start of the file.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Range {
    start: U64,
    end: U64,
}

/// The header, 32 bytes.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 11],
    version: u8,
    flags: U16,
    algorithm: u8,
    lg_block_size: u8,
    info: Range,
}

/// The header as bootc up to 1.15 wrote it. Read, never written.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct OldHeader {
    info: Range,
    flags: U16,
    magic: [u8; 11],
    version: u8,
    algorithm: u8,
    lg_block_size: u8,
}

/// The info block, 80 bytes; longer ones are accepted and their end is ignored.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Info {
    stream_refs: Range,
    object_refs: Range,
    stream: Range,
    named_refs: Range,
    content_type: U64,
    merged_size: U64,
}

const _: () = assert!(size_of::<Header>() == 32 && size_of::<OldHeader>() == 32 && size_of::<Info>() == 80);

/// Tells from its first 32 bytes whether an object is a split stream.
pub fn is_splitstream(header: &[u8]) -> bool {
    header.starts_with(&MAGIC) || header.get(18..).is_some_and(|rest| rest.starts_with(&MAGIC))
}
