//! The 512-byte header block: ustar, GNU and old forms.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::FormatErrorKind;
use super::sparse::Extent;

/// Headers are one block; contents are padded to blocks.
pub(super) const BLOCK_LEN: usize = 512;

/// The block as POSIX defines it; GNU uses the prefix for other things.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    name: [u8; 100],
    mode: [u8; 8],
    uid: [u8; 8],
    gid: [u8; 8],
    size: [u8; 12],
    mtime: [u8; 12],
    checksum: [u8; 8],
    typeflag: u8,
    link_name: [u8; 100],
    magic: [u8; 6],
    version: [u8; 2],
    _user_name: [u8; 32],
    _group_name: [u8; 32],
    device_major: [u8; 8],
    device_minor: [u8; 8],
    prefix: [u8; 155],
    _pad: [u8; 12],
}

/// What GNU has in the place of prefix and padding.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawGnu {
    _before: [u8; 345],
    _times: [u8; 24],
    _offset: [u8; 12],
    _long_names: [u8; 4],
    _unused: u8,
    extents: [RawExtent; 4],
    is_extended: u8,
    real_size: [u8; 12],
    _pad: [u8; 17],
}

/// A block that continues the list of a GNU header or of the block before it.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtension {
    extents: [RawExtent; 21],
    is_extended: u8,
    _pad: [u8; 7],
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtent {
    offset: [u8; 12],
    len: [u8; 12],
}

const _: () = assert!(
    size_of::<Raw>() == BLOCK_LEN && size_of::<RawGnu>() == BLOCK_LEN && size_of::<RawExtension>() == BLOCK_LEN
);

/// Which form of header it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    Old,
    Ustar,
    Gnu,
}

/// A parsed header.
#[derive(Debug)]
pub(super) struct Header {
    flavour: Flavour,
    pub(super) typeflag: u8,
    /// Permission bits.
    pub(super) mode: u16,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime_secs: i64,
    pub(super) link_name: Vec<u8>,
    name: Vec<u8>,
    prefix: Vec<u8>,
    device_major: [u8; 8],
    device_minor: [u8; 8],
    /// Of sparse files (type flag `S`) only.
    pub(super) sparse: Option<GnuSparse>,
}

/// What a header of type `S` says about the file.
#[derive(Debug)]
pub(super) struct GnuSparse {
    pub(super) real_size: u64,
    pub(super) extents: Extents,
}

/// A part of the list of a sparse file's data.
#[derive(Debug)]
pub(super) struct Extents {
    pub(super) list: Vec<Extent>,
    /// The list goes on in the next block.
    pub(super) continued: bool,
}

impl Extents {
    /// Reads a block that follows a header of type `S`.
    pub(super) fn parse(block: &[u8; BLOCK_LEN]) -> Result<Self, FormatErrorKind> {
        let raw = RawExtension::ref_from_bytes(block).expect("the extension is as long as a block");
        Self::read(&raw.extents, raw.is_extended)
    }

    fn read(raw: &[RawExtent], is_extended: u8) -> Result<Self, FormatErrorKind> {
        let unsigned = |field: &[u8]| {
            number(field).and_then(|n| u64::try_from(n).ok()).ok_or(FormatErrorKind::Number("sparse extent"))
        };
        let used = raw.iter().take_while(|extent| extent.len[0] != 0);
        let list: Vec<Extent> = used
            .map(|extent| Ok(Extent { offset: unsigned(&extent.offset)?, len: unsigned(&extent.len)? }))
            .collect::<Result<_, _>>()?;
        // Readers do not agree on what comes after an unused place.
        if is_extended != 0 && list.len() < raw.len() {
            return Err(FormatErrorKind::Number("sparse extent"));
        }
        Ok(Self { list, continued: is_extended != 0 })
    }
}

impl Header {
    /// Checks the sum and reads all fields but the device numbers, which only devices need to have right.
    pub(super) fn parse(block: &[u8; BLOCK_LEN]) -> Result<Self, FormatErrorKind> {
        let raw = Raw::ref_from_bytes(block).expect("the header is as long as a block");
        check_sum(block, &raw.checksum)?;
        let flavour = match (&raw.magic, &raw.version) {
            (b"ustar\0", _) => Flavour::Ustar,
            (b"ustar ", b" \0") => Flavour::Gnu,
            _ => Flavour::Old,
        };
        let unsigned =
            |field: &[u8], name| number(field).and_then(|n| u64::try_from(n).ok()).ok_or(FormatErrorKind::Number(name));
        let signed =
            |field: &[u8], name| number(field).and_then(|n| i64::try_from(n).ok()).ok_or(FormatErrorKind::Number(name));
        let sparse = if raw.typeflag == b'S' && flavour == Flavour::Gnu {
            let gnu = RawGnu::ref_from_bytes(block).expect("the header is as long as a block");
            let extents = Extents::read(&gnu.extents, gnu.is_extended)?;
            Some(GnuSparse { real_size: unsigned(&gnu.real_size, "real size")?, extents })
        } else {
            None
        };
        Ok(Self {
            flavour,
            sparse,
            typeflag: raw.typeflag,
            mode: (unsigned(&raw.mode, "mode")? & 0o7777) as u16,
            uid: signed(&raw.uid, "uid")? as u64,
            gid: signed(&raw.gid, "gid")? as u64,
            size: unsigned(&raw.size, "size")?,
            mtime_secs: signed(&raw.mtime, "mtime")?,
            link_name: text(&raw.link_name),
            name: text(&raw.name),
            prefix: if flavour == Flavour::Ustar { text(&raw.prefix) } else { Vec::new() },
            device_major: raw.device_major,
            device_minor: raw.device_minor,
        })
    }

    /// The name, with the prefix that ustar has for longer ones.
    pub(super) fn name(&self) -> Vec<u8> {
        if self.prefix.is_empty() {
            return self.name.clone();
        }
        let mut name = self.prefix.clone();
        name.push(b'/');
        name.extend_from_slice(&self.name);
        name
    }

    /// The device number, in the kernel's 32-bit encoding (12 bits of major, 20 of minor).
    pub(super) fn device(&self) -> Result<u32, FormatErrorKind> {
        if self.flavour == Flavour::Old {
            return Err(FormatErrorKind::Number("device"));
        }
        let part = |field: &[u8], name, max: u32| {
            let value = number(field).and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= max);
            value.ok_or(FormatErrorKind::Number(name))
        };
        let major = part(&self.device_major, "device major", 0xfff)?;
        let minor = part(&self.device_minor, "device minor", 0xf_ffff)?;
        Ok(minor & 0xff | major << 8 | (minor & !0xff) << 12)
    }
}

/// The sum is over the block with the checksum field as spaces. Some old writers added signed bytes.
fn check_sum(block: &[u8; BLOCK_LEN], stated: &[u8; 8]) -> Result<(), FormatErrorKind> {
    let stated = number(stated).ok_or(FormatErrorKind::Checksum)?;
    let blanked = |i: usize, byte: u8| if (148..156).contains(&i) { b' ' } else { byte };
    let unsigned: i128 = block.iter().enumerate().map(|(i, b)| i128::from(blanked(i, *b))).sum();
    let signed: i128 = block.iter().enumerate().map(|(i, b)| i128::from(blanked(i, *b) as i8)).sum();
    if stated == unsigned || stated == signed { Ok(()) } else { Err(FormatErrorKind::Checksum) }
}

/// Bytes up to the first NUL.
fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|byte| *byte != 0).collect()
}

/// Octal digits between blanks and NULs, or base-256 (two's complement) where the first bit is set. An empty field is 0.
fn number(field: &[u8]) -> Option<i128> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (i, byte) in field.iter().enumerate() {
            let bits = if i > 0 || negative { *byte } else { *byte & 0x7f };
            value = value << 8 | i128::from(bits);
        }
        return Some(value);
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let mut value: i128 = 0;
    for digit in &digits[..end] {
        if !matches!(digit, b'0'..=b'7') {
            return None;
        }
        value = value << 3 | i128::from(digit - b'0');
    }
    digits[end..].iter().all(is_blank).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777"), Some(0o77777777));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"64 4\0\0\0\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 2]), Some(258));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
        assert_eq!(number(&[0x80, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), Some(2 << 56));
    }
}
