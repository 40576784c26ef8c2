//! Unified kernel images: the kernel command lines that are embedded in PE files.

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
pub(crate) mod tests {
    use std::io::Write as _;

    use super::*;

    /// A PE file with these sections and nothing else, as the specification has it.
    pub(crate) fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
        const FILE_ALIGNMENT: usize = 512;
        let mut file = vec![0; 64];
        file[..2].copy_from_slice(b"MZ");
        file[60..].copy_from_slice(&64_u32.to_le_bytes());
        file.extend(b"PE\0\0");
        // x86-64, number of sections, no symbols, size of the optional header, executable.
        file.extend(0x8664_u16.to_le_bytes());
        file.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
        file.extend([0; 12]);
        file.extend(240_u16.to_le_bytes());
        file.extend(0x22_u16.to_le_bytes());
        // PE32+, with empty data directories.
        let mut optional = [0; 240];
        optional[108] = 16;
        optional[..2].copy_from_slice(&0x20B_u16.to_le_bytes());
        optional[32..36].copy_from_slice(&4096_u32.to_le_bytes());
        optional[36..40].copy_from_slice(&512_u32.to_le_bytes());
        file.extend(optional);
        let mut at = (file.len() + 40 * sections.len()).next_multiple_of(FILE_ALIGNMENT);
        let mut data = Vec::new();
        for (number, (name, contents)) in sections.iter().enumerate() {
            let mut header = [0; 40];
            header[..name.len()].copy_from_slice(name.as_bytes());
            let size = u32::try_from(contents.len()).unwrap();
            let padded = contents.len().next_multiple_of(FILE_ALIGNMENT);
            header[8..12].copy_from_slice(&size.to_le_bytes());
            header[12..16].copy_from_slice(&(4096 * (u32::try_from(number).unwrap() + 1)).to_le_bytes());
            header[16..20].copy_from_slice(&u32::try_from(padded).unwrap().to_le_bytes());
            header[20..24].copy_from_slice(&u32::try_from(at).unwrap().to_le_bytes());
            file.extend(header);
            data.extend(*contents);
            data.resize(data.len().next_multiple_of(FILE_ALIGNMENT), 0);
            at += padded;
        }
        file.resize(file.len().next_multiple_of(FILE_ALIGNMENT), 0);
        file.extend(data);
        file
    }

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
