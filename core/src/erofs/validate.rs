//! What a tree must be so that it can be written, and read again.

use thiserror::Error;

use super::{Format, overlay};
use crate::digest::Digest;
use crate::tree::{
    Content, Entry, FILE_SIZE_MAX, INLINE_LIMIT, Leaf, LeafKind, NAME_MAX, PAYLOAD_MAX, SYMLINK_MAX, Stat, Tree,
};

/// Most directories on a path below the root; readers refuse more.
pub(super) const DEPTH_MAX: usize = 2047;
/// Most bytes of a file in a version 2 image itself.
pub(super) const V2_INLINE_LIMIT: usize = 512;
/// Longest symlink target in a version 2 image.
pub(super) const V2_SYMLINK_MAX: usize = 1024;

const PRINTED_PATH_MAX: usize = 4096;
const XATTR_NAME_MAX: usize = 255;
const XATTR_VALUE_MAX: usize = 65535;

/// A tree that has no image.
#[derive(Debug, Error)]
#[error("cannot write {path} to an image")]
#[non_exhaustive]
pub struct WriteError {
    /// The file, with unprintable bytes escaped.
    pub path: String,
    /// What is wrong with it.
    #[source]
    pub problem: WriteProblem,
}

/// Why a file cannot be in an image.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteProblem {
    /// Empty, `.`, `..`, longer than 255 bytes, or with `/` or NUL.
    #[error("this is not a file name")]
    Name,
    /// More than 2047 directories above each other.
    #[error("more than {DEPTH_MAX} nested directories")]
    Depth,
    /// The entry refers to a leaf that the tree does not have.
    #[error("entry without a file")]
    NoLeaf,
    /// Mode bits other than permissions.
    #[error("mode {0:o} has other bits than permissions")]
    Mode(u16),
    /// Nanoseconds of a whole second or more.
    #[error("modification time has {0} nanoseconds")]
    Nanoseconds(u32),
    /// Name of an extended attribute.
    #[error("extended attribute name of {0} bytes, must be 1 to 255 without NUL")]
    XattrName(usize),
    /// Value of an extended attribute.
    #[error("extended attribute value of {0} bytes, at most 65535 are possible")]
    XattrValue(usize),
    /// All extended attributes of one file.
    #[error("extended attributes need {0} bytes, which is more than an inode can have")]
    XattrTotal(usize),
    /// Contents are too long to be in the image.
    #[error("inline content of {0} bytes is too long")]
    InlineLength(usize),
    /// Symlink target is empty, too long or contains NUL.
    #[error("symlink target of {0} bytes, must be 1 to {1} without NUL")]
    Target(usize, usize),
    /// External contents are empty or too large.
    #[error("external file of {0} bytes, must be 1 to {FILE_SIZE_MAX}")]
    ExternalSize(u64),
    /// Payload is too long, contains NUL or `..`.
    #[error("payload is not a path below the object directory")]
    Payload,
    /// Version 2 images name contents by object only.
    #[error("payload is not the path of an object, as version 2 images need it")]
    PayloadNotObject,
    /// Version 2 images store whiteouts as they are, and those have one name.
    #[error("whiteout with several names")]
    WhiteoutLinked,
    /// Block numbers have 32 bits.
    #[error("the image would have more than 2^32 blocks")]
    ImageSize,
}

/// A path for an error message; of a very long one the end.
pub(super) fn printable_path<'n>(names: impl IntoIterator<Item = &'n [u8]>) -> String {
    let path: String = names.into_iter().map(|name| format!("/{}", name.escape_ascii())).collect();
    match path.len() {
        0 => "/".to_owned(),
        1..=PRINTED_PATH_MAX => path,
        len => format!("...{}", &path[len - PRINTED_PATH_MAX..]), // all of it is ASCII
    }
}

/// Whether a directory can have an entry of this name.
pub(super) fn is_file_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= NAME_MAX && !name.contains(&b'/') && !name.contains(&0)
}

/// Whether a payload stays below the object directory.
pub(super) fn is_payload(payload: &[u8]) -> bool {
    payload.len() <= PAYLOAD_MAX
        && !payload.contains(&0)
        && !payload.split(|&byte| byte == b'/').any(|component| component == b"..")
}

/// The object that a payload ends with, whatever directories are before it.
pub(super) fn payload_object(payload: &[u8]) -> Option<Digest> {
    // Lengths of `xx/rest` for both algorithms, the longer one first: it ends like the shorter.
    [129, 65].into_iter().find_map(|len| {
        let path = str::from_utf8(payload.get(payload.len().checked_sub(len)?..)?).ok()?;
        Digest::from_object_path(path).ok()
    })
}

/// Checks everything that can be checked before places are assigned.
pub(super) fn validate(tree: &Tree, format: Format) -> Result<(), WriteError> {
    let mut linked = vec![false; tree.leaves.len()];
    let mut path: Vec<&[u8]> = Vec::new();
    let fail = |path: &[&[u8]], problem| WriteError { path: printable_path(path.iter().copied()), problem };
    validate_stat(&tree.root.stat).map_err(|problem| fail(&path, problem))?;
    let mut open = vec![tree.root.entries.iter()];
    loop {
        let depth = open.len();
        let Some(entries) = open.last_mut() else { return Ok(()) };
        path.truncate(depth - 1);
        let Some((name, entry)) = entries.next() else {
            open.pop();
            continue;
        };
        path.push(name);
        let checked = (|| {
            if !is_file_name(name) {
                return Err(WriteProblem::Name);
            }
            match entry {
                Entry::Directory(child) => {
                    if path.len() > DEPTH_MAX {
                        return Err(WriteProblem::Depth);
                    }
                    validate_stat(&child.stat)?;
                    open.push(child.entries.iter());
                }
                Entry::Leaf(id) => {
                    let leaf = tree.leaves.get(id.0).ok_or(WriteProblem::NoLeaf)?;
                    let again = std::mem::replace(&mut linked[id.0], true);
                    if again && format == Format::V2 && leaf.kind == LeafKind::CharDevice(0) {
                        return Err(WriteProblem::WhiteoutLinked);
                    }
                    validate_stat(&leaf.stat)?;
                    validate_leaf(leaf, format)?;
                }
            }
            Ok(())
        })();
        checked.map_err(|problem| fail(&path, problem))?;
    }
}

fn validate_stat(stat: &Stat) -> Result<(), WriteProblem> {
    if stat.mode & !0o7777 != 0 {
        return Err(WriteProblem::Mode(stat.mode));
    }
    if stat.mtime_nanos >= 1_000_000_000 {
        return Err(WriteProblem::Nanoseconds(stat.mtime_nanos));
    }
    for (name, value) in &stat.xattrs {
        let stored = overlay::escape(name);
        if name.is_empty() || stored.len() > XATTR_NAME_MAX || name.contains(&0) {
            return Err(WriteProblem::XattrName(stored.len()));
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(WriteProblem::XattrValue(value.len()));
        }
    }
    Ok(())
}

fn validate_leaf(leaf: &Leaf, format: Format) -> Result<(), WriteProblem> {
    let v2 = format == Format::V2;
    match &leaf.kind {
        LeafKind::Regular(Content::Inline(bytes)) => {
            if bytes.len() > if v2 { V2_INLINE_LIMIT } else { INLINE_LIMIT } {
                return Err(WriteProblem::InlineLength(bytes.len()));
            }
        }
        LeafKind::Regular(Content::External { size, payload, digest }) => {
            if !(1..=FILE_SIZE_MAX).contains(size) {
                return Err(WriteProblem::ExternalSize(*size));
            }
            if let Some(payload) = payload.as_deref() {
                if !is_payload(payload) {
                    return Err(WriteProblem::Payload);
                }
                if v2 && digest.is_none() && payload_object(payload).is_none() {
                    return Err(WriteProblem::PayloadNotObject);
                }
            }
        }
        LeafKind::Symlink(target) => {
            let max = if v2 { V2_SYMLINK_MAX } else { SYMLINK_MAX };
            if target.is_empty() || target.len() > max || target.contains(&0) {
                return Err(WriteProblem::Target(target.len(), max));
            }
        }
        LeafKind::CharDevice(_) | LeafKind::BlockDevice(_) | LeafKind::Fifo | LeafKind::Socket => {}
    }
    Ok(())
}
