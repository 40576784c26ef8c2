//! [`Section`], and the checks of all sections of a file.

use std::collections::BTreeSet;
use std::ops::Range;

use object::LittleEndian as LE;
use object::pe::ImageSectionHeader;

use super::{Headers, PROFILE_SECTION, PeError};
use crate::uki::names;

/// What boot stub, boot loader and shim look up, but for [`super::REPEATED_SECTIONS`].
const LOOKED_UP: [&str; 13] = [
    names::LINUX,
    names::OS_RELEASE,
    names::COMMAND_LINE,
    names::INITRD,
    names::MICROCODE,
    names::SPLASH,
    names::DEVICE_TREE,
    names::UNAME,
    names::SBAT,
    names::PCR_SIGNATURE,
    names::PCR_PUBLIC_KEY,
    names::HWIDS,
    ".sdmagic",
];

/// A section of a PE file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section<'data> {
    /// Its name: at most 8 printable ASCII characters.
    pub name: &'data str,
    /// Its contents without padding. Where it takes more memory than it has bytes in the file ([`Section::memory_bytes`]), the
    /// rest is zeros, which are not here.
    pub data: &'data [u8],
    /// Where it is in memory, from the beginning of the program.
    pub address: u32,
    /// Memory that it takes.
    pub memory_bytes: u32,
    /// Where it is in the file, with padding; empty if it is not there.
    pub file: Range<usize>,
    /// The flags of its header.
    pub characteristics: u32,
}

/// Parses and checks all sections. Section contents end where certificates begin.
pub(super) fn parse_all<'data>(
    bytes: &'data [u8],
    headers: &Headers<'data>,
    certificates: usize,
) -> Result<Vec<Section<'data>>, PeError> {
    let sections: Vec<_> = headers
        .table
        .iter()
        .enumerate()
        .map(|(index, header)| parse(bytes, header, index + 1))
        .collect::<Result<_, _>>()?;
    check_memory(headers, &sections)?;
    check_file(headers, &sections, certificates..bytes.len())?;
    check_names(&sections)?;
    Ok(sections)
}

fn parse<'data>(
    bytes: &'data [u8],
    header: &'data ImageSectionHeader,
    number: usize,
) -> Result<Section<'data>, PeError> {
    let name = name(header).ok_or(PeError::Name { number, name: header.name })?;
    let in_file = u64::from(header.size_of_raw_data.get(LE));
    let memory_bytes = header.virtual_size.get(LE);
    // Firmware then goes by the size in the file, and loads contents that neither the boot stub nor shim see.
    if memory_bytes == 0 && in_file > 0 {
        return Err(PeError::NoMemory { name: name.to_owned() });
    }
    let mut file = 0..0;
    if in_file > 0 {
        let start = u64::from(header.pointer_to_raw_data.get(LE));
        let end = start + in_file;
        let truncated = || PeError::Truncated { what: format!("section {name}"), end, length: bytes.len() };
        let within = |at: u64| usize::try_from(at).ok().filter(|at| *at <= bytes.len()).ok_or_else(truncated);
        file = within(start)?..within(end)?;
    }
    let data = &bytes[file.clone()];
    let data = &data[..data.len().min(memory_bytes as usize)];
    let characteristics = header.characteristics.get(LE);
    Ok(Section { name, data, address: header.virtual_address.get(LE), memory_bytes, file, characteristics })
}

/// The name, if all programs read the same one.
fn name(header: &ImageSectionHeader) -> Option<&str> {
    let end = header.name.iter().position(|byte| *byte == 0).unwrap_or(header.name.len());
    let (name, rest) = header.name.split_at(end);
    let is_plain = name.iter().all(|byte| byte.is_ascii_graphic()) && rest.iter().all(|byte| *byte == 0);
    std::str::from_utf8(name).ok().filter(|_| is_plain)
}

/// In memory all sections are apart, behind the headers, and within the program.
fn check_memory(headers: &Headers<'_>, sections: &[Section<'_>]) -> Result<(), PeError> {
    let mut places = Vec::with_capacity(sections.len());
    for section in sections.iter().filter(|section| section.memory_bytes > 0) {
        let end = u64::from(section.address) + u64::from(section.memory_bytes);
        if end > u64::from(headers.image_bytes) {
            return Err(PeError::Outside { name: section.name.to_owned(), end, image_bytes: headers.image_bytes });
        }
        places.push((u64::from(section.address)..end, section.name));
    }
    match overlap(u64::from(headers.headers_bytes), places) {
        Some((first, second)) => Err(PeError::OverlapInMemory { first, second }),
        None => Ok(()),
    }
}

/// In the file all sections are apart, behind the headers, and before the certificates.
fn check_file(headers: &Headers<'_>, sections: &[Section<'_>], certificates: Range<usize>) -> Result<(), PeError> {
    let mut places = Vec::with_capacity(sections.len());
    for section in sections.iter().filter(|section| !section.file.is_empty()) {
        if !certificates.is_empty() && section.file.end > certificates.start {
            let first = format!("section {}", section.name);
            return Err(PeError::OverlapInFile { first, second: "the certificate table".to_owned() });
        }
        places.push((section.file.start as u64..section.file.end as u64, section.name));
    }
    match overlap(u64::from(headers.headers_bytes), places) {
        Some((first, second)) => Err(PeError::OverlapInFile { first, second }),
        None => Ok(()),
    }
}

/// The first two of the headers and these places that overlap.
fn overlap(headers_end: u64, mut places: Vec<(Range<u64>, &str)>) -> Option<(String, String)> {
    places.sort_by_key(|(place, _)| place.start);
    let mut before = (headers_end, "the headers".to_owned());
    for (place, name) in places {
        let name = format!("section {name}");
        if place.start < before.0 {
            return Some((before.1, name));
        }
        before = (place.end, name);
    }
    None
}

/// Within a profile, and before the first one, a section that is looked up by its name is there once. Others may repeat: linkers
/// leave such names, and nobody asks for them.
fn check_names(sections: &[Section<'_>]) -> Result<(), PeError> {
    let mut profile = None;
    let mut seen = BTreeSet::new();
    for section in sections {
        if section.name == PROFILE_SECTION {
            profile = Some(profile.map_or(0, |number| number + 1));
            seen.clear();
        } else if LOOKED_UP.contains(&section.name) && !seen.insert(section.name) {
            return Err(PeError::Duplicate { name: section.name.to_owned(), profile });
        }
    }
    Ok(())
}
