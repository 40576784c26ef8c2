//! PAX extended headers: records `<length> <key>=<value>\n`.

use super::{FormatErrorKind, PaxField};
use crate::tree::Xattrs;

/// Prefix of the keys that hold extended attributes.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
/// Prefix of the keys that describe sparse files.
const SPARSE_PREFIX: &[u8] = b"GNU.sparse.";

/// What the keys of sparse files say. Three forms have been in use, told apart by what is there.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    /// Forms 0.1 and 1.0; goes before `path`, which is made up.
    pub(super) name: Option<Vec<u8>>,
    /// `GNU.sparse.size` or `GNU.sparse.realsize`.
    pub(super) real_size: Option<u64>,
    /// Form 1.0 and later; 1.0 has the map at the start of the contents.
    pub(super) version: Option<(u64, u64)>,
    /// Number of extents, in forms 0.0 and 0.1.
    pub(super) count: Option<u64>,
    /// Offsets and lengths in turn: form 0.0 has records for each, 0.1 all in one.
    pub(super) numbers: Vec<u64>,
}

impl Sparse {
    /// Takes a record whose key had the prefix.
    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let odd = self.numbers.len() % 2 == 1;
        match key {
            b"name" => self.name = present(value).map(<[u8]>::to_vec),
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"major" => self.version.get_or_insert_default().0 = decimal(value)?,
            b"minor" => self.version.get_or_insert_default().1 = decimal(value)?,
            b"numblocks" => self.count = Some(decimal(value)?),
            b"offset" if !odd => self.numbers.push(decimal(value)?),
            b"numbytes" if odd => self.numbers.push(decimal(value)?),
            b"offset" | b"numbytes" => return None,
            b"map" if value.is_empty() => self.numbers.clear(),
            b"map" => self.numbers = value.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>()?,
            _ => {}
        }
        Some(())
    }
}

/// What one extended header says; absent where it says nothing.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds since the epoch and nanoseconds after them.
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: Option<Sparse>,
}

/// Reads all records. The last record of a key counts; an empty value means that the header's own value stands.
pub(super) fn parse(mut body: &[u8]) -> Result<Records, FormatErrorKind> {
    let mut records = Records::default();
    let mut count = 0;
    while !body.is_empty() {
        count += 1;
        let (key, value, rest) = record(body).ok_or(FormatErrorKind::Pax(PaxField::Record(count)))?;
        body = rest;
        let bad = |key| FormatErrorKind::Pax(PaxField::Key(key));
        match key {
            b"path" => records.path = present(value).map(<[u8]>::to_vec),
            b"linkpath" => records.linkpath = present(value).map(<[u8]>::to_vec),
            b"size" => records.size = optional(value, decimal).ok_or(bad("size"))?,
            b"uid" => records.uid = optional(value, decimal).ok_or(bad("uid"))?,
            b"gid" => records.gid = optional(value, decimal).ok_or(bad("gid"))?,
            b"mtime" => records.mtime = optional(value, time).ok_or(bad("mtime"))?,
            _ => {
                if let Some(key) = key.strip_prefix(SPARSE_PREFIX) {
                    let sparse = records.sparse.get_or_insert_default();
                    sparse.record(key, value).ok_or(bad("GNU.sparse"))?;
                }
                if let Some(name) = key.strip_prefix(XATTR_PREFIX).filter(|name| !name.is_empty()) {
                    records.xattrs.insert(name.into(), value.into());
                }
            }
        }
    }
    Ok(records)
}

/// Splits the first record off: key, value, the records after it.
fn record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = body.iter().position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&body[..blank])?).ok()?;
    let (record, rest) = body.split_at_checked(len)?;
    let text = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&text[..equals], &text[equals + 1..], rest))
}

fn present(value: &[u8]) -> Option<&[u8]> {
    (!value.is_empty()).then_some(value)
}

/// `Some(None)` for an empty value, `None` for one that `read` refuses.
fn optional<T>(value: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    match present(value) {
        Some(value) => read(value).map(Some),
        None => Some(None),
    }
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with an optional sign and fraction; digits beyond nanoseconds are cut. The nanoseconds always count forward.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &b""[..]),
    };
    let secs = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |i: usize| fraction.get(i).map_or(0, |digit| u32::from(digit - b'0'));
    let nanos = (0..9).fold(0, |nanos, i| nanos * 10 + digit(i));
    Some(match (negative, nanos) {
        (false, _) => (secs, nanos),
        (true, 0) => (-secs, 0),
        (true, _) => (-secs - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_their_length() {
        let records = parse(b"12 path=a=b\n11 uid=123\n30 SCHILY.xattr.user.x=\0a\nb=c\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a=b"[..]));
        assert_eq!(records.uid, Some(123));
        assert_eq!(records.xattrs.get(&b"user.x"[..]).unwrap().as_ref(), b"\0a\nb=c");
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"13 path=a=b\n"[..],
            b"11 path=a=b\n",
            b"path=a\n",
            b" 9 path=a\n",
            b"99999999999999999999 path=a\n",
            b"5 =a\n",
            b"7 path\n",
            b"0 ",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert_eq!(parse(b"12 size=-100\n").unwrap_err(), FormatErrorKind::Pax(PaxField::Record(1)));
        assert_eq!(parse(b"12 size=-10\n").unwrap_err(), FormatErrorKind::Pax(PaxField::Key("size")));
    }

    #[test]
    fn times_have_nanoseconds_that_count_forward() {
        assert_eq!(time(b"1700000005.25"), Some((1_700_000_005, 250_000_000)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"1."), Some((1, 0)));
        for bad in [&b""[..], b"-", b".5", b"1.x", b"+1", b"1e3", b"--1", b"99999999999999999999"] {
            assert_eq!(time(bad), None, "{}", bad.escape_ascii());
        }
    }
}
