//! What can be wrong with a dumpfile.

use thiserror::Error;

/// A dumpfile that is not one, with the first line where this shows.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("dumpfile line {line}: {problem}")]
pub struct ParseError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: ParseProblem,
}

/// What is wrong with one line of a dumpfile.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseProblem {
    /// The text has no lines.
    #[error("there are no entries")]
    Empty,
    /// A NUL byte stands in the text itself.
    #[error("a NUL byte in the text")]
    Nul,
    /// The line ends before this field.
    #[error("field {0} is missing")]
    FieldMissing(&'static str),
    /// A field has no characters; what is not set is `-`.
    #[error("field {0} is empty")]
    FieldEmpty(&'static str),
    /// The field must be set for this kind of file.
    #[error("field {0} is not set")]
    FieldUnset(&'static str),
    /// The field must not be set for this kind of file.
    #[error("field {0} is set, which a file of this type cannot have")]
    FieldUnexpected(&'static str),
    /// A number has other characters than digits or is too large.
    #[error("field {0} is not a number in range")]
    Number(&'static str),
    /// A field contains NUL after unescaping.
    #[error("field {0} contains a NUL byte")]
    FieldNul(&'static str),
    /// A backslash is the last character.
    #[error("nothing follows the backslash")]
    EscapeEnd,
    /// `\x` without two hex digits.
    #[error("\\x is not followed by two hex digits")]
    EscapeHex,
    /// A backslash followed by something else than `\`, `n`, `r`, `t`, `x`.
    #[error("unknown escape \\{0}")]
    EscapeUnknown(String),
    /// The mode's type bits are none of the seven types.
    #[error("mode has unknown type bits")]
    Type,
    /// Modification time is not `SECONDS.NANOSECONDS`.
    #[error("modification time is not SECONDS.NANOSECONDS")]
    Mtime,
    /// A path is not absolute, has empty, `.` or `..` components, or is too long.
    #[error("path {0:?} is not absolute and canonical")]
    Path(String),
    /// A name has more than 255 bytes.
    #[error("a file name has more than 255 bytes")]
    NameLength,
    /// The first line is not the root directory.
    #[error("the first entry must be the directory /")]
    RootNotFirst,
    /// A second line for a path.
    #[error("path is already there")]
    Duplicate,
    /// No earlier line makes the parent directory.
    #[error("parent directory is not there")]
    ParentMissing,
    /// The parent is not a directory.
    #[error("parent is not a directory")]
    ParentNotDirectory,
    /// The target of a hard link is not in the dumpfile.
    #[error("hard link target is not there")]
    LinkMissing,
    /// The target of a hard link is a directory.
    #[error("hard link target is a directory")]
    LinkToDirectory,
    /// Hard links that refer to each other only.
    #[error("hard link refers to itself")]
    LinkCycle,
    /// Symlink target empty or longer than 4095 bytes.
    #[error("symlink target of {0} bytes, must be 1 to 4095")]
    TargetLength(usize),
    /// Payload path longer than 4095 bytes.
    #[error("payload of {0} bytes, at most 4095 are possible")]
    PayloadLength(usize),
    /// The payload would lead out of the object directory.
    #[error("payload path has a component ..")]
    PayloadDotDot,
    /// SIZE is not the length of CONTENT.
    #[error("size is {size} but there are {content} bytes of content")]
    ContentSize {
        /// The SIZE field.
        size: u64,
        /// Length of the CONTENT field.
        content: usize,
    },
    /// Inline content longer than 5000 bytes.
    #[error("inline content of {0} bytes, at most 5000 are possible")]
    ContentLength(usize),
    /// Larger than 2^53 bytes.
    #[error("file of {0} bytes is larger than an image can describe")]
    FileSize(u64),
    /// Not 64 or 128 hex digits.
    #[error("digest is not 64 or 128 hex digits")]
    Digest,
    /// An extended attribute without `=`.
    #[error("extended attribute without =")]
    XattrEquals,
    /// Name of an extended attribute empty, longer than 255 bytes, or with NUL.
    #[error("extended attribute name must be 1 to 255 bytes without NUL")]
    XattrName,
    /// Value of an extended attribute is too long.
    #[error("extended attribute value of {0} bytes, at most 65535 are possible")]
    XattrValue(usize),
    /// All extended attributes of the entry together are too long.
    #[error("extended attributes need {0} bytes, at most 32767 are possible")]
    XattrTotal(usize),
}
