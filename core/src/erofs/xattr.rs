//! Extended attributes: names, sizes, filter.

use std::borrow::Cow;

use xxhash_rust::xxh32::xxh32;

use super::layout::{XattrEntry, XattrHeader};
use super::{Format, overlay};
use crate::digest::Digest;

/// Seed of the name filter, to which the name index is added.
const FILTER_SEED: u32 = 0x25bb_e08f;

/// Index 5 is known to version 2 images only.
const PREFIX_LUSTRE: u8 = 5;
const PREFIXES: [(u8, &[u8]); 6] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (PREFIX_LUSTRE, b"lustre."),
    (6, b"security."),
];

/// One extended attribute as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Xattr<'t> {
    /// Full name.
    pub(super) name: Cow<'t, [u8]>,
    pub(super) value: Value<'t>,
}

/// An attribute's value. Those that nearly every file has take no memory of their own: they are made when they are
/// written. Of two values under one name, the order is that of their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Value<'t> {
    Bytes(Cow<'t, [u8]>),
    /// Of [`overlay::METACOPY`].
    Metacopy(Option<&'t Digest>),
    /// Of [`overlay::REDIRECT`]: a path, here without its leading slash.
    Redirect(&'t [u8]),
}

impl Value<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Metacopy(digest) => digest.map_or(0, overlay::metacopy_len),
            Self::Redirect(path) => 1 + path.len(),
        }
    }

    pub(super) fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
            Self::Metacopy(digest) => Cow::Owned(overlay::metacopy(*digest)),
            Self::Redirect(path) => Cow::Owned([b"/", *path].concat()),
        }
    }
}

/// Index of a name's prefix, and the rest of the name.
pub(super) fn split_name(name: &[u8], format: Format) -> (u8, &[u8]) {
    PREFIXES
        .iter()
        .filter(|(index, _)| *index != PREFIX_LUSTRE || format == Format::V2)
        .find_map(|(index, prefix)| Some((*index, name.strip_prefix(*prefix)?)))
        .unwrap_or((0, name))
}

/// Prefix of a name index; `None` for indexes that do not exist.
pub(super) fn prefix(index: u8) -> Option<&'static [u8]> {
    match index {
        0 => Some(b""),
        _ => PREFIXES.iter().find(|(known, _)| *known == index).map(|(_, prefix)| *prefix),
    }
}

/// Size of an entry with this suffix and value, including padding.
pub(super) fn entry_size(suffix_len: usize, value_len: usize) -> usize {
    (size_of::<XattrEntry>() + suffix_len + value_len).next_multiple_of(4)
}

/// The bit of the name filter that a name clears.
pub(super) fn filter_bit(index: u8, suffix: &[u8]) -> u32 {
    1 << (xxh32(suffix, FILTER_SEED + u32::from(index)) & 31)
}

/// The count field of an inode for a body of this many bytes; `None` if it does not fit.
pub(super) fn count_field(body_size: usize) -> Option<u16> {
    match body_size {
        0 => Some(0),
        _ => u16::try_from((body_size - size_of::<XattrHeader>()) / 4 + 1).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_bits_of_common_names() {
        let bit = |name: &[u8], format| {
            let (index, suffix) = split_name(name, format);
            filter_bit(index, suffix).trailing_zeros()
        };
        let known: [(&[u8], u32); 8] = [
            (b"trusted.overlay.metacopy", 31),
            (b"trusted.overlay.redirect", 17),
            (b"trusted.overlay.opaque", 20),
            (b"user.overlay.whiteouts", 20),
            (b"security.selinux", 11),
            (b"system.posix_acl_access", 30),
            (b"system.nfs4_acl", 10),
            (b"lustre.lov", 9),
        ];
        for (name, expected) in known {
            assert_eq!(bit(name, Format::V1), expected, "{}", name.escape_ascii());
        }
        assert_eq!(bit(b"lustre.lov", Format::V2), 21);
    }
}
