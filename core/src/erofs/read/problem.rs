//! What can be wrong with an image.

use thiserror::Error;

use crate::erofs::validate::{DEPTH_MAX, V2_INLINE_LIMIT, V2_SYMLINK_MAX};
use crate::tree::{FILE_SIZE_MAX, INLINE_LIMIT, SYMLINK_MAX};

/// Bytes that are not a sound composefs image.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Images are whole blocks.
    #[error("image has {0} bytes, which is not a number of 4096-byte blocks")]
    Length(usize),
    /// A field of the composefs header or of the superblock.
    #[error("image {structure} has {field} {value:#x}, which is not possible")]
    Field {
        /// `header` or `superblock`.
        structure: &'static str,
        /// Its field.
        field: &'static str,
        /// What is there.
        value: u64,
    },
    /// A file of the image.
    #[error("cannot read {path} in the image")]
    File {
        /// Its path, with unprintable bytes escaped.
        path: String,
        /// What is wrong with it.
        #[source]
        problem: ReadProblem,
    },
}

/// What is wrong with a file of an image.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadProblem {
    /// The inode is not in the image, or not as a whole.
    #[error("inode {0} is outside of the image")]
    InodeOutside(u64),
    /// The inode's data is compressed or of an unknown layout.
    #[error("unknown data layout {0}")]
    Layout(u16),
    /// The mode has no known type.
    #[error("mode {0:o} has an unknown type")]
    Mode(u16),
    /// Nanoseconds of a second or more.
    #[error("modification time has {0} nanoseconds")]
    Nanoseconds(u32),
    /// Data is beyond the end of the image.
    #[error("data of {0} bytes is outside of the image")]
    DataOutside(u64),
    /// The part of the data behind the inode crosses a block.
    #[error("data behind the inode crosses a block")]
    TailCrosses,
    /// Files use parts of the image more than once.
    #[error("structures of the image overlap")]
    Overlap,
    /// A device, pipe or socket has data, or a directory or symlink is external.
    #[error("data that a file of this type cannot have")]
    UnexpectedData,
    /// Inline content is too long.
    #[error("inline content of {0} bytes, at most {INLINE_LIMIT} are possible ({V2_INLINE_LIMIT} in version 2)")]
    InlineLength(u64),
    /// Symlink target is empty, too long or contains NUL.
    #[error("symlink target of {0} bytes, must be 1 to {SYMLINK_MAX} ({V2_SYMLINK_MAX} in version 2) without NUL")]
    Target(u64),
    /// External file larger than images can describe.
    #[error("external file of {0} bytes, at most {FILE_SIZE_MAX} are possible")]
    ExternalSize(u64),
    /// Chunk format or table of an external file is not the one for its size.
    #[error("chunk table does not describe an external file of this size")]
    Chunks,
    /// External file without the attribute that leads to its contents.
    #[error("external file without a metacopy attribute")]
    MetacopyMissing,
    /// Value of `trusted.overlay.metacopy`.
    #[error("malformed trusted.overlay.metacopy")]
    Metacopy,
    /// Value of `trusted.overlay.redirect`: not a path below the object directory, or not that of the digest.
    #[error("trusted.overlay.redirect does not lead to the contents")]
    Redirect,
    /// An attribute that overlayfs obeys where no writer puts it.
    #[error("unexpected attribute {0} for overlayfs")]
    OverlayXattr(String),
    /// Extended attributes are not as their header says.
    #[error("extended attributes reach beyond their end")]
    XattrOutside,
    /// A header of extended attributes with nothing behind it.
    #[error("extended attributes have a header only, which kernels do not read")]
    XattrEmpty,
    /// A shared extended attribute is not in the image.
    #[error("shared extended attribute {0} is outside of the image")]
    XattrShared(u32),
    /// Name of an extended attribute.
    #[error("malformed extended attribute name {0:?}")]
    XattrName(String),
    /// The same name twice.
    #[error("extended attribute {0:?} is there twice")]
    XattrDuplicate(String),
    /// The name filter would hide attributes or is not the one that writers make.
    #[error("filter of extended attributes does not match them")]
    XattrFilter,
    /// Shared attributes would need much more memory than the image.
    #[error("extended attributes of all files are too large")]
    XattrTotal,
    /// Entries of a directory are not as their offsets say.
    #[error("malformed directory block")]
    DirectoryBlock,
    /// Not a file name.
    #[error("malformed file name {0:?}")]
    Name(String),
    /// Names are not in order, or one is there twice.
    #[error("file name {0:?} is out of order or there twice")]
    NameOrder(String),
    /// `.` or `..` is missing or refers to another directory.
    #[error("directory entry {0:?} is missing or wrong")]
    DotEntry(&'static str),
    /// The type in the directory is not that of the inode.
    #[error("directory says type {entry} for mode {mode:o}")]
    DirentType {
        /// Type number in the directory.
        entry: u8,
        /// Mode of the inode.
        mode: u16,
    },
    /// A directory with two names.
    #[error("directory is reachable by two paths")]
    DirectoryTwice,
    /// Nested too deeply.
    #[error("more than {DEPTH_MAX} nested directories")]
    Depth,
    /// Link count is not the number of names.
    #[error("link count is {stated}, counted are {counted}")]
    LinkCount {
        /// What the inode says.
        stated: u32,
        /// What the directories say.
        counted: u32,
    },
    /// The root lacks names that hide the object store.
    #[error("root directory lacks the entry {0}")]
    StubMissing(String),
    /// A whiteout device where the format has none, or with several names.
    #[error("whiteout that a version {0} image cannot have")]
    Whiteout(u32),
    /// The root is not a directory.
    #[error("root is not a directory")]
    RootType,
}
