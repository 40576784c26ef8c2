//! Backslash escapes of dumpfile fields.

use std::borrow::Cow;

use super::ParseProblem;

/// Where an escaped text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// One of the eleven fields: a lone `-` would mean "not set".
    Field,
    /// Key or value of an extended attribute: `=` separates the two.
    Xattr,
}

/// Appends `text`, escaped.
pub(super) fn escape(text: &[u8], place: Context, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    if place == Context::Field && text == b"-" {
        out.extend_from_slice(b"\\x2d");
        return;
    }
    for &byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'=' if place == Context::Xattr => out.extend_from_slice(b"\\x3d"),
            0x21..=0x7e => out.push(byte),
            _ => out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

/// Undoes [`escape`]; hex digits may be of either case.
pub(super) fn unescape(text: &[u8]) -> Result<Cow<'_, [u8]>, ParseProblem> {
    if !text.contains(&b'\\') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next().ok_or(ParseProblem::EscapeEnd)? {
            b'\\' => b'\\',
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let mut digit = || bytes.next().and_then(hex_digit).ok_or(ParseProblem::EscapeHex);
                digit()? << 4 | digit()?
            }
            other => return Err(ParseProblem::EscapeUnknown(other.escape_ascii().to_string())),
        });
    }
    Ok(Cow::Owned(out))
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}
