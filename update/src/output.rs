//! Results on standard output: for people, or as JSON.

use std::io::{self, Write};

use anyhow::Context as _;
use serde::Serialize;

/// Version of all JSON forms; see CLI.md. Fields may be added within a version, never renamed or removed.
pub const JSON_VERSION: u32 = 1;

/// Longest text of a stranger that is part of a message, in characters.
const PRINTABLE_MAX: usize = 200;
/// Bytes that are collected before they are written.
const RAW_BYTES: usize = 128 << 10;

/// Writes results to standard output in the form that the user asked for.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    value: &'a T,
}

impl Output {
    /// Output as JSON, or for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes one result: `value`, which must be a struct or map, as JSON with its `version`; or what `human` writes.
    ///
    /// A reader that went away (`osupdate … | head`) is not an error.
    pub fn write<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        if self.json {
            serde_json::to_writer_pretty(&mut bytes, &Versioned { version: JSON_VERSION, value })?;
            bytes.push(b'\n');
        } else {
            let mut text = Vec::new();
            human(&mut text)?;
            // Names and labels come from images: they must not be able to move the cursor.
            bytes.extend(for_terminal(&String::from_utf8_lossy(&text)).bytes());
        }
        write_stdout(&bytes)
    }
}

/// Text without what could do something to a terminal, or make it show something else than it says: control characters other
/// than the end of a line, and the marks that change the direction of writing.
pub fn for_terminal(text: &str) -> String {
    let is_mark =
        |c| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.chars().filter(|c| *c == '\n' || !c.is_control() && !is_mark(*c)).collect()
}

/// The beginning of a stranger's text as part of a message: one line, [`for_terminal`], at most 200 characters.
pub(crate) fn printable(text: &str) -> String {
    for_terminal(text).chars().filter(|c| *c != '\n').take(PRINTABLE_MAX).collect()
}

/// Writes bytes to standard output as they are: for files, not for people. A reader that went away is not an error.
pub fn write_stdout(bytes: &[u8]) -> anyhow::Result<()> {
    write_raw(|out| out.write_all(bytes).context("cannot write to standard output"))
}

/// Lets a function write to standard output as it likes: for data that is neither for people nor JSON.
///
/// A reader that went away is not an error: the rest is not wanted.
pub fn write_raw(write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut stdout = io::BufWriter::with_capacity(RAW_BYTES, io::stdout().lock());
    let written = write(&mut stdout).and_then(|()| stdout.flush().context("cannot write to standard output"));
    let gone = |error: &anyhow::Error| {
        let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
        causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    };
    match written {
        Err(error) if !gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Writes rows as columns of equal width, two spaces apart; the first row is the heading.
pub fn table<const N: usize>(out: &mut dyn Write, rows: &[[String; N]]) -> io::Result<()> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_strangers_cannot_steer_the_terminal() {
        assert_eq!(for_terminal("a\u{1b}[2Jb\rc\nd\u{202e}e\u{200f}f\u{9b}g é"), "a[2Jbc\ndefg é");
        assert_eq!(printable("a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}"), "a[2Jbcd");
        assert_eq!(printable(&"x".repeat(1000)).len(), PRINTABLE_MAX);
    }

    #[test]
    fn columns_are_aligned_without_trailing_spaces() {
        let rows = [["TAG".into(), "SIZE".into()], ["a-long-tag".into(), "1".into()]];
        let mut out = Vec::new();
        table(&mut out, &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "TAG         SIZE\na-long-tag  1\n");
    }
}
