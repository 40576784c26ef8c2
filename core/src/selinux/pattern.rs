//! Which patterns of a policy an automaton can match, written for its compiler.
//!
//! Patterns are written for PCRE2. Those that use only what every dialect of regular expressions has in common mean the same
//! to an automaton. They are translated: literal bytes, also within classes, become `\xHH`, so that no character has a
//! meaning in one dialect only, and capturing groups become plain ones. All others are left to PCRE2 itself, among them all
//! that are not well-formed: whether they are and what they mean is its decision.

use std::fmt::Write;

/// Classes that have a name: the same bytes in both dialects.
const CLASSES: [&[u8]; 13] = [
    b"alnum", b"alpha", b"blank", b"cntrl", b"digit", b"graph", b"lower", b"print", b"punct", b"space", b"upper",
    b"word", b"xdigit",
];
/// Largest number in a repetition.
const REPEAT_MAX: u32 = 65535;

/// The pattern for `regex-syntax` in byte mode, `.` being any byte; `None` if it is for PCRE2.
pub(super) fn translate(pattern: &[u8]) -> Option<String> {
    let mut translation = Translation { rest: pattern, out: String::with_capacity(pattern.len() * 2) };
    let mut depth = 0_u32;
    // What a repetition would repeat: nothing, something, or something that is repeated already.
    let mut last = Last::Nothing;
    while let Some(byte) = translation.next() {
        last = match byte {
            b'(' => {
                match translation.rest {
                    [b'?', b':', rest @ ..] => translation.rest = rest,
                    [b'?' | b'*', ..] => return None,
                    _ => {}
                }
                depth += 1;
                translation.out.push_str("(?:");
                Last::Nothing
            }
            b')' => {
                depth = depth.checked_sub(1)?;
                translation.out.push(')');
                Last::Item
            }
            b'|' | b'^' | b'$' => {
                translation.out.push(byte.into());
                Last::Nothing
            }
            b'.' => {
                translation.out.push('.');
                Last::Item
            }
            b'[' => {
                translation.class()?;
                Last::Item
            }
            b'\\' => {
                translation.escape()?;
                Last::Item
            }
            b'*' | b'+' | b'?' | b'{' => {
                match (last, byte) {
                    (Last::Nothing, _) => return None,
                    (Last::Item, b'{') => translation.bounds()?,
                    (Last::Item, _) => translation.out.push(byte.into()),
                    // As few as possible: whether there is a match is not changed by that.
                    (Last::Repetition, b'?') => {}
                    (Last::Repetition, _) => return None,
                }
                if last == Last::Repetition { Last::Nothing } else { Last::Repetition }
            }
            _ => {
                translation.literal(byte);
                Last::Item
            }
        };
    }
    (depth == 0).then_some(translation.out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Item,
    Repetition,
}

struct Translation<'p> {
    rest: &'p [u8],
    out: String,
}

impl Translation<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn literal(&mut self, byte: u8) {
        if byte.is_ascii_alphanumeric() || byte == b'/' {
            self.out.push(byte.into());
        } else {
            let written = write!(self.out, "\\x{byte:02x}");
            debug_assert!(written.is_ok(), "strings can be written to");
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            byte if byte.is_ascii_punctuation() => self.literal(byte),
            byte @ (b'd' | b'D' | b's' | b'S' | b'w' | b'W') => self.out.extend(['\\', byte.into()]),
            _ => return None,
        }
        Some(())
    }

    /// What follows an opening brace: `n}`, `n,}` or `n,m}`.
    fn bounds(&mut self) -> Option<()> {
        let end = self.rest.iter().position(|byte| *byte == b'}')?;
        let bounds = std::str::from_utf8(&self.rest[..end]).ok()?;
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u32>().ok().filter(|number| plain && *number <= REPEAT_MAX)
        };
        let (least, most) = bounds.split_once(',').unwrap_or((bounds, bounds));
        let least = number(least)?;
        if !most.is_empty() && number(most)? < least {
            return None;
        }
        let written = write!(self.out, "{{{bounds}}}");
        debug_assert!(written.is_ok(), "strings can be written to");
        self.rest = &self.rest[end + 1..];
        Some(())
    }

    /// What follows an opening bracket.
    fn class(&mut self) -> Option<()> {
        self.out.push('[');
        if let [b'^', rest @ ..] = self.rest {
            self.rest = rest;
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            match self.next()? {
                b']' if !is_first => {
                    self.out.push(']');
                    return Some(());
                }
                b'[' if matches!(self.rest, [b':' | b'.' | b'=', ..]) => self.named_class()?,
                b'\\' if matches!(self.rest, [b'd' | b'D' | b's' | b'S' | b'w' | b'W', ..]) => {
                    self.escape()?;
                    self.no_range_from_here()?;
                }
                byte => {
                    let low = self.class_literal(byte)?;
                    self.literal(low);
                    if let [b'-', end, rest @ ..] = self.rest
                        && *end != b']'
                    {
                        self.rest = rest;
                        let high = self.class_literal(*end)?;
                        if high < low || *end == b'[' {
                            return None;
                        }
                        self.out.push('-');
                        self.literal(high);
                        self.no_range_from_here()?;
                    }
                }
            }
            is_first = false;
        }
    }

    /// One byte of a class, which may be escaped.
    fn class_literal(&mut self, byte: u8) -> Option<u8> {
        if byte == b'\\' { self.next().filter(u8::is_ascii_punctuation) } else { Some(byte) }
    }

    /// `[:name:]`, of which the first bracket is read.
    fn named_class(&mut self) -> Option<()> {
        let end = self.rest.windows(2).position(|pair| pair == b":]")?;
        let name = self.rest.get(1..end).filter(|name| CLASSES.contains(name))?;
        let written = write!(self.out, "[:{}:]", std::str::from_utf8(name).ok()?);
        debug_assert!(written.is_ok(), "strings can be written to");
        self.rest = &self.rest[end + 2..];
        self.no_range_from_here()
    }

    /// After something that no range can begin with, a hyphen is literal only at the end.
    fn no_range_from_here(&self) -> Option<()> {
        (!matches!(self.rest, [b'-', next, ..] if *next != b']')).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::translate;

    #[test]
    fn what_all_dialects_share_is_translated() {
        for (pattern, expected) in [
            ("/usr(/.*)?", "/usr(?:/.*)?"),
            (r"/a\.b-c_d", r"/a\x2eb\x2dc\x5fd"),
            (r"/lib(64)?/.+\.so(\.[^/]*)*", r"/lib(?:64)?/.+\x2eso(?:\x2e[^/]*)*"),
            (r"/dev/[[:digit:]x-]+", r"/dev/[[:digit:]x\x2d]+"),
            (r"/[]a^&&b~~[]", r"/[\x5da\x5e\x26\x26b\x7e\x7e\x5b]"),
            (r"/[^]a-z\]]", r"/[^\x5da-z\x5d]"),
            (r"/\d{1,3}\w{2,}?", r"/\d{1,3}\w{2,}"),
            ("/(?:a|b|)$", "/(?:a|b|)$"),
            ("/\u{e9}", r"/\xc3\xa9"),
        ] {
            assert_eq!(translate(pattern.as_bytes()).as_deref(), Some(expected), "{pattern}");
        }
    }

    #[test]
    fn the_rest_is_for_pcre2() {
        for pattern in [
            "/(?!a)",
            "/(?<=a)",
            "/(?i)a",
            "/(*FAIL)",
            r"/(a)\1",
            r"/\bx",
            r"/\x41",
            r"/\Q.\E",
            "/a++",
            "/a**",
            "/a{,3}",
            "/a{x}",
            "/a{3,2}",
            "/a{70000}",
            "{1}",
            "*",
            "/(*a)",
            "/(",
            "/)",
            "/[a",
            "/[[:foo:]]",
            "/[[.a.]]",
            "/[z-a]",
            r"/[a-\d]",
            r"/[\d-z]",
            "/[a-c-e]",
            r"/[\b]",
            "/a\\",
            "/^*",
            "/a{1}{2}",
            "/[a-[b]",
        ] {
            assert_eq!(translate(pattern.as_bytes()), None, "{pattern}");
        }
    }
}
