use super::*;
use crate::pe::fake::{self, FILE_HEADER, OPTIONAL_HEADER, SECTION_TABLE, pe};

fn stub() -> Vec<u8> {
    pe(&[(".text", &[0x90; 700]), (".sbat", b"sbat,1\n"), (".reloc", b"r")])
}

fn with(stub: &[u8], change: impl FnOnce(&mut Writer<'_>) -> Result<(), WriteError>) -> Result<Vec<u8>, WriteError> {
    let mut writer = Writer::new(&Pe::parse(stub).unwrap())?;
    change(&mut writer)?;
    writer.finish()
}

#[test]
fn new_sections_stand_behind_the_others() {
    let stub = stub();
    let file = with(&stub, |writer| {
        writer.add(".cmdline", &b"quiet"[..], 0, false)?;
        writer.add(".linux", vec![7; 5000], 20000, true)?;
        writer.add(".initrd", &b"initrd"[..], 0, false)
    });
    let file = file.unwrap();
    let parsed = Pe::parse(&file).unwrap();
    let names: Vec<_> = parsed.sections().iter().map(|section| section.name).collect();
    assert_eq!(names, [".text", ".sbat", ".reloc", ".cmdline", ".linux", ".initrd"]);
    for (before, after) in Pe::parse(&stub).unwrap().sections().iter().zip(parsed.sections()) {
        assert_eq!(before, after, "sections of the stub stay as they are");
    }
    let [.., cmdline, linux, initrd] = parsed.sections() else { panic!() };
    assert_eq!((cmdline.data, initrd.data), (&b"quiet"[..], &b"initrd"[..]));
    // In the file it is padded, so zeros follow until the padding ends.
    assert_eq!((linux.memory_bytes, &linux.data[..5000], linux.data.len()), (20000, &[7; 5000][..], 5120));
    assert_eq!(initrd.address, linux.address + 20480);
    assert_eq!((linux.characteristics, initrd.characteristics), (0x4000_0020, 0x4000_0040));
    for section in parsed.sections() {
        assert!(section.address.is_multiple_of(4096) && section.file.start.is_multiple_of(512), "{section:?}");
    }
    assert_eq!(parsed.image_bytes(), initrd.address + 4096);
    let checksum_offset = parsed.checksum_offset();
    assert_eq!(get(&file, checksum_offset), checksum(&file, checksum_offset));
    assert_ne!(get(&file, checksum_offset), 0);
    assert_eq!(get(&file, OPTIONAL_HEADER + SIZE_OF_CODE), 5120);
    assert_eq!(get(&file, OPTIONAL_HEADER + SIZE_OF_INITIALIZED_DATA), 1024);
}

#[test]
fn a_section_of_the_stub_gets_new_contents_in_its_place() {
    let stub = stub();
    let old = Pe::parse(&stub).unwrap().section(".sbat").unwrap().clone();
    let file = with(&stub, |writer| {
        writer.add(".cmdline", &b"quiet"[..], 0, false)?;
        writer.replace(".sbat", vec![b'x'; 4096])
    });
    let file = file.unwrap();
    let parsed = Pe::parse(&file).unwrap();
    let new = parsed.section(".sbat").unwrap();
    assert_eq!((new.address, new.data), (old.address, &[b'x'; 4096][..]));
    assert_eq!(parsed.section(".reloc").unwrap().data, b"r");
    let moved = with(&stub, |writer| writer.replace(".sbat", vec![b'x'; 4097])).unwrap();
    let parsed = Pe::parse(&moved).unwrap();
    let names: Vec<_> = parsed.sections().iter().map(|section| section.name).collect();
    assert_eq!(names, [".text", ".reloc", ".sbat"], "without room it moves");
    assert_eq!(parsed.section(".sbat").unwrap().data, [b'x'; 4097]);
    let added = with(&pe(&[(".text", b"x")]), |writer| writer.replace(".sbat", &b"new"[..])).unwrap();
    assert_eq!(Pe::parse(&added).unwrap().section(".sbat").unwrap().data, b"new");
}

#[test]
fn headers_grow_into_the_file_and_not_into_memory() {
    let stub = stub();
    let add = |number: usize| {
        with(&stub, |writer| (0..number).try_for_each(|_| writer.add(".dtbauto", &b"tree"[..], 0, false)))
    };
    // The headers of the stub have 1024 bytes.
    let file = add(41).unwrap();
    let parsed = Pe::parse(&file).unwrap();
    assert_eq!((parsed.sections().len(), parsed.headers_bytes()), (44, 2560));
    assert_eq!(parsed.section(".text").unwrap().data, [0x90; 700]);
    assert_eq!(add(100).unwrap_err(), WriteError::Headers { sections: 103 });
}

#[test]
fn stubs_that_are_not_aligned_are_aligned() {
    // The first section 8 bytes on.
    let mut bytes = stub();
    let first = Pe::parse(&bytes).unwrap().headers_bytes();
    bytes.splice(first..first, [0; 8]);
    for section in 0..3 {
        let at = SECTION_TABLE + 40 * section + 20;
        let moved = get(&bytes, at) + 8;
        put(&mut bytes, at, moved);
    }
    let file = with(&bytes, |writer| writer.add(".cmdline", &b"quiet"[..], 0, false)).unwrap();
    let parsed = Pe::parse(&file).unwrap();
    assert!(parsed.sections().iter().all(|section| section.file.start.is_multiple_of(512)));
    assert_eq!(parsed.section(".text").unwrap().data, [0x90; 700]);
    assert_eq!(parsed.section(".cmdline").unwrap().data, b"quiet");
}

#[test]
fn symbols_are_dropped() {
    let mut bytes = stub();
    let end = u32::try_from(bytes.len()).unwrap();
    put(&mut bytes, FILE_HEADER + 8, end);
    put(&mut bytes, FILE_HEADER + 12, 2);
    bytes.extend([0xEE; 40]);
    let file = with(&bytes, |writer| writer.add(".cmdline", &b"quiet"[..], 0, false)).unwrap();
    assert_eq!(file[FILE_HEADER + 8..FILE_HEADER + 16], [0; 8]);
    assert_eq!(file[FILE_HEADER + 18] & 0x08, 0x08);
    assert!(!file.contains(&0xEE));
}

#[test]
fn what_cannot_be_is_refused() {
    let stub = stub();
    for name in ["", ".too.long", ".caf\u{e9}", ".a b"] {
        let error = with(&stub, |writer| writer.add(name, &b"x"[..], 0, false)).unwrap_err();
        assert_eq!(error, WriteError::Name { name: name.to_owned() });
    }
    let error = with(&stub, |writer| writer.add(".linux", &b"x"[..], u32::MAX, true)).unwrap_err();
    assert_eq!(error, WriteError::TooLarge { name: ".linux".to_owned() });
    let mut signed = stub.clone();
    fake::put(&mut signed, OPTIONAL_HEADER + 144, stub.len());
    fake::put(&mut signed, OPTIONAL_HEADER + 148, 8);
    signed.extend([0; 8]);
    assert_eq!(Writer::new(&Pe::parse(&signed).unwrap()).unwrap_err(), WriteError::Signed);
}
