//! Why a file is not accepted as a PE file.

use std::io;

use thiserror::Error;

use super::FILE_MAX_BYTES;

/// Why a file was not read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It is larger than [`FILE_MAX_BYTES`].
    #[error("it has more than {FILE_MAX_BYTES} bytes")]
    TooLarge,
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
}

/// What is wrong with a PE file.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeError {
    /// It is something else: no firmware starts it.
    #[error("it is not a PE file")]
    NotPe,
    /// A header is not there, or not of a PE file.
    #[error("it is a damaged PE file")]
    Header(#[source] object::Error),
    /// The PE header is said to be within the DOS header.
    #[error("its PE header overlaps its DOS header")]
    HeadersOverlap,
    /// The size of the optional header is not that of its data directories.
    #[error("the size of its optional header does not fit the number of its data directories")]
    OptionalHeader,
    /// There are not enough data directories for a certificate table: it can never be signed.
    #[error("it has no data directory for a certificate table")]
    NoCertificateEntry,
    /// An alignment is not a power of two, or that in memory is smaller than that in the file.
    #[error("its sections are to be aligned to {section} in memory and {file} in the file, which cannot be")]
    Alignment {
        /// In memory.
        section: u32,
        /// In the file.
        file: u32,
    },
    /// It has no sections.
    #[error("it has no sections")]
    NoSections,
    /// The section table does not fit into the headers.
    #[error("its headers are to have {headers_bytes} bytes, but the section table ends at {table_end}")]
    HeadersSize {
        /// Size of the headers.
        headers_bytes: usize,
        /// End of the section table.
        table_end: usize,
    },
    /// The file ends before what its headers say.
    #[error("it is cut off: {what} ends at byte {end} and the file at {length}")]
    Truncated {
        /// What is not whole: `section .linux`.
        what: String,
        /// Where that ends.
        end: u64,
        /// Size of the file.
        length: usize,
    },
    /// The name of a section is not printable ASCII, or goes on behind its end: programs read different names.
    #[error("section {number} has a name that is not plain text: {}", name.escape_ascii())]
    Name {
        /// Counted from 1.
        number: usize,
        /// The name as it is.
        name: [u8; 8],
    },
    /// A section has contents in the file and no size in memory: firmware loads them, boot stub and shim take the section as empty.
    #[error("section {name} has contents in the file, but no size in memory: some programs see it, others do not")]
    NoMemory {
        /// Name of the section.
        name: String,
    },
    /// A section is not within the memory that the program asks for.
    #[error("section {name} ends at {end:#x} in memory, but the program at {image_bytes:#x}")]
    Outside {
        /// Name of the section.
        name: String,
        /// Its end in memory.
        end: u64,
        /// Memory that the program takes.
        image_bytes: u32,
    },
    /// Two sections are at the same place of the file.
    #[error("{first} and {second} overlap in the file")]
    OverlapInFile {
        /// `section .linux`, `the headers` or `the certificate table`.
        first: String,
        /// The other one.
        second: String,
    },
    /// Two sections are at the same place in memory: the one loaded later destroys the other.
    #[error("{first} and {second} overlap in memory")]
    OverlapInMemory {
        /// `section .linux` or `the headers`.
        first: String,
        /// The other one.
        second: String,
    },
    /// A section is there twice in one profile: programs may take the one or the other.
    #[error("it has section {name} twice{}", profile.map(|number| format!(" in profile {number}")).unwrap_or_default())]
    Duplicate {
        /// Name of the section.
        name: String,
        /// The profile, counted from 0; none outside of profiles.
        profile: Option<usize>,
    },
    /// The certificate table is not where it must be.
    #[error("its certificate table is malformed: {problem}")]
    Certificates {
        /// What is wrong with it.
        problem: &'static str,
    },
}
