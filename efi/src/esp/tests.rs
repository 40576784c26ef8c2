//! Entries and boot files on a plain directory, with power cuts at every operation.

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::os::fd::OwnedFd;
use std::path::Path;

use osupdate_core::digest::Digest;
use tempfile::TempDir;

use super::*;
use crate::boot_digest::BootDigest;
use crate::entry::Entry;
use crate::medium::power::Tear;
use crate::name::{EntryName, NEW_TRIES};
use crate::order;

/// A partition on which version 1 is installed and boots.
struct Machine {
    dir: TempDir,
    old: EntryName,
    old_files: BootDigest,
}

fn open(path: &Path) -> Esp {
    let root: OwnedFd = fs::File::open(path).unwrap().into();
    Esp::new(root, "the test ESP")
}

fn image(fill: char) -> Digest {
    fill.to_string().repeat(128).parse().unwrap()
}

fn put(esp: &Esp, version: &str) -> Result<StoredBootFiles, PutBootFilesError> {
    let (vmlinuz, initrd) = (Cursor::new(format!("kernel of {version}")), Cursor::new(format!("initrd of {version}")));
    esp.put_boot_files(BootFiles::kernel(vmlinuz, initrd))
}

fn entry_for(image: &Digest, sequence: u64, files: &BootDigest) -> Entry {
    Entry {
        title: Some("Example OS".to_owned()),
        version: Some(format!("{sequence:06}-13")),
        sort_key: Some("osupdate".to_owned()),
        linux: Some(files.vmlinuz()),
        initrd: vec![files.initrd()],
        options: vec![format!("composefs.digest=v1-sha512-12:{image} rw")],
        ..Entry::default()
    }
}

impl Machine {
    fn installed() -> Self {
        let dir = TempDir::new().unwrap();
        let esp = open(dir.path());
        let old_files = put(&esp, "1").unwrap().digest;
        let old = EntryName::ours(&image('a'), 1, None);
        esp.write_entry(&old, &entry_for(&image('a'), 1, &old_files)).unwrap();
        Self { dir, old, old_files }
    }

    fn esp(&self) -> Esp {
        open(self.dir.path())
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.dir.path().join(below.trim_start_matches('/'))
    }

    /// The entry that the loader would start, after a check that it and every entry shown can boot.
    fn boots(&self) -> EntryName {
        let esp = self.esp();
        let listing = esp.entries().unwrap();
        // The loader hides entries without a program or whose program is missing, and does not look for initrds.
        let shown: Vec<_> = listing
            .entries
            .iter()
            .filter(|entry| entry.entry.program().is_some_and(|program| self.path(program.path()).exists()))
            .collect();
        for entry in &shown {
            assert_eq!(esp.missing_files(&entry.entry), Vec::<&str>::new(), "{:?}", entry.name);
            let directory = entry.entry.program().unwrap().path().split('/').nth_back(1).unwrap();
            esp.verify_boot_files(&directory.parse().unwrap()).unwrap();
        }
        order::first_choice(shown).expect("no entry to boot").name.clone()
    }
}

/// Runs a change with the power cut at every operation in every way, each on a machine of its own, until it completes
/// without a cut. After each cut the machine is checked, then the change is made again.
fn with_cuts(change: impl Fn(&Esp), check: impl Fn(&Machine), finally: impl Fn(&Machine)) {
    for tear in Tear::ALL {
        for operations in 0.. {
            assert!(operations < 100, "the change never completes");
            let machine = Machine::installed();
            let esp = machine.esp();
            esp.medium.power.cut_after(operations, tear);
            change(&esp);
            let was_cut = esp.medium.power.is_off();
            check(&machine);
            if !was_cut {
                finally(&machine);
                break;
            }
            change(&machine.esp());
            finally(&machine);
        }
    }
}

/// All of an upgrade that happens here. Stops at the first error, as the caller does.
fn upgrade(esp: &Esp) {
    let new = EntryName::ours(&image('b'), 2, Some(NEW_TRIES));
    let run = || -> Result<(), Box<dyn std::error::Error>> {
        esp.clean_temporary()?;
        let stored = put(esp, "2")?;
        if !esp.entries()?.entries.iter().any(|entry| entry.name == new && esp.is_complete(&entry.entry)) {
            esp.write_entry(&new, &entry_for(&image('b'), 2, &stored.digest))?;
        }
        Ok(())
    };
    if let Err(err) = run() {
        tracing::debug!("{err}");
    }
}

#[test]
fn upgrade_boots_the_old_or_the_new_after_every_cut() {
    let new = EntryName::ours(&image('b'), 2, Some(NEW_TRIES));
    with_cuts(
        upgrade,
        |machine| {
            let boots = machine.boots();
            assert!(boots == machine.old || boots == new, "{boots}");
            assert!(machine.path(&format!("loader/entries/{}", machine.old)).exists());
        },
        |machine| {
            assert_eq!(machine.boots(), new);
            assert_eq!(machine.esp().clean_temporary().unwrap().removed, Vec::<String>::new());
        },
    );
}

/// A UKI and an addon for it.
fn put_uki(esp: &Esp, image: &Digest, version: &str) -> Result<StoredBootFiles, PutBootFilesError> {
    let addon: Box<dyn crate::boot_digest::Source> = Box::new(Cursor::new(format!("addon of {version}")));
    let uki = Cursor::new(format!("UKI of {version}"));
    esp.put_boot_files(BootFiles::uki(image, uki, vec![("local.addon.efi".to_owned(), addon)]))
}

fn sealed_entry_for(image: &Digest, sequence: u64, files: &BootDigest) -> Entry {
    Entry {
        linux: None,
        initrd: Vec::new(),
        options: Vec::new(),
        uki: Some(files.uki(image)),
        ..entry_for(image, sequence, files)
    }
}

/// An upgrade to a UKI, and from there to a kernel again, whose entry replaces that of the UKI.
fn upgrade_to_a_uki_and_back(esp: &Esp) {
    let sealed = EntryName::ours(&image('b'), 2, Some(NEW_TRIES));
    let plain = EntryName::ours(&image('c'), 3, Some(NEW_TRIES));
    let run = || -> Result<(), Box<dyn std::error::Error>> {
        esp.clean_temporary()?;
        let has = |name: &EntryName| -> Result<bool, AccessError> {
            Ok(esp.entries()?.entries.iter().any(|entry| entry.name == *name && esp.is_complete(&entry.entry)))
        };
        if !has(&plain)? {
            let stored = put_uki(esp, &image('b'), "2")?;
            if !has(&sealed)? {
                esp.write_entry(&sealed, &sealed_entry_for(&image('b'), 2, &stored.digest))?;
            }
            let stored = put(esp, "3")?;
            esp.write_entry(&plain, &entry_for(&image('c'), 3, &stored.digest))?;
        }
        esp.remove_entry(&sealed)?;
        esp.remove_unreferenced_boot_files(&BTreeSet::new())?;
        Ok(())
    };
    if let Err(err) = run() {
        tracing::debug!("{err}");
    }
}

#[test]
fn changes_between_kernel_and_uki_boot_the_old_or_the_new_after_every_cut() {
    let sealed = EntryName::ours(&image('b'), 2, Some(NEW_TRIES));
    let plain = EntryName::ours(&image('c'), 3, Some(NEW_TRIES));
    with_cuts(
        upgrade_to_a_uki_and_back,
        |machine| {
            let boots = machine.boots();
            assert!([&machine.old, &sealed, &plain].contains(&&boots), "{boots}");
        },
        |machine| {
            assert_eq!(machine.boots(), plain);
            assert_eq!(
                fs::read_dir(machine.path("EFI/osupdate")).unwrap().count(),
                2,
                "the UKI is gone, with all of it"
            );
        },
    );
}

#[test]
fn uki_is_found_damaged_if_any_file_of_it_changed() {
    let machine = Machine::installed();
    let esp = machine.esp();
    let digest = put_uki(&esp, &image('b'), "2").unwrap().digest;
    assert!(!put_uki(&esp, &image('b'), "2").unwrap().new);
    assert_ne!(put_uki(&esp, &image('c'), "2").unwrap().digest, digest, "its name counts");
    let addon = machine.path(&format!("{}.extra.d/local.addon.efi", digest.uki(&image('b'))));
    assert_eq!(esp.boot_file_sizes_bytes(&digest).unwrap(), ["UKI of 2".len() as u64, "addon of 2".len() as u64]);
    for contents in [None, Some("other")] {
        match contents {
            None => fs::remove_file(&addon).unwrap(),
            Some(contents) => fs::write(&addon, contents).unwrap(),
        }
        assert!(matches!(esp.verify_boot_files(&digest), Err(VerifyBootFilesError::Damaged { .. })), "{contents:?}");
        assert!(put_uki(&esp, &image('b'), "2").unwrap().new, "no entry needs it: it is made anew");
    }
    fs::write(addon.with_file_name("second.addon.efi"), "the stub would load it").unwrap();
    assert!(matches!(esp.verify_boot_files(&digest), Err(VerifyBootFilesError::Damaged { .. })));
    fs::write(addon.with_file_name("machine.cred"), "of the user").unwrap();
    esp.remove_unreferenced_boot_files(&BTreeSet::new()).unwrap();
    assert!(!addon.exists() && addon.with_file_name("machine.cred").exists(), "what others put there stays");
}

#[test]
fn removal_boots_something_after_every_cut() {
    let new = EntryName::ours(&image('b'), 2, Some(NEW_TRIES));
    let remove_old = |esp: &Esp| {
        let run = || -> Result<(), Box<dyn std::error::Error>> {
            esp.remove_entry(&EntryName::ours(&image('a'), 1, None))?;
            esp.remove_unreferenced_boot_files(&BTreeSet::new())?;
            Ok(())
        };
        if let Err(err) = run() {
            tracing::debug!("{err}");
        }
    };
    for tear in Tear::ALL {
        for operations in 0.. {
            let machine = Machine::installed();
            upgrade(&machine.esp());
            let esp = machine.esp();
            esp.medium.power.cut_after(operations, tear);
            remove_old(&esp);
            assert_eq!(machine.boots(), new);
            let was_cut = esp.medium.power.is_off();
            remove_old(&machine.esp());
            assert_eq!(machine.boots(), new);
            assert!(!machine.path(&machine.old_files.directory()).exists());
            if !was_cut {
                break;
            }
        }
    }
}

#[test]
fn listing_tells_ours_from_others_and_reports_what_it_cannot_read() {
    let machine = Machine::installed();
    let write = |name: &str, text: &[u8]| fs::write(machine.path("loader/entries").join(name), text).unwrap();
    write("debian.conf", b"title Debian\r\nsort-key debian\r\nlinux /vmlinuz\r\n");
    write("osupdate-by-hand.conf", b"linux /vmlinuz\n");
    write("huge.conf", &vec![b'#'; 1 << 17]);
    write(".hidden.conf", b"linux /vmlinuz\n");
    write("README", b"");
    fs::create_dir(machine.path("loader/entries/dir.conf")).unwrap();

    let listing = machine.esp().entries().unwrap();
    assert_eq!(listing.ours().map(|entry| &entry.name).collect::<Vec<_>>(), [&machine.old]);
    let foreign: Vec<_> = listing.foreign().map(|entry| entry.name.file_name()).collect();
    assert_eq!(foreign, ["debian.conf", "osupdate-by-hand.conf"]);
    assert_eq!(listing.unreadable.len(), 1);
    assert_eq!(listing.unreadable[0].error.to_string(), "cannot read loader/entries/huge.conf on the test ESP");
}

#[test]
fn an_empty_partition_has_no_entries() {
    let dir = TempDir::new().unwrap();
    let listing = open(dir.path()).entries().unwrap();
    assert!(listing.entries.is_empty() && listing.unreadable.is_empty());
    assert_eq!(open(dir.path()).clean_temporary().unwrap(), Cleaned::default());
    assert_eq!(open(dir.path()).remove_unreferenced_boot_files(&BTreeSet::new()).unwrap(), RemovedBootFiles::default());
}

#[test]
fn an_entry_that_would_not_boot_is_not_written() {
    let machine = Machine::installed();
    let esp = machine.esp();
    let name = EntryName::ours(&image('b'), 2, None);
    let whole = entry_for(&image('b'), 2, &machine.old_files);

    let no_initrd = Entry { initrd: vec!["/EFI/osupdate/../nothing".to_owned()], ..whole.clone() };
    assert!(matches!(esp.write_entry(&name, &no_initrd), Err(WriteEntryError::MissingFile { .. })));
    let escapes = Entry { initrd: vec!["/../../../etc/passwd".to_owned()], ..whole.clone() };
    assert!(matches!(esp.write_entry(&name, &escapes), Err(WriteEntryError::MissingFile { .. })));
    let two = Entry { uki: whole.linux.clone(), ..whole.clone() };
    assert!(matches!(esp.write_entry(&name, &two), Err(WriteEntryError::NoProgram { .. })));
    let smuggled = Entry { title: Some("x\nefi /evil".to_owned()), ..whole.clone() };
    assert!(matches!(esp.write_entry(&name, &smuggled), Err(WriteEntryError::Value(_))));
    assert_eq!(fs::read_dir(machine.path("loader/entries")).unwrap().count(), 1);
}

#[test]
fn two_entries_never_have_one_id() {
    let machine = Machine::installed();
    let esp = machine.esp();
    let entry = entry_for(&image('a'), 1, &machine.old_files);
    let counted = machine.old.with_tries(Some(NEW_TRIES));
    let err = esp.write_entry(&counted, &entry).unwrap_err();
    assert_eq!(err.to_string(), format!("the test ESP has the boot entry {} already", machine.old));

    let upper = machine.old.file_name().to_uppercase();
    fs::rename(
        machine.path("loader/entries").join(machine.old.file_name()),
        machine.path("loader/entries").join(upper),
    )
    .unwrap();
    assert!(matches!(esp.write_entry(&machine.old, &entry), Err(WriteEntryError::Exists { .. })));
}

#[test]
fn the_last_entry_that_boots_is_never_removed() {
    let machine = Machine::installed();
    let esp = machine.esp();
    let add = |sequence, tries: &str| {
        let name: EntryName = format!("osupdate-bbbbbbbbbbbb-{sequence:06}{tries}.conf").parse().unwrap();
        esp.write_entry(&name, &entry_for(&image('b'), sequence, &machine.old_files)).unwrap();
        name
    };
    let last = |result: Result<bool, RemoveEntryError>| matches!(result, Err(RemoveEntryError::LastBootable { .. }));
    assert!(last(esp.remove_entry(&machine.old)));

    // A bad entry is no reason to let the good one go, but may go itself.
    let bad = add(2, "+0-3");
    assert!(last(esp.remove_entry(&machine.old)));
    assert!(esp.remove_entry(&bad).unwrap());
    assert!(!esp.remove_entry(&bad).unwrap());

    // Nor is one whose files are gone, or one of others.
    let other = put(&esp, "3").unwrap().digest;
    let broken: EntryName = EntryName::ours(&image('c'), 3, None);
    esp.write_entry(&broken, &entry_for(&image('c'), 3, &other)).unwrap();
    fs::remove_file(machine.path(&other.initrd())).unwrap();
    fs::write(machine.path("loader/entries/debian.conf"), format!("linux {}\n", machine.old_files.vmlinuz())).unwrap();
    assert!(last(esp.remove_entry(&machine.old)));
    assert!(esp.remove_entry(&broken).unwrap());

    // One under trial is.
    add(4, "+3-0");
    assert!(esp.remove_entry(&machine.old).unwrap());
}

#[test]
fn an_entry_that_the_loader_renamed_is_removed_by_its_id() {
    let machine = Machine::installed();
    let esp = machine.esp();
    upgrade(&esp);
    let new = EntryName::ours(&image('b'), 2, Some(NEW_TRIES));
    let entries = machine.path("loader/entries");
    fs::rename(entries.join(new.file_name()), entries.join("osupdate-bbbbbbbbbbbb-000002+2-1.conf")).unwrap();
    assert!(esp.remove_entry(&new).unwrap());
    assert_eq!(machine.boots(), machine.old);
    assert_eq!(esp.entries().unwrap().entries.len(), 1);
}

#[test]
fn boot_files_are_shared_by_content() {
    let machine = Machine::installed();
    let stored = put(&machine.esp(), "1").unwrap();
    let size_bytes = ("kernel of 1".len() + "initrd of 1".len()) as u64;
    assert_eq!(stored, StoredBootFiles { digest: machine.old_files, new: false, size_bytes });
    assert!(put(&machine.esp(), "2").unwrap().new);
}

#[test]
fn damaged_boot_files_are_made_anew_only_when_no_entry_needs_them() {
    let machine = Machine::installed();
    let esp = machine.esp();
    let kernel = machine.path(&machine.old_files.vmlinuz());
    fs::write(&kernel, "kernel of X").unwrap();
    assert!(matches!(esp.verify_boot_files(&machine.old_files), Err(VerifyBootFilesError::Damaged { .. })));
    let err = put(&esp, "1").unwrap_err();
    let expected = format!(
        "the boot files in EFI/osupdate/{} on the test ESP are damaged, and {} may need them",
        machine.old_files, machine.old
    );
    assert_eq!(err.to_string(), expected);
    assert_eq!(fs::read(&kernel).unwrap(), b"kernel of X");

    // Entries of others count, however they write the path.
    let entries = machine.path("loader/entries");
    fs::remove_file(entries.join(machine.old.file_name())).unwrap();
    let odd = machine.old_files.vmlinuz().to_uppercase().replace('/', "\\");
    fs::write(entries.join("odd.conf"), format!("efi .{odd}\n")).unwrap();
    assert!(matches!(put(&esp, "1"), Err(PutBootFilesError::DamagedInUse { .. })));
    // And those that cannot be read.
    fs::write(entries.join("odd.conf"), vec![b'#'; 1 << 17]).unwrap();
    assert!(matches!(put(&esp, "1"), Err(PutBootFilesError::DamagedInUse { .. })));

    fs::remove_file(entries.join("odd.conf")).unwrap();
    assert!(put(&esp, "1").unwrap().new);
    esp.verify_boot_files(&machine.old_files).unwrap();
}

#[test]
fn only_what_nobody_needs_is_removed() {
    let machine = Machine::installed();
    let esp = machine.esp();
    let unused = put(&esp, "2").unwrap();
    let kept = put(&esp, "3").unwrap().digest;
    let half = "ab".repeat(32);
    fs::create_dir(machine.path("EFI/osupdate").join(&half)).unwrap();
    fs::create_dir(machine.path("EFI/osupdate/theirs")).unwrap();
    fs::write(machine.path("EFI/osupdate/aa.efi"), "UKI").unwrap();

    let huge = machine.path("loader/entries/huge.conf");
    fs::write(&huge, vec![b'#'; 1 << 17]).unwrap();
    assert_eq!(esp.remove_unreferenced_boot_files(&BTreeSet::new()).unwrap(), RemovedBootFiles::default());
    fs::remove_file(huge).unwrap();

    let mut result = esp.remove_unreferenced_boot_files(&BTreeSet::from([kept])).unwrap();
    result.removed.sort();
    let mut expected = vec![unused.digest, half.parse().unwrap()];
    expected.sort();
    assert_eq!(result, RemovedBootFiles { removed: expected, freed_bytes: unused.size_bytes });
    esp.verify_boot_files(&kept).unwrap();
    esp.verify_boot_files(&machine.old_files).unwrap();
    assert!(machine.path("EFI/osupdate/theirs").exists() && machine.path("EFI/osupdate/aa.efi").exists());
}

#[test]
fn too_little_room_is_told_in_figures_before_anything_is_written() {
    let machine = Machine::installed();
    let Err(SpaceError::NoSpace(err)) = machine.esp().check_space(&[1 << 60]) else { panic!("there is room") };
    assert!(err.needed_bytes > 1 << 60 && err.free_bytes < 1 << 60);
    assert_eq!(
        err.to_string(),
        format!("the test ESP is too small: {} bytes are needed, {} bytes are free", err.needed_bytes, err.free_bytes)
    );
    let space = Space { free_bytes: 0, cluster_bytes: 4096 };
    assert_eq!(space.needed_bytes(&[1, 4096, 4097, 0]), (1 + 1 + 2 + SPARE_CLUSTERS) * 4096);
}

#[test]
fn a_source_that_fails_leaves_nothing() {
    /// Can be read once.
    struct Failing(Cursor<&'static str>, u32);
    impl std::io::Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.1 > 1 { Err(std::io::Error::other("object is corrupt")) } else { self.0.read(buffer) }
        }
    }
    impl std::io::Seek for Failing {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.1 += u32::from(to == std::io::SeekFrom::Start(0));
            self.0.seek(to)
        }
    }
    let machine = Machine::installed();
    let files = BootFiles::kernel(Cursor::new("kernel"), Failing(Cursor::new("initrd"), 0));
    let err = machine.esp().put_boot_files(files).unwrap_err();
    let PutBootFilesError::Source(source) = err else { panic!("{err}") };
    assert_eq!(source.to_string(), "object is corrupt");
    assert_eq!(fs::read_dir(machine.path("EFI/osupdate")).unwrap().count(), 1);
}

#[test]
fn a_temporary_file_stays_while_its_entry_may_share_its_clusters() {
    let machine = Machine::installed();
    let entries = machine.path("loader/entries");
    let twin = format!(".{}.tmp", machine.old.with_tries(Some(NEW_TRIES)));
    fs::write(entries.join(&twin), "linux /x\n").unwrap();
    fs::write(entries.join(".osupdate-cccccccccccc-000009.conf.tmp"), "lin").unwrap();
    fs::write(entries.join(".theirs.conf.tmp"), "x").unwrap();
    fs::write(entries.join("osupdate-dddddddddddd-000008+3-0.conf"), "").unwrap();

    let cleaned = machine.esp().clean_temporary().unwrap();
    assert_eq!(cleaned.kept, [twin]);
    assert_eq!(cleaned.removed, ["osupdate-dddddddddddd-000008+3-0.conf", ".osupdate-cccccccccccc-000009.conf.tmp"]);
    assert!(entries.join(".theirs.conf.tmp").exists());
}

#[test]
fn a_printed_chain_of_errors_does_not_repeat() {
    let machine = Machine::installed();
    fs::remove_dir_all(machine.path("EFI/osupdate")).unwrap();
    fs::write(machine.path("EFI/osupdate"), "not a directory").unwrap();
    let err = put(&machine.esp(), "2").unwrap_err();
    let mut texts = vec![err.to_string()];
    let mut source = std::error::Error::source(&err);
    while let Some(err) = source {
        texts.push(err.to_string());
        source = err.source();
    }
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(!texts[0].contains(&texts[1]), "{texts:?}");
}

#[test]
fn command_lines_of_entries_ukis_and_addons_are_found() {
    let machine = Machine::installed();
    let write = |path: &str, contents: &[u8]| {
        let path = machine.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    };
    let uki = |line: &str| crate::pe::fake::pe(&[(".cmdline", line.as_bytes())]);
    write("EFI/Linux/a.efi", &uki("composefs=a"));
    write("EFI/Linux/bootc/B.EFI", &uki("composefs=b"));
    write("EFI/Linux/a.efi.extra.d/x.addon.efi", &uki("debug"));
    write("EFI/elsewhere/c.efi", &uki("composefs=c"));
    write("EFI/elsewhere/c.efi.extra.d/y.addon.efi", &uki("composefs=y"));
    write("EFI/elsewhere/w.efi", &uki("composefs=w"));
    write("loader/entries/w.conf", b"title w\nuki \\EFI\\elsewhere\\w.efi\n");
    write("loader/addons/z.addon.efi", &uki("composefs=z"));
    write("EFI/elsewhere/not-named.efi", &uki("composefs=d"));
    write("EFI/Linux/broken.efi", b"text");
    write("EFI/Linux/notes.txt", b"text");
    write("loader/entries/c.conf", b"title c\nefi /EFI/elsewhere/c.efi\noptions quiet\n");
    let found = open(machine.dir.path()).command_lines().unwrap();
    let lines: BTreeSet<_> =
        found.lines.iter().map(|(_, line)| line.as_str()).filter(|line| !line.is_empty()).collect();
    let ours = format!("composefs.digest=v1-sha512-12:{} rw", image('a'));
    assert_eq!(
        lines,
        BTreeSet::from([
            "composefs=a",
            "composefs=b",
            "composefs=c",
            "composefs=w",
            "composefs=y",
            "composefs=z",
            "debug",
            "quiet",
            &ours
        ])
    );
    assert_eq!(found.unusable, ["EFI/Linux/broken.efi"]);
    write("EFI/Linux/cut.efi", &uki("composefs=e")[..100]);
    let error = open(machine.dir.path()).command_lines().unwrap_err().to_string();
    assert_eq!(error, "cannot read EFI/Linux/cut.efi on the test ESP");
}
