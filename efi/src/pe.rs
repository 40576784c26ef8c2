//! PE files: what UEFI firmware starts.
//!
//! [`Pe::parse`] is strict: a file that it accepts has headers and sections that lie within the file and do not overlap,
//! neither in the file nor in memory, so that firmware, boot stub, signing tools and this code see the same bytes in it. What the
//! signature covers, and what is measured, is then what was looked at. Where something must be found in files that others
//! have made badly, use [`crate::uki::command_lines`] instead.
//!
//! Source: the PE format specification of Microsoft, and what EDK2 refuses.

mod checksum;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod machine;
mod section;
#[cfg(test)]
mod tests;
mod writer;

use std::io::Read;
use std::ops::Range;

use object::LittleEndian as LE;
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_SECURITY, IMAGE_DLLCHARACTERISTICS_NX_COMPAT, IMAGE_NT_OPTIONAL_HDR32_MAGIC,
    ImageDataDirectory, ImageDosHeader, ImageNtHeaders32, ImageNtHeaders64, ImageSectionHeader,
};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader as _, SectionTable};

pub use checksum::checksum;
pub use error::{PeError, ReadError};
pub use machine::Machine;
pub use section::Section;
pub use writer::{WriteError, Writer};

/// Largest file that is read. The format ends at 4 GiB, and so does a file on FAT.
pub const FILE_MAX_BYTES: u64 = 2 << 30;
/// Sections of a UKI that may come several times in one profile: the firmware's own description of the hardware chooses.
pub const REPEATED_SECTIONS: [&str; 2] = [".dtbauto", ".efifw"];
/// Begins a profile of a UKI.
pub const PROFILE_SECTION: &str = ".profile";

/// Begins every PE file.
const MAGIC: &[u8] = b"MZ";
/// Of the checksum in the optional header, in both of its forms.
const CHECKSUM_OFFSET: usize = 64;
/// Of the entry of the certificate table in the data directories.
const CERTIFICATE_ENTRY_OFFSET: usize = IMAGE_DIRECTORY_ENTRY_SECURITY * size_of::<ImageDataDirectory>();
/// Certificates begin at multiples of it.
const CERTIFICATE_ALIGNMENT: usize = 8;

/// Reads a file, at most [`FILE_MAX_BYTES`].
pub fn read(mut file: impl Read) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    file.by_ref().take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(ReadError::TooLarge);
    }
    Ok(bytes)
}

/// A PE file whose headers and sections have been checked.
#[derive(Clone, Debug)]
pub struct Pe<'data> {
    bytes: &'data [u8],
    headers: Headers<'data>,
    sections: Vec<Section<'data>>,
    certificates: Range<usize>,
}

/// What the headers say, with the offsets of what writers change.
#[derive(Clone, Debug)]
struct Headers<'data> {
    machine: Machine,
    /// Of the optional header.
    optional_offset: usize,
    /// Of the data directory of the certificate table.
    certificate_entry_offset: usize,
    certificate_entry: ImageDataDirectory,
    section_alignment: u32,
    file_alignment: u32,
    image_bytes: u32,
    headers_bytes: u32,
    nx_compatible: bool,
    /// Of the section table.
    table_offset: usize,
    table: SectionTable<'data>,
}

impl<'data> Pe<'data> {
    /// Parses and checks a whole file.
    ///
    /// # Errors
    /// What is wrong, by its name; see [`PeError`]. Takes memory for the section table alone.
    pub fn parse(bytes: &'data [u8]) -> Result<Self, PeError> {
        if !bytes.starts_with(MAGIC) {
            return Err(PeError::NotPe);
        }
        let dos = ImageDosHeader::parse(bytes).map_err(PeError::Header)?;
        let offset = u64::from(dos.nt_headers_offset());
        if offset < size_of::<ImageDosHeader>() as u64 {
            return Err(PeError::HeadersOverlap);
        }
        // The forms differ in what comes after the signature and the file header.
        let magic = offset.checked_add(24).and_then(|at| bytes.get(usize::try_from(at).ok()?..)).unwrap_or_default();
        let headers = if magic.starts_with(&IMAGE_NT_OPTIONAL_HDR32_MAGIC.to_le_bytes()) {
            Headers::parse::<ImageNtHeaders32>(bytes, offset)?
        } else {
            Headers::parse::<ImageNtHeaders64>(bytes, offset)?
        };
        let certificates = headers.certificates(bytes)?;
        let sections = section::parse_all(bytes, &headers, certificates.start)?;
        Ok(Self { bytes, headers, sections, certificates })
    }

    /// The sections, in the order of the section table.
    pub fn sections(&self) -> &[Section<'data>] {
        &self.sections
    }

    /// The processor that it runs on.
    pub fn machine(&self) -> Machine {
        self.headers.machine
    }

    /// Where in the file its checksum (u32) is.
    pub fn checksum_offset(&self) -> usize {
        self.headers.optional_offset + CHECKSUM_OFFSET
    }

    /// Where in the file the data directory of the certificate table (offset and size, u32 each) is.
    pub fn certificate_entry_offset(&self) -> usize {
        self.headers.certificate_entry_offset
    }

    /// The certificate table within the file, which is the end of it; empty, at the end of the file, if it is not signed.
    pub fn certificates(&self) -> Range<usize> {
        self.certificates.clone()
    }

    /// The whole file.
    pub fn bytes(&self) -> &'data [u8] {
        self.bytes
    }

    /// The headers with the section table: all before it in the file is loaded and signed as headers.
    pub fn headers_bytes(&self) -> usize {
        self.headers.headers_bytes as usize
    }

    /// Whether it says that it runs where no memory is writable and executable at once (NX_COMPAT).
    pub fn is_nx_compatible(&self) -> bool {
        self.headers.nx_compatible
    }

    /// Memory that the program takes when it is loaded, in bytes.
    pub fn image_bytes(&self) -> u32 {
        self.headers.image_bytes
    }

    /// Sections begin at multiples of it in memory.
    pub fn section_alignment(&self) -> u32 {
        self.headers.section_alignment
    }

    /// Sections begin at multiples of it in the file.
    pub fn file_alignment(&self) -> u32 {
        self.headers.file_alignment
    }

    /// The first section of this name.
    pub fn section(&self, name: &str) -> Option<&Section<'data>> {
        self.sections.iter().find(|section| section.name == name)
    }
}

impl<'data> Headers<'data> {
    fn parse<Form: ImageNtHeaders>(bytes: &'data [u8], offset: u64) -> Result<Self, PeError> {
        let mut table_offset = offset;
        let (headers, directories) = Form::parse(bytes, &mut table_offset).map_err(PeError::Header)?;
        let optional = headers.optional_header();
        let before_directories = size_of::<Form::ImageOptionalHeader>();
        let optional_bytes = usize::from(headers.file_header().size_of_optional_header.get(LE));
        // EDK2 wants them to agree, and others go by the one or the other.
        if optional_bytes != before_directories + directories.len() * size_of::<ImageDataDirectory>() {
            return Err(PeError::OptionalHeader);
        }
        let certificate_entry = directories.iter().nth(IMAGE_DIRECTORY_ENTRY_SECURITY);
        let certificate_entry = *certificate_entry.ok_or(PeError::NoCertificateEntry)?;
        let table = headers.sections(bytes, table_offset).map_err(PeError::Header)?;
        let table_offset = usize::try_from(table_offset).map_err(|_| PeError::OptionalHeader)?;
        let optional_offset = table_offset - optional_bytes;
        let found = Self {
            machine: Machine::from(headers.file_header().machine.get(LE)),
            optional_offset,
            certificate_entry_offset: optional_offset + before_directories + CERTIFICATE_ENTRY_OFFSET,
            certificate_entry,
            section_alignment: optional.section_alignment(),
            file_alignment: optional.file_alignment(),
            image_bytes: optional.size_of_image(),
            headers_bytes: optional.size_of_headers(),
            nx_compatible: optional.dll_characteristics() & IMAGE_DLLCHARACTERISTICS_NX_COMPAT != 0,
            table_offset,
            table,
        };
        found.check(bytes)?;
        Ok(found)
    }

    /// Checks what the section headers are then checked against.
    fn check(&self, bytes: &[u8]) -> Result<(), PeError> {
        let (section, file) = (self.section_alignment, self.file_alignment);
        if !section.is_power_of_two() || !file.is_power_of_two() || section < file {
            return Err(PeError::Alignment { section, file });
        }
        if self.table.is_empty() {
            return Err(PeError::NoSections);
        }
        let table_end = self.table_offset + self.table.len() * size_of::<ImageSectionHeader>();
        let headers_bytes = self.headers_bytes as usize;
        if headers_bytes < table_end {
            return Err(PeError::HeadersSize { headers_bytes, table_end });
        }
        if headers_bytes > bytes.len() {
            return Err(PeError::Truncated {
                what: "the headers".to_owned(),
                end: headers_bytes as u64,
                length: bytes.len(),
            });
        }
        Ok(())
    }

    /// The certificate table, which must be the end of the file: firmware takes it away from what is signed by its size alone.
    fn certificates(&self, bytes: &[u8]) -> Result<Range<usize>, PeError> {
        let start = self.certificate_entry.virtual_address.get(LE);
        let size = self.certificate_entry.size.get(LE);
        if start == 0 && size == 0 {
            return Ok(bytes.len()..bytes.len());
        }
        let (start, end) = (start as usize, u64::from(start) + u64::from(size));
        let wrong = |problem| Err(PeError::Certificates { problem });
        if end > bytes.len() as u64 {
            return Err(PeError::Truncated { what: "the certificate table".to_owned(), end, length: bytes.len() });
        }
        if end < bytes.len() as u64 {
            return wrong("it is not the end of the file");
        }
        if start < self.headers_bytes as usize {
            return wrong("it overlaps the headers");
        }
        if size == 0 || !start.is_multiple_of(CERTIFICATE_ALIGNMENT) {
            return wrong("it is empty, or does not begin at a multiple of 8 bytes");
        }
        Ok(start..bytes.len())
    }
}
