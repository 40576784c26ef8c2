//! `tmpfiles.d`: what systemd makes at boot.

use std::collections::BTreeSet;

/// Where its files are; of files with one name, the one in the first directory counts.
pub(super) const DIRECTORIES: [&str; 3] = ["etc/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d"];
/// Types of lines that make something.
const MAKING: &str = "fFwdDvqQpLcbC";

/// Paths that are made at boot.
#[derive(Debug, Default)]
pub(super) struct Tmpfiles(BTreeSet<String>);

impl Tmpfiles {
    /// Reads the lines of all files.
    pub(super) fn parse(texts: &[String]) -> Self {
        let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim);
        let paths = lines.filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (kind, rest) = line.split_once(char::is_whitespace)?;
            kind.starts_with(|first| MAKING.contains(first)).then(|| word(rest.trim_start()))
        });
        Self(paths.map(|path| path.trim_matches('/').to_owned()).collect())
    }

    /// Whether a path, without a slash at its beginning, is made: by itself, as the parent of something, or with all that is
    /// copied.
    pub(super) fn makes(&self, path: &str) -> bool {
        let below = format!("{path}/");
        self.0.contains(path) || self.0.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
    }
}

/// The first word of a line, quotes taken away.
fn word(text: &str) -> String {
    let quote = text.chars().next().filter(|first| matches!(first, '"' | '\''));
    match quote {
        Some(quote) => text[1..].split(quote).next().unwrap_or_default().to_owned(),
        None => text.split_whitespace().next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_make_something_are_known() {
        let text = "# comment\nd /var/cache/app 0755 - - -\n  L+ \"/var/lib/a b\" - - - - x\nz /var/spool\ne /var/empty\n\
                    q /var/tmp 1777\nr! /var/gone\n\nd\n";
        let tmpfiles = Tmpfiles::parse(&[text.to_owned(), "f /var/log/wtmp".to_owned()]);
        for made in
            ["var/cache/app", "var/lib/a b", "var/tmp", "var/log/wtmp", "var", "var/cache", "var/log", "var/lib"]
        {
            assert!(tmpfiles.makes(made), "{made}");
        }
        for other in ["var/cache/app2", "var/cache/app/x", "var/spool", "var/empty", "var/gone", "var/lib/a", "va"] {
            assert!(!tmpfiles.makes(other), "{other}");
        }
    }
}
