//! `os-release`: what an operating system says about itself.

use std::collections::BTreeMap;

/// The assignments of an os-release file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsRelease(BTreeMap<String, String>);

impl OsRelease {
    /// Reads all lines of the form `KEY=value`; others are passed over. Values are quoted as in a shell: single quotes,
    /// double quotes with backslashes, or none. Of a key that comes twice, the last value counts.
    pub fn parse(text: &str) -> Self {
        let assignments = text.lines().filter_map(|line| {
            let (key, value) = line.trim().split_once('=')?;
            let is_name = |key: &str| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            (!key.is_empty() && is_name(key)).then(|| (key.to_owned(), unquote(value)))
        });
        Self(assignments.collect())
    }

    /// The value of a key, if it has one that is not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The system's name for people: `PRETTY_NAME`, else `NAME`.
    pub fn title(&self) -> Option<&str> {
        self.get("PRETTY_NAME").or_else(|| self.get("NAME"))
    }

    /// The image's version: `IMAGE_VERSION`, else `VERSION_ID`.
    pub fn version(&self) -> Option<&str> {
        self.get("IMAGE_VERSION").or_else(|| self.get("VERSION_ID"))
    }
}

/// Removes quotes and backslashes; what follows an unquoted blank is no longer part of the value.
fn unquote(value: &str) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            (None, '\\') => out.extend(chars.next()),
            (Some('"'), '\\') => match chars.next() {
                Some(escaped @ ('"' | '\\' | '$' | '`')) => out.push(escaped),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            (None, c) if c.is_whitespace() => break,
            (_, c) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_unquoted_as_a_shell_does() {
        let text = concat!(
            "# comment\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nNAME='It''s'\nVERSION_ID=13 # rest\n",
            "A=\"a \\\"b\\\" \\\\ \\$x \\n\"\nB=x\\ y\nEMPTY=\"\"\nnot an assignment\n =x\n1=\n  INDENTED=yes\n",
            "VERSION_ID=\"13.1\"\r\n",
        );
        let release = OsRelease::parse(text);
        assert_eq!(release.title(), Some("Debian GNU/Linux 13 (trixie)"));
        assert_eq!(release.get("NAME"), Some("Its"));
        assert_eq!(release.get("A"), Some("a \"b\" \\ $x \\n"));
        assert_eq!(release.get("B"), Some("x y"));
        assert_eq!(release.get("EMPTY"), None);
        assert_eq!(release.get("INDENTED"), Some("yes"));
        assert_eq!(release.version(), Some("13.1"));
    }

    #[test]
    fn image_version_comes_first() {
        let release = OsRelease::parse("VERSION_ID=1\nIMAGE_VERSION=7\nNAME=X\n");
        assert_eq!(release.version(), Some("7"));
        assert_eq!(release.title(), Some("X"));
    }
}
