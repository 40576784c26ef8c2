//! One line of a dumpfile.

use std::borrow::Cow;

use super::ParseProblem;
use super::escape::unescape;
use crate::digest::Digest;
use crate::tree::{
    Content, FILE_SIZE_MAX, INLINE_LIMIT, Leaf, LeafKind, NAME_MAX, PAYLOAD_MAX, SYMLINK_MAX, Stat, Xattrs,
};

/// Longest path that a line can name.
const PATH_MAX: usize = 4096;
const XATTR_NAME_MAX: usize = 255;
const XATTR_VALUE_MAX: usize = 65535;
/// All extended attributes of an entry, counted as the C tools do: 12 bytes, then 7 and name and value for each.
const XATTR_TOTAL_MAX: usize = 32767;

const S_IFMT: u16 = 0o170000;
const S_IFIFO: u16 = 0o010000;
const S_IFCHR: u16 = 0o020000;
const S_IFDIR: u16 = 0o040000;
const S_IFBLK: u16 = 0o060000;
const S_IFREG: u16 = 0o100000;
const S_IFLNK: u16 = 0o120000;
const S_IFSOCK: u16 = 0o140000;

/// What a line makes.
#[derive(Debug)]
pub(super) enum Kind {
    Directory(Stat),
    Leaf(Leaf),
    /// Hard link to this path.
    Link(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Line<'t> {
    pub(super) path: Cow<'t, [u8]>,
    pub(super) kind: Kind,
}

/// Hands out the fields of a line one after the other.
struct Fields<'t> {
    /// What follows the last field; `None` at the end of the line.
    rest: Option<&'t [u8]>,
}

impl<'t> Iterator for Fields<'t> {
    type Item = &'t [u8];

    fn next(&mut self) -> Option<&'t [u8]> {
        let line = self.rest?;
        match line.iter().position(|&byte| byte == b' ') {
            Some(space) => {
                self.rest = Some(&line[space + 1..]);
                Some(&line[..space])
            }
            None => self.rest.take(),
        }
    }
}

impl<'t> Fields<'t> {
    fn required(&mut self, name: &'static str) -> Result<&'t [u8], ParseProblem> {
        match self.next() {
            None => Err(ParseProblem::FieldMissing(name)),
            Some([]) => Err(ParseProblem::FieldEmpty(name)),
            Some(field) => Ok(field),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, name: &'static str) -> Result<T, ParseProblem> {
        number(self.required(name)?).ok_or(ParseProblem::Number(name))
    }

    /// A field that is `-` when it is not set.
    fn optional(&mut self, name: &'static str) -> Result<Option<Cow<'t, [u8]>>, ParseProblem> {
        match self.required(name)? {
            b"-" => Ok(None),
            field => unescape(field).map(Some),
        }
    }
}

/// Digits only: no sign, no blanks, nothing out of range.
fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let digits = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Checks that a path is absolute and canonical, so that one file has one path.
fn check_path(path: &[u8]) -> Result<(), ParseProblem> {
    if path.contains(&0) {
        return Err(ParseProblem::FieldNul("PATH"));
    }
    let bad = || ParseProblem::Path(path.escape_ascii().to_string());
    let relative = path.strip_prefix(b"/").filter(|_| path.len() <= PATH_MAX).ok_or_else(bad)?;
    for name in relative.split(|&byte| byte == b'/').filter(|_| !relative.is_empty()) {
        if matches!(name, b"" | b"." | b"..") {
            return Err(bad());
        }
        if name.len() > NAME_MAX {
            return Err(ParseProblem::NameLength);
        }
    }
    Ok(())
}

impl<'t> Line<'t> {
    pub(super) fn parse(line: &'t [u8]) -> Result<Self, ParseProblem> {
        if line.contains(&0) {
            return Err(ParseProblem::Nul);
        }
        let mut fields = Fields { rest: Some(line) };
        let path = unescape(fields.required("PATH")?)?;
        check_path(&path)?;
        let size_field = fields.required("SIZE")?;
        let mode_field = fields.required("MODE")?;
        if let Some(mode) = mode_field.strip_prefix(b"@") {
            if parse_mode(mode)?.0 == S_IFDIR {
                return Err(ParseProblem::LinkToDirectory);
            }
            for ignored in ["NLINK", "UID", "GID", "RDEV", "MTIME"] {
                fields.required(ignored)?;
            }
            let target = fields.optional("PAYLOAD")?.ok_or(ParseProblem::FieldUnset("PAYLOAD"))?;
            check_path(&target)?;
            return Ok(Self { path, kind: Kind::Link(target.into_owned()) });
        }

        let size: u64 = number(size_field).ok_or(ParseProblem::Number("SIZE"))?;
        let (file_type, mode) = parse_mode(mode_field)?;
        let nlink: u32 = fields.number("NLINK")?;
        let uid = fields.number("UID")?;
        let gid = fields.number("GID")?;
        let rdev: u64 = fields.number("RDEV")?;
        let (mtime_secs, mtime_nanos) = parse_mtime(fields.required("MTIME")?).ok_or(ParseProblem::Mtime)?;
        let payload = fields.optional("PAYLOAD")?;
        // Content and digest mean something for regular files only; lines of others may end before them.
        let mut content_field = |name| match file_type {
            S_IFREG => fields.optional(name),
            _ if fields.rest.is_none() => Ok(None),
            _ => fields.optional(name),
        };
        let content = content_field("CONTENT")?;
        let digest = content_field("DIGEST")?.map(|hex| parse_digest(&hex)).transpose()?;
        let xattrs = parse_xattrs(fields)?;
        let stat = Stat { mode, uid, gid, mtime_secs, mtime_nanos, xattrs };

        if payload.as_ref().is_some_and(|payload| payload.contains(&0)) {
            return Err(ParseProblem::FieldNul("PAYLOAD"));
        }
        if file_type != S_IFREG {
            let unexpected = [("CONTENT", content.is_some()), ("DIGEST", digest.is_some())];
            if let Some((field, _)) = unexpected.iter().find(|(_, set)| *set) {
                return Err(ParseProblem::FieldUnexpected(field));
            }
        }
        if !matches!(file_type, S_IFCHR | S_IFBLK | S_IFDIR) && rdev != 0 {
            return Err(ParseProblem::FieldUnexpected("RDEV"));
        }
        // Images have 32 bits for a device number; dumps of 64-bit ones are cut to that, as all writers do.
        let rdev = rdev as u32;
        let kind = match file_type {
            S_IFDIR => return Ok(Self { path, kind: Kind::Directory(stat) }),
            S_IFREG => LeafKind::Regular(parse_content(size, payload, content, digest)?),
            S_IFLNK => LeafKind::Symlink(parse_target(payload)?),
            S_IFCHR => LeafKind::CharDevice(rdev),
            S_IFBLK => LeafKind::BlockDevice(rdev),
            S_IFIFO => LeafKind::Fifo,
            _ => LeafKind::Socket,
        };
        let special = !matches!(kind, LeafKind::Regular(_) | LeafKind::Symlink(_) | LeafKind::CharDevice(0));
        let mut leaf = Leaf::new(stat, kind);
        leaf.stated_nlink = Some(nlink);
        leaf.extended = special && size > u64::from(u32::MAX);
        Ok(Self { path, kind: Kind::Leaf(leaf) })
    }
}

/// Type bits (one of the seven types) and permission bits. Images have 16 bits for a mode; more are cut off, as all
/// writers do.
fn parse_mode(octal: &[u8]) -> Result<(u16, u16), ParseProblem> {
    let mode = str::from_utf8(octal)
        .ok()
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| u32::from_str_radix(digits, 8).ok())
        .ok_or(ParseProblem::Number("MODE"))?;
    let mode = mode as u16;
    match mode & S_IFMT {
        known @ (S_IFIFO | S_IFCHR | S_IFDIR | S_IFBLK | S_IFREG | S_IFLNK | S_IFSOCK) => Ok((known, mode & 0o7777)),
        _ => Err(ParseProblem::Type),
    }
}

/// Two integers, not a fraction: `1.1` is one second and one nanosecond. Negative seconds are written with a sign or
/// wrapped to 64 bits, depending on the writer.
fn parse_mtime(field: &[u8]) -> Option<(i64, u32)> {
    let dot = field.iter().position(|&byte| byte == b'.')?;
    let seconds = match &field[..dot] {
        [b'-', digits @ ..] => number::<u64>(digits).and_then(|seconds| 0i64.checked_sub_unsigned(seconds))?,
        digits => number::<u64>(digits)?.cast_signed(),
    };
    let nanos = number(&field[dot + 1..]).filter(|&nanos: &u32| nanos < 1_000_000_000)?;
    Some((seconds, nanos))
}

fn parse_digest(hex: &[u8]) -> Result<Digest, ParseProblem> {
    let hex = str::from_utf8(hex).map_err(|_| ParseProblem::Digest)?;
    hex.to_ascii_lowercase().parse().map_err(|_| ParseProblem::Digest)
}

fn parse_target(payload: Option<Cow<'_, [u8]>>) -> Result<Box<[u8]>, ParseProblem> {
    let target = payload.ok_or(ParseProblem::FieldUnset("PAYLOAD"))?;
    if target.is_empty() || target.len() > SYMLINK_MAX {
        return Err(ParseProblem::TargetLength(target.len()));
    }
    Ok(target.into_owned().into())
}

/// Content wins over payload and digest; an empty file has none of them.
fn parse_content(
    size: u64,
    payload: Option<Cow<'_, [u8]>>,
    content: Option<Cow<'_, [u8]>>,
    digest: Option<Digest>,
) -> Result<Content, ParseProblem> {
    if let Some(payload) = &payload {
        if payload.len() > PAYLOAD_MAX {
            return Err(ParseProblem::PayloadLength(payload.len()));
        }
        if payload.split(|&byte| byte == b'/').any(|component| component == b"..") {
            return Err(ParseProblem::PayloadDotDot);
        }
    }
    if let Some(content) = content {
        if content.len() as u64 != size {
            return Err(ParseProblem::ContentSize { size, content: content.len() });
        }
        if content.len() > INLINE_LIMIT {
            return Err(ParseProblem::ContentLength(content.len()));
        }
        return Ok(Content::Inline(content.into_owned().into()));
    }
    match size {
        0 => Ok(Content::Inline(Box::default())),
        1..=FILE_SIZE_MAX => {
            Ok(Content::External { size, payload: payload.map(|path| path.into_owned().into()), digest })
        }
        _ => Err(ParseProblem::FileSize(size)),
    }
}

/// A key that comes again replaces its value.
fn parse_xattrs(fields: Fields<'_>) -> Result<Xattrs, ParseProblem> {
    let mut xattrs = Xattrs::new();
    for field in fields {
        let equals = field.iter().position(|&byte| byte == b'=').ok_or(ParseProblem::XattrEquals)?;
        let name = unescape(&field[..equals])?;
        let value = unescape(&field[equals + 1..])?;
        if name.is_empty() || name.len() > XATTR_NAME_MAX || name.contains(&0) {
            return Err(ParseProblem::XattrName);
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(ParseProblem::XattrValue(value.len()));
        }
        xattrs.insert(name.into_owned().into(), value.into_owned().into());
    }
    let total = 12 + xattrs.iter().map(|(name, value)| 7 + name.len() + value.len()).sum::<usize>();
    if total > XATTR_TOTAL_MAX {
        return Err(ParseProblem::XattrTotal(total));
    }
    Ok(xattrs)
}
