//! The composefs dumpfile: a file tree as text.
//!
//! One entry per line, fields separated by one space:
//!
//! ```text
//! PATH SIZE MODE NLINK UID GID RDEV MTIME PAYLOAD CONTENT DIGEST [KEY=VALUE]...
//! ```
//!
//! The first line is `/`; a directory comes before what is in it. `-` stands for a field that is not set. A mode that
//! begins with `@` makes a hard link to the path in PAYLOAD. Source: `composefs-dump(5)`.
//!
//! Reading is strict where the C tools are lax by accident (relative or repeated paths, wrapped numbers, missing fields):
//! what is refused there could not be written by any tool. It is as lax as they are where that has a use: links may
//! precede their target, link counts are taken as stated, and bytes that are not UTF-8 are taken as they are.

mod escape;
mod line;
mod parse;
mod problem;
mod write;

pub use parse::parse;
pub use problem::{ParseError, ParseProblem};
pub use write::write;

/// A path, or another text, as it stands in a field of a dumpfile: printable ASCII without blanks.
pub fn escape_path(path: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(path.len());
    escape::escape(path, escape::Context::Field, &mut escaped);
    escaped
}

/// Appends the key or value of an extended attribute.
pub(crate) fn escape_xattr(text: &[u8], out: &mut Vec<u8>) {
    escape::escape(text, escape::Context::Xattr, out);
}

#[cfg(test)]
mod tests;
