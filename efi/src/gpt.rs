//! The partitions of a disk, read from its GUID partition table.
//!
//! Read here and not asked of udev or the kernel: the initramfs and containers have no udev links, and the kernel shows
//! types of partitions nowhere. Both copies of the table have checksums; a table is used only if they are right.
//! Source: UEFI specification, chapter 5.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::str::FromStr;

use thiserror::Error;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Type of an EFI system partition.
pub const ESP_TYPE: Guid = Guid::new(0xc12a7328, 0xf81f, 0x11d2, 0xba4b_00a0c93ec93b);

/// Type of an extended boot loader partition.
pub const XBOOTLDR_TYPE: Guid = Guid::new(0xbc13c2ff, 0x59e6, 0x4262, 0xa352_b275fd6f7172);

const SIGNATURE: [u8; 8] = *b"EFI PART";

/// More than this is no sensible table; usual are 128 entries of 128 bytes.
const TABLE_LIMIT_BYTES: u64 = 1 << 20;

/// Identifier in a partition table, in the order of bytes on disk: the first three groups are little endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Guid([u8; 16]);

impl Guid {
    pub(crate) const fn new(a: u32, b: u16, c: u16, rest: u64) -> Self {
        let (a, b, c, rest) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), rest.to_be_bytes());
        Self([
            a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], rest[0], rest[1], rest[2], rest[3], rest[4], rest[5],
            rest[6], rest[7],
        ])
    }

    /// Marks a table entry that is not used.
    const UNUSED: Self = Self([0; 16]);
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = self.0;
        for (i, byte) in [a3, a2, a1, a0, b1, b0, c1, c0].into_iter().chain(rest).enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an identifier.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a GUID")]
pub struct ParseGuidError(String);

impl FromStr for Guid {
    type Err = ParseGuidError;

    /// Reads `c12a7328-f81f-11d2-ba4b-00a0c93ec93b`, in capitals too.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let lengths: Vec<usize> = text.split('-').map(str::len).collect();
            if lengths != [8, 4, 4, 4, 12] || !text.bytes().all(|c| c == b'-' || c.is_ascii_hexdigit()) {
                return None;
            }
            let number = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
            // Truncation takes the groups apart.
            Some(Self::new((number >> 96) as u32, (number >> 80) as u16, (number >> 64) as u16, number as u64))
        };
        parse().ok_or_else(|| ParseGuidError(text.to_owned()))
    }
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GptPartition {
    /// Its number, counted from 1.
    pub number: u32,
    /// What it is for.
    pub kind: Guid,
    /// Its own identifier, `PARTUUID`.
    pub id: Guid,
}

/// Why a disk's partitions cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GptError {
    /// Neither copy of the table is there.
    #[error("there is no GUID partition table")]
    None,
    /// A table is there, but no copy of it is whole.
    #[error("the GUID partition table is damaged")]
    Damaged,
    /// The disk cannot be read.
    #[error("reading failed")]
    Read(#[source] io::Error),
}

/// The table's header. All numbers are little endian.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    signature: [u8; 8],
    revision: U32,
    header_size: U32,
    header_crc32: U32,
    reserved: U32,
    my_block: U64,
    other_block: U64,
    first_usable_block: U64,
    last_usable_block: U64,
    disk: Guid,
    table_block: U64,
    entry_count: U32,
    entry_size: U32,
    table_crc32: U32,
}

const _: () = assert!(size_of::<Header>() == 92);

/// An entry of the table, as far as we read it; a name follows.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct TableEntry {
    kind: Guid,
    id: Guid,
    first_block: U64,
    last_block: U64,
    attributes: U64,
}

/// Reads the partitions of a disk with logical blocks of `block_bytes`. The second copy of the table, at the end of the
/// disk, is used if the first is damaged.
pub fn partitions<D: Read + Seek>(disk: &mut D, block_bytes: u64) -> Result<Vec<GptPartition>, GptError> {
    let first = read_table(disk, block_bytes, 1);
    let Err(GptError::None | GptError::Damaged) = first else { return first };
    let blocks = disk.seek(SeekFrom::End(0)).map_err(GptError::Read)? / block_bytes;
    match (read_table(disk, block_bytes, blocks.saturating_sub(1)), first) {
        (Err(GptError::None), first) => first,
        (second, _) => second,
    }
}

fn read_table<D: Read + Seek>(disk: &mut D, block_bytes: u64, block: u64) -> Result<Vec<GptPartition>, GptError> {
    let header_block = read_at(disk, block.checked_mul(block_bytes), block_bytes)?;
    let (header, _) = Header::read_from_prefix(&header_block).map_err(|_| GptError::None)?;
    if header.signature != SIGNATURE {
        return Err(GptError::None);
    }
    let mut checked = header_block.get(..header.header_size.get() as usize).ok_or(GptError::Damaged)?.to_vec();
    // The checksum is of the header with zeros in its own place.
    checked.get_mut(16..20).ok_or(GptError::Damaged)?.fill(0);
    if checked.len() < size_of::<Header>()
        || crc32(&checked) != header.header_crc32.get()
        || header.my_block.get() != block
    {
        return Err(GptError::Damaged);
    }
    let entry_size = header.entry_size.get() as usize;
    let table_bytes = u64::from(header.entry_count.get()) * u64::from(header.entry_size.get());
    if entry_size < size_of::<TableEntry>() || table_bytes > TABLE_LIMIT_BYTES {
        return Err(GptError::Damaged);
    }
    let table = read_at(disk, header.table_block.get().checked_mul(block_bytes), table_bytes)?;
    if crc32(&table) != header.table_crc32.get() {
        return Err(GptError::Damaged);
    }
    let entries = table.chunks_exact(entry_size).zip(1..);
    let partition = |(entry, number)| {
        let (entry, _) = TableEntry::ref_from_prefix(entry).ok()?;
        (entry.kind != Guid::UNUSED).then_some(GptPartition { number, kind: entry.kind, id: entry.id })
    };
    Ok(entries.filter_map(partition).collect())
}

/// Reads so many bytes; a disk that ends before them has no table there.
fn read_at<D: Read + Seek>(disk: &mut D, offset: Option<u64>, len: u64) -> Result<Vec<u8>, GptError> {
    let offset = offset.ok_or(GptError::Damaged)?;
    disk.seek(SeekFrom::Start(offset)).map_err(GptError::Read)?;
    let mut bytes = Vec::new();
    disk.take(len).read_to_end(&mut bytes).map_err(GptError::Read)?;
    if bytes.len() as u64 == len { Ok(bytes) } else { Err(GptError::None) }
}

/// CRC-32 as UEFI and zlib compute it.
fn crc32(bytes: &[u8]) -> u32 {
    let step =
        |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)));
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Cursor;

    use super::*;

    /// The first and the last 34 blocks of a disk of 2048 blocks, made by sfdisk; `gpt.txt` beside it has the recipe.
    const ENDS: &[u8] = include_bytes!("../tests/gpt.bin");

    pub(crate) fn disk() -> Vec<u8> {
        let mut disk = vec![0; 2048 * 512];
        disk[..34 * 512].copy_from_slice(&ENDS[..34 * 512]);
        disk[(2048 - 34) * 512..].copy_from_slice(&ENDS[34 * 512..]);
        disk
    }

    fn read(disk: &[u8]) -> Result<Vec<GptPartition>, GptError> {
        partitions(&mut Cursor::new(disk), 512)
    }

    #[test]
    fn partitions_of_a_real_table_are_read() {
        let found = read(&disk()).unwrap();
        assert_eq!(found.iter().map(|partition| partition.number).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(found[0].kind, ESP_TYPE);
        assert_eq!(found[0].id.to_string(), "11111111-2222-3333-4444-555555555555");
        assert_eq!(found[1].kind, XBOOTLDR_TYPE);
        assert_eq!(found[2].id.to_string(), "0123abcd-4567-89ab-cdef-0123456789ab");
    }

    #[test]
    fn the_second_copy_serves_when_the_first_is_damaged() {
        let whole = read(&disk()).unwrap();
        for byte in [512, 512 + 24, 512 + 40, 1024 + 3, 1024 + 128 * 127] {
            let mut damaged = disk();
            damaged[byte] ^= 1;
            assert_eq!(read(&damaged).unwrap(), whole, "byte {byte}");
            let second = damaged.len() - 512 + 24;
            damaged[second] ^= 1;
            assert!(matches!(read(&damaged), Err(GptError::Damaged)), "byte {byte}");
        }
    }

    #[test]
    fn disks_without_a_table_have_none() {
        for disk in [vec![], vec![0; 100], vec![0; 512], vec![0; 1024], vec![0; 1 << 20]] {
            assert!(matches!(read(&disk), Err(GptError::None)), "{} bytes", disk.len());
        }
        // A table for blocks of 512 bytes on a disk with blocks of 4096.
        assert!(matches!(partitions(&mut Cursor::new(disk()), 4096), Err(GptError::None)));
    }

    #[test]
    fn hostile_sizes_do_no_harm() {
        let fields = [(12, u32::MAX), (12, 0), (12, 93), (80, u32::MAX), (84, u32::MAX), (84, 0), (84, 56)];
        for (field, value) in fields {
            let mut disk = disk();
            disk[512 + field..512 + field + 4].copy_from_slice(&value.to_le_bytes());
            let size = u32::from_le_bytes(disk[512 + 12..512 + 16].try_into().unwrap()) as usize;
            disk[512 + 16..512 + 20].fill(0);
            let crc = crc32(&disk[512..512 + size.min(512)]);
            disk[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
            let last = disk.len() - 512;
            disk[last..last + 8].fill(0);
            assert!(!matches!(read(&disk), Err(GptError::Read(_))), "{field} {value}");
        }
    }

    #[test]
    fn identifiers_have_one_text_in_lower_case() {
        assert_eq!(ESP_TYPE.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!("C12A7328-F81F-11D2-BA4B-00A0C93EC93B".parse(), Ok(ESP_TYPE));
        for text in ["", "c12a7328f81f11d2ba4b00a0c93ec93b", "+12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ab-"] {
            assert!(text.parse::<Guid>().is_err(), "{text}");
        }
    }

    #[test]
    fn checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
