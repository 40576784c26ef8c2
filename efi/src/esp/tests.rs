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
    let (mut vmlinuz, mut initrd) =
        (Cursor::new(format!("kernel of {version}")), Cursor::new(format!("initrd of {version}")));
    esp.put_boot_files(BootFiles { vmlinuz: &mut vmlinuz, initrd: &mut initrd })
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
            let directory = entry.entry.linux.as_deref().unwrap().split('/').nth_back(1).unwrap();
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
