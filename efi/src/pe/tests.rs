use super::fake::{FILE_HEADER, OPTIONAL_HEADER, SECTION_TABLE, pe, put};
use super::*;

// Offsets in the header of a section.
const VIRTUAL_SIZE: usize = 8;
const ADDRESS: usize = 12;
const RAW_SIZE: usize = 16;
const RAW_OFFSET: usize = 20;
const CERTIFICATE_ENTRY: usize = OPTIONAL_HEADER + 112 + 32;

fn two() -> Vec<u8> {
    pe(&[(".osrel", b"ID=debian\n"), (".cmdline", &[b'x'; 600])])
}

/// Offset of a field in the header of a section, counted from 0.
fn field(section: usize, field: usize) -> usize {
    SECTION_TABLE + 40 * section + field
}

fn refused(bytes: &[u8]) -> PeError {
    Pe::parse(bytes).expect_err("it was accepted")
}

/// What is said of a file in which one u32 has been changed.
fn changed(at: usize, value: usize) -> PeError {
    let mut bytes = two();
    put(&mut bytes, at, value);
    refused(&bytes)
}

/// A file with so many bytes of certificates at its end.
fn signed(size: usize) -> Vec<u8> {
    let mut bytes = two();
    let start = bytes.len();
    put(&mut bytes, CERTIFICATE_ENTRY, start);
    put(&mut bytes, CERTIFICATE_ENTRY + 4, size);
    bytes.resize(start + size, 7);
    bytes
}

#[test]
fn sections_are_found_without_padding() {
    let bytes = two();
    let parsed = Pe::parse(&bytes).unwrap();
    assert_eq!(parsed.machine(), Machine::X64);
    assert_eq!(parsed.bytes(), bytes);
    let [osrel, cmdline] = parsed.sections() else { panic!("{parsed:?}") };
    assert_eq!((osrel.name, osrel.data), (".osrel", &b"ID=debian\n"[..]));
    assert_eq!((cmdline.name, cmdline.data, cmdline.memory_bytes), (".cmdline", &[b'x'; 600][..], 600));
    assert_eq!(osrel.file.end, cmdline.file.start);
    assert_eq!(cmdline.file.len(), 1024);
    assert_eq!(parsed.headers_bytes(), osrel.file.start);
    assert!(osrel.address < cmdline.address && cmdline.address < parsed.image_bytes());
    assert_eq!(parsed.section(".cmdline"), Some(cmdline));
    assert_eq!(parsed.certificates(), bytes.len()..bytes.len());
    assert_eq!(parsed.checksum_offset(), OPTIONAL_HEADER + 64);
    assert_eq!(parsed.certificate_entry_offset(), CERTIFICATE_ENTRY);
}

#[test]
fn a_file_is_parsed_wherever_it_lies_in_memory() {
    let mut bytes = vec![0];
    bytes.extend(two());
    assert_eq!(Pe::parse(&bytes[1..]).unwrap().sections().len(), 2);
}

#[test]
fn memory_beyond_the_file_is_not_contents() {
    let mut bytes = two();
    put(&mut bytes, field(1, VIRTUAL_SIZE), 4096);
    let parsed = Pe::parse(&bytes).unwrap();
    assert_eq!(parsed.sections()[1].data.len(), 1024);
    assert_eq!(parsed.sections()[1].memory_bytes, 4096);
}

#[test]
fn contents_that_the_boot_stub_does_not_see_are_refused() {
    assert_eq!(changed(field(1, VIRTUAL_SIZE), 0), PeError::NoMemory { name: ".cmdline".to_owned() });
    // Nothing at all is nothing for everybody.
    let mut bytes = two();
    put(&mut bytes, field(1, VIRTUAL_SIZE), 0);
    put(&mut bytes, field(1, RAW_SIZE), 0);
    assert_eq!(Pe::parse(&bytes).unwrap().sections()[1].data, b"");
}

#[test]
fn what_is_no_pe_file_is_refused() {
    assert_eq!(refused(b""), PeError::NotPe);
    assert_eq!(refused(b"\x7fELF"), PeError::NotPe);
}

#[test]
fn a_file_is_refused_wherever_it_is_cut() {
    let bytes = two();
    for length in 0..bytes.len() {
        let error = refused(&bytes[..length]);
        if length >= SECTION_TABLE + 80 {
            assert!(matches!(error, PeError::Truncated { .. }), "{length}: {error}");
        }
    }
    let (whole, cut) = (bytes.len(), bytes.len() - 1);
    let said = refused(&bytes[..cut]).to_string();
    assert_eq!(said, format!("it is cut off: section .cmdline ends at byte {whole} and the file at {cut}"));
}

#[test]
fn sizes_that_wrap_are_refused() {
    assert!(matches!(changed(field(1, RAW_SIZE), 0xFFFF_FE00), PeError::Truncated { .. }));
    assert!(matches!(changed(field(1, RAW_OFFSET), 0xFFFF_FE00), PeError::Truncated { .. }));
    assert!(matches!(changed(field(1, VIRTUAL_SIZE), 0xFFFF_FFFF), PeError::Outside { .. }));
    assert!(matches!(changed(field(1, ADDRESS), 0xFFFF_FFFF), PeError::Outside { .. }));
    assert!(matches!(changed(OPTIONAL_HEADER + 60, 0xFFFF_FFFF), PeError::Truncated { .. }));
    assert!(matches!(changed(60, 0xFFFF_FFFF), PeError::Header(_)));
    let mut bytes = two();
    put(&mut bytes, CERTIFICATE_ENTRY, 0xFFFF_FFF8);
    put(&mut bytes, CERTIFICATE_ENTRY + 4, 16);
    assert!(matches!(refused(&bytes), PeError::Truncated { .. }));
}

#[test]
fn huge_counts_are_refused() {
    let mut bytes = two();
    bytes[FILE_HEADER + 2..FILE_HEADER + 4].copy_from_slice(&[0xFF, 0xFF]);
    assert!(matches!(refused(&bytes), PeError::Header(_)), "a section table beyond the file");
    bytes.resize(4 << 20, 0);
    assert!(matches!(refused(&bytes), PeError::HeadersSize { .. }), "a section table beyond the headers");
    assert!(matches!(changed(OPTIONAL_HEADER + 108, 0xFFFF_FFFF), PeError::Header(_)), "data directories");
    assert_eq!(changed(OPTIONAL_HEADER + 108, 15), PeError::OptionalHeader);
    let mut bytes = two();
    bytes[FILE_HEADER + 2] = 0;
    assert_eq!(refused(&bytes), PeError::NoSections);
}

#[test]
fn overlaps_are_refused_by_the_names_of_both() {
    let bytes = two();
    let parsed = Pe::parse(&bytes).unwrap();
    let first = &parsed.sections()[0];
    let error = changed(field(1, RAW_OFFSET), first.file.start);
    assert_eq!(error.to_string(), "section .osrel and section .cmdline overlap in the file");
    let error = changed(field(1, ADDRESS), first.address as usize);
    assert_eq!(error.to_string(), "section .osrel and section .cmdline overlap in memory");
    let error = changed(field(0, VIRTUAL_SIZE), 4097);
    assert_eq!(error.to_string(), "section .osrel and section .cmdline overlap in memory");
    assert_eq!(changed(field(0, RAW_OFFSET), 0).to_string(), "the headers and section .osrel overlap in the file");
    assert_eq!(changed(field(0, ADDRESS), 0).to_string(), "the headers and section .osrel overlap in memory");
}

#[test]
fn sections_beyond_the_memory_of_the_program_are_refused() {
    let error = changed(OPTIONAL_HEADER + 56, 8192).to_string();
    assert_eq!(error, "section .cmdline ends at 0x2258 in memory, but the program at 0x2000");
}

#[test]
fn a_section_comes_once_in_a_profile() {
    let duplicate = |sections: &[(&str, &[u8])]| match Pe::parse(&pe(sections)) {
        Err(PeError::Duplicate { name, profile }) => Some((name, profile)),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    };
    let line = |profile| Some((".cmdline".to_owned(), profile));
    assert_eq!(duplicate(&[(".cmdline", b"a"), (".linux", b"k"), (".cmdline", b"b")]), line(None));
    let first: (&str, &[u8]) = (".profile", b"ID=main");
    assert_eq!(duplicate(&[(".cmdline", b"a"), first, (".cmdline", b"b"), first, (".cmdline", b"c")]), None);
    assert_eq!(duplicate(&[first, first, (".cmdline", b"b"), (".cmdline", b"c")]), line(Some(1)));
    assert_eq!(duplicate(&[(".dtbauto", b"a"), (".dtbauto", b"b")]), None);
    assert_eq!(duplicate(&[(".srodata", b"a"), (".srodata", b"b")]), None, "linkers leave such");
    let error = refused(&pe(&[first, (".dtb", b"b"), (".dtb", b"c")])).to_string();
    assert_eq!(error, "it has section .dtb twice in profile 0");
}

#[test]
fn names_that_programs_read_in_different_ways_are_refused() {
    let named = |name: &[u8; 8]| {
        let mut bytes = two();
        bytes[SECTION_TABLE..SECTION_TABLE + 8].copy_from_slice(name);
        Pe::parse(&bytes).map(|parsed| parsed.sections()[0].name.to_owned())
    };
    assert_eq!(named(b".pcrpkey").unwrap(), ".pcrpkey");
    for name in [b".linux\0x", b".li nux\0", b".l\xc3\xa4n\0\0\0", b".li\x1bnux\0"] {
        assert!(matches!(named(name), Err(PeError::Name { number: 1, .. })), "{name:?}");
    }
    let error = named(b".linux\0x").unwrap_err().to_string();
    assert_eq!(error, "section 1 has a name that is not plain text: .linux\\x00x");
}

#[test]
fn certificates_are_the_end_of_the_file() {
    let bytes = signed(24);
    let parsed = Pe::parse(&bytes).unwrap();
    assert_eq!(bytes[parsed.certificates()], [7; 24]);
    let problem = |bytes: &[u8]| match refused(bytes) {
        PeError::Certificates { problem } => problem,
        other => panic!("{other}"),
    };
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(problem(&longer), "it is not the end of the file");
    assert!(matches!(refused(&bytes[..bytes.len() - 1]), PeError::Truncated { .. }));
    let mut moved = bytes.clone();
    let length = bytes.len();
    put(&mut moved, CERTIFICATE_ENTRY, length - 28);
    put(&mut moved, CERTIFICATE_ENTRY + 4, 28);
    assert!(problem(&moved).contains("multiple of 8"));
    put(&mut moved, CERTIFICATE_ENTRY, length - 32);
    put(&mut moved, CERTIFICATE_ENTRY + 4, 32);
    assert_eq!(refused(&moved).to_string(), "section .cmdline and the certificate table overlap in the file");
    put(&mut moved, CERTIFICATE_ENTRY, 8);
    put(&mut moved, CERTIFICATE_ENTRY + 4, length - 8);
    assert_eq!(problem(&moved), "it overlaps the headers");
    put(&mut moved, CERTIFICATE_ENTRY, length);
    put(&mut moved, CERTIFICATE_ENTRY + 4, 0);
    assert!(problem(&moved).starts_with("it is empty"));
}

#[test]
fn alignments_are_powers_of_two() {
    assert_eq!(changed(OPTIONAL_HEADER + 32, 0), PeError::Alignment { section: 0, file: 512 });
    assert_eq!(changed(OPTIONAL_HEADER + 36, 513), PeError::Alignment { section: 4096, file: 513 });
    assert_eq!(changed(OPTIONAL_HEADER + 36, 8192), PeError::Alignment { section: 4096, file: 8192 });
}
