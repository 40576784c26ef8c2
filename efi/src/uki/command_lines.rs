//! The kernel command lines embedded in PE files that others have made, well or badly.
//!
//! Tolerant on purpose: what may be started with a command line keeps images, so a file is looked into as far as can be, and what
//! cannot be understood is an error and not nothing.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};

use object::read::pe::{PeFile32, PeFile64};
use object::{FileKind, ObjectSection as _, ReadCache};
use thiserror::Error;

/// Begins every PE file.
const MAGIC: &[u8] = b"MZ";
/// Name of the section with the command line.
const SECTION: &str = ".cmdline";
/// The kernel takes no longer ones.
const LINE_MAX_BYTES: u64 = 64 << 10;

/// Why the command lines of a PE file are not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UkiError {
    /// It is something else: no firmware starts it.
    #[error("it is not a PE file")]
    NotPe,
    /// It begins like one and cannot be understood.
    #[error("it is a damaged PE file")]
    Damaged(#[source] object::Error),
    /// A command line is too long.
    #[error("a command line in it has {bytes} bytes")]
    TooLong {
        /// Its size.
        bytes: u64,
    },
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
}

/// The kernel command lines in a UKI or addon: none, one, or one for each profile. Bytes after a NUL do not count.
pub fn command_lines(mut file: File) -> Result<Vec<String>, UkiError> {
    let mut magic = Vec::new();
    (&file).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    if magic != MAGIC {
        return Err(UkiError::NotPe);
    }
    file.rewind()?;
    parse(file)
}

fn parse(file: File) -> Result<Vec<String>, UkiError> {
    let cache = ReadCache::new(file);
    let lines = match FileKind::parse(&cache).map_err(UkiError::Damaged)? {
        FileKind::Pe32 => sections(&PeFile32::parse(&cache).map_err(UkiError::Damaged)?),
        _ => sections(&PeFile64::parse(&cache).map_err(UkiError::Damaged)?),
    }?;
    let text = |line: Vec<u8>| {
        let line = line.split(|byte| *byte == 0).next().unwrap_or(&[]);
        String::from_utf8_lossy(line).into_owned()
    };
    Ok(lines.into_iter().map(text).collect())
}

fn sections<'data>(file: &impl object::Object<'data>) -> Result<Vec<Vec<u8>>, UkiError> {
    let mut lines = Vec::new();
    for section in file.sections().filter(|section| section.name() == Ok(SECTION)) {
        let bytes = section.size();
        if bytes > LINE_MAX_BYTES {
            return Err(UkiError::TooLong { bytes });
        }
        lines.push(section.data().map_err(UkiError::Damaged)?.to_vec());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::pe::fake::pe;

    fn lines(contents: &[u8]) -> Result<Vec<String>, UkiError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(contents).unwrap();
        file.rewind().unwrap();
        command_lines(file)
    }

    #[test]
    fn command_lines_of_all_profiles_are_found() {
        let uki = pe(&[(".linux", b"kernel"), (".cmdline", b"composefs=a quiet\0\0"), (".cmdline", b"composefs=b")]);
        assert_eq!(lines(&uki).unwrap(), ["composefs=a quiet", "composefs=b"]);
        assert_eq!(lines(&pe(&[(".linux", b"kernel")])).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_pe_file_is_refused_wherever_it_is_cut() {
        assert!(matches!(lines(b"text"), Err(UkiError::NotPe)));
        let uki = pe(&[(".cmdline", b"composefs=a")]);
        for length in 0..512 {
            assert!(lines(&uki[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn endless_command_lines_are_refused() {
        assert!(matches!(lines(&pe(&[(".cmdline", &[b'x'; 70_000])])), Err(UkiError::TooLong { bytes: 70_000 })));
    }
}
