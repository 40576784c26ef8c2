//! PE files and the UKIs in them: what is accepted has its sections apart, and is still accepted with one more.

use osupdate_efi::measure::{Bank, Pcr11};
use osupdate_efi::pe::{Pe, Writer};
use osupdate_efi::uki::Uki;

pub(crate) fn run(input: &[u8]) {
    let Ok(pe) = Pe::parse(input) else { return };
    check_places(&pe);
    if let Ok(uki) = Uki::parse(&pe) {
        for finding in uki.check(&pe) {
            assert!(!finding.to_string().is_empty());
        }
        for profile in uki.profiles() {
            assert!(!Pcr11::of_profile(profile, Bank::Sha256).is_empty());
        }
    }
    add_a_section(&pe);
}

/// In the file and in memory, sections are apart and behind the headers.
fn check_places(pe: &Pe<'_>) {
    let headers = 0..pe.headers_bytes() as u64;
    let (mut in_file, mut in_memory) = (Vec::from([headers.clone()]), Vec::from([headers]));
    for section in pe.sections() {
        assert!(section.data.len() <= section.file.len() && section.file.end <= pe.certificates().start);
        in_file.push(section.file.start as u64..section.file.end as u64);
        in_memory.push(section.address.into()..u64::from(section.address) + u64::from(section.memory_bytes));
    }
    for places in [&mut in_file, &mut in_memory] {
        places.retain(|place| !place.is_empty());
        places.sort_by_key(|place| place.start);
        assert!(places.is_sorted_by(|before, after| before.end <= after.start), "{places:?}");
        assert!(places.last().is_none_or(|last| last.end <= u32::MAX.into()));
    }
}

fn add_a_section(pe: &Pe<'_>) {
    let Ok(mut writer) = Writer::new(pe) else { return };
    if writer.add(".dtbauto", &b"device tree"[..], 0, false).is_err() {
        return;
    }
    // What is not aligned may be too large when it is.
    let Ok(written) = writer.finish() else { return };
    let again = Pe::parse(&written).expect("what is written is accepted");
    let (added, before) = again.sections().split_last().expect("there is a section");
    assert_eq!((added.name, added.data), (".dtbauto", &b"device tree"[..]));
    assert_eq!(before.len(), pe.sections().len());
    for (before, now) in pe.sections().iter().zip(before) {
        assert_eq!((before.name, before.address, before.memory_bytes), (now.name, now.address, now.memory_bytes));
        assert!(now.data.starts_with(before.data), "contents of {} have changed", before.name);
    }
}
