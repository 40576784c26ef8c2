//! What images hold for overlayfs: extended attributes and names that the tree does not have.
//!
//! The kernel's overlayfs finds the contents of external files through `trusted.overlay.metacopy` and
//! `trusted.overlay.redirect`. Attributes of that namespace that belong to the user get one more `overlay.` in their
//! name, so that the overlay shows them instead of obeying them. Source: "Nesting overlayfs mounts" in
//! `Documentation/filesystems/overlayfs.rst`.

use std::borrow::Cow;

use crate::digest::{Algorithm, Digest};

const PREFIX: &[u8] = b"trusted.overlay.";
const ESCAPED_PREFIX: &[u8] = b"trusted.overlay.overlay.";

pub(super) const METACOPY: &[u8] = b"trusted.overlay.metacopy";
pub(super) const REDIRECT: &[u8] = b"trusted.overlay.redirect";
pub(super) const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Value of [`OPAQUE`] on the root: nothing of the layers below shows through.
pub(super) const OPAQUE_YES: &[u8] = b"y";

/// Attributes of an empty regular file that make it a whiteout for a nested overlay. Values are empty.
pub(super) const WHITEOUT: [&[u8]; 2] = [b"trusted.overlay.overlay.whiteout", b"user.overlay.whiteout"];
/// Attributes of a directory in which such files are. Values are empty.
pub(super) const WHITEOUTS: [&[u8]; 2] = [b"trusted.overlay.overlay.whiteouts", b"user.overlay.whiteouts"];
/// Attributes which version 1 adds to the directory, because kernels from 6.8 on look there.
pub(super) const WHITEOUTS_OPAQUE: [&[u8]; 2] = [b"trusted.overlay.overlay.opaque", b"user.overlay.opaque"];
pub(super) const WHITEOUTS_OPAQUE_VALUE: &[u8] = b"x";

/// Names in the root that hide the directories of the object store where that is an ordinary lower layer, on kernels
/// before 6.5: `00` to `ff`.
pub(super) const STUB_NAMES: [[u8; 2]; 256] = {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut names = [[0; 2]; 256];
    let mut i = 0;
    while i < 256 {
        names[i] = [HEX[i >> 4], HEX[i & 15]];
        i += 1;
    }
    names
};
/// Attribute that stubs take from the root.
pub(super) const STUB_XATTR: &[u8] = b"security.selinux";

/// Whether a name in the root is one of [`STUB_NAMES`].
pub(super) fn is_stub_name(name: &[u8]) -> bool {
    name.len() == 2 && name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name under which a user's attribute is stored.
pub(super) fn escape(name: &[u8]) -> Cow<'_, [u8]> {
    match name.strip_prefix(PREFIX) {
        Some(rest) => Cow::Owned([ESCAPED_PREFIX, rest].concat()),
        None => Cow::Borrowed(name),
    }
}

/// A stored attribute's meaning.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored<'n> {
    /// Attribute of the user, under this name.
    User(Cow<'n, [u8]>),
    /// Attribute for overlayfs itself.
    Overlay,
}

/// Undoes [`escape`].
pub(super) fn unescape(name: &[u8]) -> Stored<'_> {
    if let Some(rest) = name.strip_prefix(ESCAPED_PREFIX) {
        Stored::User(Cow::Owned([PREFIX, rest].concat()))
    } else if name.starts_with(PREFIX) {
        Stored::Overlay
    } else {
        Stored::User(Cow::Borrowed(name))
    }
}

/// Length of the value of [`METACOPY`] for a digest: 36 or 68.
pub(super) const fn metacopy_len(digest: &Digest) -> usize {
    4 + digest.algorithm().digest_len()
}

/// Value of [`METACOPY`]: version, length, flags and algorithm in a byte each, then the digest. Empty without a digest.
pub(super) fn metacopy(digest: Option<&Digest>) -> Vec<u8> {
    let Some(digest) = digest else { return Vec::new() };
    let bytes = digest.as_bytes();
    let len = metacopy_len(digest) as u8;
    [&[0, len, 0, digest.algorithm().kernel_id()], bytes].concat()
}

/// Undoes [`metacopy`]; `None` if the value is anything else than it makes.
pub(super) fn parse_metacopy(value: &[u8]) -> Option<Option<Digest>> {
    match value {
        [] => Some(None),
        [0, len, 0, algorithm, bytes @ ..] if usize::from(*len) == value.len() => {
            Digest::new(Algorithm::from_kernel_id(*algorithm)?, bytes).map(Some)
        }
        _ => None,
    }
}
