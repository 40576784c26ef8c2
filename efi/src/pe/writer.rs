//! [`Writer`] adds sections to a program.

use std::borrow::Cow;

use object::LittleEndian as LE;
use object::U32;
use object::pe::{
    IMAGE_DLLCHARACTERISTICS_NX_COMPAT, IMAGE_FILE_LOCAL_SYMS_STRIPPED, IMAGE_SCN_CNT_CODE,
    IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_READ, ImageSectionHeader,
};
use object::pod::bytes_of;
use thiserror::Error;

use super::{Pe, PeError, checksum};

/// Offsets in the file header, which ends where the optional header begins.
const FILE_HEADER_BYTES: usize = 20;
const NUMBER_OF_SECTIONS: usize = 2;
const SYMBOL_TABLE: usize = 8;
const CHARACTERISTICS: usize = 18;
/// Offsets in the optional header, the same in both of its forms.
const SIZE_OF_CODE: usize = 4;
const SIZE_OF_INITIALIZED_DATA: usize = 8;
const SIZE_OF_IMAGE: usize = 56;
const SIZE_OF_HEADERS: usize = 60;
const DLL_CHARACTERISTICS: usize = 70;

/// Why sections cannot be added.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// Adding something would invalidate the signature.
    #[error("it is signed: nothing can be added to a signed program")]
    Signed,
    /// The name of a section does not fit the format.
    #[error("{name:?} is no name for a section: it has 1 to 8 printable ASCII characters")]
    Name {
        /// The name.
        name: String,
    },
    /// There is no room for more entries in the section table.
    #[error("its headers have no room for {sections} sections")]
    Headers {
        /// Number of sections.
        sections: usize,
    },
    /// Everything together is larger than the format can describe.
    #[error("with section {name} it would be larger than 4 GiB")]
    TooLarge {
        /// Name of the section.
        name: String,
    },
    /// What was made is not accepted.
    #[error("what was made of it is not a correct PE file")]
    Result(#[source] PeError),
}

/// A program with more sections.
///
/// The sections that it has stay where they are in memory and, if they are aligned, in the file. New ones come behind all
/// others. The same input always gives the same bytes.
#[derive(Clone, Debug)]
pub struct Writer<'data> {
    program: Pe<'data>,
    sections: Vec<Planned<'data>>,
    /// Sections of the program itself.
    own: usize,
    keep_nx_compatible: bool,
}

#[derive(Clone, Debug)]
struct Planned<'data> {
    header: ImageSectionHeader,
    data: Cow<'data, [u8]>,
}

impl Planned<'_> {
    fn end(&self) -> u64 {
        let memory = self.header.virtual_size.get(LE).max(1);
        u64::from(self.header.virtual_address.get(LE)) + u64::from(memory)
    }
}

impl<'data> Writer<'data> {
    /// Begins with a program that is not signed.
    pub fn new(program: &Pe<'data>) -> Result<Self, WriteError> {
        if !program.certificates.is_empty() {
            return Err(WriteError::Signed);
        }
        let with_data = program.headers.table.iter().zip(&program.sections);
        let sections: Vec<_> = with_data
            .map(|(header, section)| Planned { header: *header, data: program.bytes[section.file.clone()].into() })
            .collect();
        Ok(Self { program: program.clone(), own: sections.len(), sections, keep_nx_compatible: true })
    }

    /// Takes away the mark that the program runs where no memory is writable and executable at once: what is added does not.
    pub fn clear_nx_compatible(&mut self) {
        self.keep_nx_compatible = false;
    }

    /// Adds a section behind all others. Takes `memory_bytes` when it is loaded if that is more than its contents have. Code is
    /// marked as such, and as readable only, like data: it is not executed in its place.
    pub fn add(
        &mut self,
        name: &str,
        data: impl Into<Cow<'data, [u8]>>,
        memory_bytes: u32,
        code: bool,
    ) -> Result<(), WriteError> {
        let data = data.into();
        let too_large = || WriteError::TooLarge { name: name.to_owned() };
        let bytes = u32::try_from(data.len()).map_err(|_| too_large())?.max(memory_bytes);
        let end = self.sections.iter().map(Planned::end).max().unwrap_or_default();
        let address = end.next_multiple_of(u64::from(self.program.section_alignment()));
        let address = u32::try_from(address).map_err(|_| too_large())?;
        address.checked_add(bytes).ok_or_else(too_large)?;
        let kind = if code { IMAGE_SCN_CNT_CODE } else { IMAGE_SCN_CNT_INITIALIZED_DATA };
        let header = ImageSectionHeader {
            name: padded_name(name)?,
            virtual_size: U32::new(LE, bytes),
            virtual_address: U32::new(LE, address),
            characteristics: U32::new(LE, kind | IMAGE_SCN_MEM_READ),
            ..ImageSectionHeader::default()
        };
        self.sections.push(Planned { header, data });
        Ok(())
    }

    /// Gives a section that the program itself has new contents: in its place if there is room in memory, else behind all others, so
    /// that it must be one that code does not refer to. Adds the section if the program has none of that name.
    pub fn replace(&mut self, name: &str, data: impl Into<Cow<'data, [u8]>>) -> Result<(), WriteError> {
        let data = data.into();
        let wanted = padded_name(name)?;
        let Some(index) = self.sections[..self.own].iter().position(|section| section.header.name == wanted) else {
            return self.add(name, data, 0, false);
        };
        let address = self.sections[index].header.virtual_address.get(LE);
        let later = self.sections.iter().map(|section| section.header.virtual_address.get(LE));
        let next = later.filter(|other| *other > address).min().map_or(1 << 32, u64::from);
        let room_bytes = next - u64::from(address);
        match u32::try_from(data.len()) {
            Ok(bytes) if u64::from(bytes) <= room_bytes => {
                self.sections[index].header.virtual_size = U32::new(LE, bytes);
                self.sections[index].data = data;
                Ok(())
            }
            _ => {
                self.sections.remove(index);
                self.own -= 1;
                self.add(name, data, 0, false)
            }
        }
    }

    /// The file, with its checksum.
    pub fn finish(mut self) -> Result<Vec<u8>, WriteError> {
        let headers_bytes = self.headers_bytes()?;
        let end = self.place(headers_bytes)?;
        let mut file = Vec::with_capacity(end);
        let headers = &self.program.headers;
        file.extend(&self.program.bytes[..headers.table_offset]);
        for section in &self.sections {
            file.extend(bytes_of(&section.header));
        }
        file.resize(headers_bytes, 0);
        self.write_headers(&mut file, headers_bytes)?;
        for section in self.sections.iter().filter(|section| !section.data.is_empty()) {
            file.resize(section.header.pointer_to_raw_data.get(LE) as usize, 0);
            file.extend(&*section.data);
        }
        file.resize(end, 0);
        let offset = self.program.checksum_offset();
        let sum = checksum(&file, offset);
        put(&mut file, offset, sum);
        Pe::parse(&file).map_err(WriteError::Result)?;
        Ok(file)
    }

    /// Size of the headers with all sections.
    fn headers_bytes(&self) -> Result<usize, WriteError> {
        let sections = self.sections.len();
        let table_end = self.program.headers.table_offset + sections * size_of::<ImageSectionHeader>();
        let alignment = self.program.file_alignment() as usize;
        let bytes = table_end.max(self.program.headers_bytes()).next_multiple_of(alignment);
        let first = self.sections.iter().map(|section| section.header.virtual_address.get(LE)).min();
        let fits = u16::try_from(sections).is_ok() && first.is_none_or(|first| bytes <= first as usize);
        fits.then_some(bytes).ok_or(WriteError::Headers { sections })
    }

    /// Gives every section its place in the file; returns the end of the file.
    fn place(&mut self, headers_bytes: usize) -> Result<usize, WriteError> {
        let alignment = self.program.file_alignment() as usize;
        let mut end = headers_bytes;
        for section in &mut self.sections {
            if section.data.is_empty() {
                section.header.size_of_raw_data = U32::default();
                section.header.pointer_to_raw_data = U32::default();
                continue;
            }
            let before = section.header.pointer_to_raw_data.get(LE) as usize;
            let start = if before >= end && before.is_multiple_of(alignment) { before } else { end };
            let size = section.data.len().next_multiple_of(alignment);
            end = start + size;
            let name = || String::from_utf8_lossy(&section.header.name).trim_end_matches('\0').to_owned();
            let field = |value: usize| u32::try_from(value).map_err(|_| WriteError::TooLarge { name: name() });
            field(end)?;
            section.header.pointer_to_raw_data = U32::new(LE, field(start)?);
            section.header.size_of_raw_data = U32::new(LE, field(size)?);
        }
        Ok(end)
    }

    /// Writes what has changed in the headers.
    fn write_headers(&self, file: &mut [u8], headers_bytes: usize) -> Result<(), WriteError> {
        let optional = self.program.headers.optional_offset;
        let file_header = optional - FILE_HEADER_BYTES;
        // Checked in headers_bytes and place.
        put_short(file, file_header + NUMBER_OF_SECTIONS, self.sections.len() as u16);
        if file[file_header + SYMBOL_TABLE..][..8] != [0; 8] {
            // Symbols lie behind the sections, where new ones are now.
            file[file_header + SYMBOL_TABLE..][..8].fill(0);
            let flags = get_short(file, file_header + CHARACTERISTICS) | IMAGE_FILE_LOCAL_SYMS_STRIPPED;
            put_short(file, file_header + CHARACTERISTICS, flags);
        }
        if !self.keep_nx_compatible {
            let flags = get_short(file, optional + DLL_CHARACTERISTICS) & !IMAGE_DLLCHARACTERISTICS_NX_COMPAT;
            put_short(file, optional + DLL_CHARACTERISTICS, flags);
        }
        for (flag, field) in
            [(IMAGE_SCN_CNT_CODE, SIZE_OF_CODE), (IMAGE_SCN_CNT_INITIALIZED_DATA, SIZE_OF_INITIALIZED_DATA)]
        {
            let new = self.sections[self.own..].iter();
            let of_kind = new.filter(|section| section.header.characteristics.get(LE) & flag != 0);
            let bytes: u32 = of_kind.map(|section| section.header.size_of_raw_data.get(LE)).sum();
            let before = get(file, optional + field);
            put(file, optional + field, before.saturating_add(bytes));
        }
        let end = self.sections.iter().map(Planned::end).max().unwrap_or_default();
        let image = end.next_multiple_of(u64::from(self.program.section_alignment()));
        let image = u32::try_from(image).map_err(|_| {
            let last = self.program.sections.last().map(|section| section.name).unwrap_or_default();
            WriteError::TooLarge { name: last.to_owned() }
        })?;
        put(file, optional + SIZE_OF_IMAGE, image.max(self.program.image_bytes()));
        put(file, optional + SIZE_OF_HEADERS, headers_bytes as u32);
        Ok(())
    }
}

fn padded_name(name: &str) -> Result<[u8; 8], WriteError> {
    let mut padded = [0; 8];
    let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic());
    match padded.get_mut(..name.len()) {
        Some(room) if is_plain && !name.is_empty() => room.copy_from_slice(name.as_bytes()),
        _ => return Err(WriteError::Name { name: name.to_owned() }),
    }
    Ok(padded)
}

fn get_short(file: &[u8], at: usize) -> u16 {
    file[at..].first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

fn put_short(file: &mut [u8], at: usize, value: u16) {
    file[at..][..2].copy_from_slice(&value.to_le_bytes());
}

fn get(file: &[u8], at: usize) -> u32 {
    file[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn put(file: &mut [u8], at: usize, value: u32) {
    file[at..][..4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests;
