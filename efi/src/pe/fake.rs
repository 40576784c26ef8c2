//! Small PE files for tests: all that the format asks for, and nothing that runs.

/// Of sections in the file.
pub const FILE_ALIGNMENT: usize = 512;
/// Of sections in memory.
pub const SECTION_ALIGNMENT: usize = 4096;
/// Offset of the file header in what [`pe`] makes.
pub const FILE_HEADER: usize = 68;
/// Offset of the optional header.
pub const OPTIONAL_HEADER: usize = 88;
/// Offset of the section table; an entry has 40 bytes.
pub const SECTION_TABLE: usize = 328;

/// An x86-64 program with these sections, in this order in the file and in memory, and room for a few more in its headers.
///
/// # Panics
/// When a name or the whole file is too long for the format.
#[must_use]
pub fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut headers = vec![0; FILE_HEADER];
    headers[..2].copy_from_slice(b"MZ");
    headers[60..64].copy_from_slice(&64_u32.to_le_bytes());
    headers[64..].copy_from_slice(b"PE\0\0");
    headers.extend(0x8664_u16.to_le_bytes());
    headers.extend(u16::try_from(sections.len()).expect("a number of sections").to_le_bytes());
    headers.extend([0; 12]);
    headers.extend(240_u16.to_le_bytes());
    // Executable, for large addresses.
    headers.extend(0x22_u16.to_le_bytes());
    headers.resize(SECTION_TABLE, 0);
    let headers_bytes = (SECTION_TABLE + 40 * (sections.len() + 8)).next_multiple_of(FILE_ALIGNMENT);
    let mut address = headers_bytes.next_multiple_of(SECTION_ALIGNMENT);
    let mut data = Vec::new();
    for (name, contents) in sections {
        let mut header = [0; 40];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let padded = contents.len().next_multiple_of(FILE_ALIGNMENT);
        put(&mut header, 8, contents.len());
        put(&mut header, 12, address);
        put(&mut header, 16, padded);
        put(&mut header, 20, headers_bytes + data.len());
        // Initialized data, readable.
        put(&mut header, 36, 0x4000_0040);
        headers.extend(header);
        data.extend(*contents);
        data.resize(data.len().next_multiple_of(FILE_ALIGNMENT), 0);
        address += contents.len().next_multiple_of(SECTION_ALIGNMENT);
    }
    let optional = &mut headers[OPTIONAL_HEADER..];
    // PE32+ with 16 empty data directories.
    put(optional, 0, 0x20B);
    put(optional, 32, SECTION_ALIGNMENT);
    put(optional, 36, FILE_ALIGNMENT);
    put(optional, 56, address);
    put(optional, 60, headers_bytes);
    // An EFI application.
    put(optional, 68, 10);
    put(optional, 108, 16);
    headers.resize(headers_bytes, 0);
    headers.extend(data);
    headers
}

/// Writes a u32 at an offset.
///
/// # Panics
/// When the value or the offset is too large.
pub fn put(bytes: &mut [u8], at: usize, value: usize) {
    let value = u32::try_from(value).expect("a value of 32 bits");
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
