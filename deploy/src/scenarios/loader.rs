//! Lives of a computer whose boot loader changes: what hides an entry, and what does not count its boots.

use std::fs;

use osupdate_core::observer::Silent;
use osupdate_efi::loader_install::Architecture;
use osupdate_efi::secure_boot::SecureBoot;
use osupdate_efi::variables::LoaderFeatures;
use osupdate_record::DeploymentId;

use super::computer::{Computer, systemd_boot};
use super::image::Image;
use crate::bootloader::{Allowed, BootloaderError, Programs};
use crate::{cleanup, loader};

/// Two deployments with UKIs, of which the second fails; asserts that the loader falls back to the first.
fn assert_falls_back(computer: &mut Computer, failing: &DeploymentId, first: &DeploymentId) {
    computer.blessing = false;
    for _ in 0..3 {
        assert_eq!(computer.boot(), *failing);
    }
    assert_eq!(computer.boot(), *first, "the loader fell back");
    assert_eq!(computer.boot(), *first);
}

fn repair(computer: &Computer) {
    computer.run(None, |machine| cleanup::repair(machine).map(drop).unwrap());
}

/// The keys by which entries name UKIs.
fn keys(computer: &Computer) -> Vec<String> {
    let entries = computer.esp().join("loader/entries");
    let key = |name: String| {
        let text = fs::read_to_string(entries.join(name)).unwrap();
        text.lines().rev().find_map(|line| line.split_once(" /EFI/")).unwrap().0.to_owned()
    };
    let mut keys: Vec<_> = computer.entries().into_iter().map(key).collect();
    keys.sort();
    keys
}

#[test]
fn every_loader_counts_what_is_staged_for_it() {
    for (version, key) in [(257, "efi"), (258, "uki")] {
        let mut computer = Computer::installed(&Image::sealed("1"));
        computer.set_loader(version);
        let first = computer.booted();
        let failing = computer.upgrade(&Image::sealed("2")).id;
        assert!(keys(&computer).contains(&key.to_owned()), "{version}");
        assert_falls_back(&mut computer, &failing, &first);
        computer.assert_whole();
    }
}

#[test]
fn loader_that_was_replaced_counts_what_was_staged_before_after_the_next_run() {
    let mut computer = Computer::installed(&Image::sealed("1"));
    let first = computer.booted();
    let failing = computer.upgrade(&Image::sealed("2")).id;
    computer.set_loader(258);
    repair(&computer);
    computer.assert_whole();
    assert_eq!(keys(&computer), ["efi", "uki"], "only what is counted is changed");
    assert_falls_back(&mut computer, &failing, &first);

    // Given up by the one, it is not started by the other.
    computer.set_loader(257);
    repair(&computer);
    computer.assert_whole();
    assert_eq!(keys(&computer), ["efi", "efi"]);
    assert_eq!(computer.boot(), first);
    computer.set_loader(258);
    repair(&computer);
    assert_eq!(computer.boot(), first);
    assert!(computer.model().is_bad(&failing));
}

#[test]
fn cut_change_of_a_key_is_completed() {
    let mut computer = Computer::installed(&Image::sealed("1"));
    let id = computer.upgrade(&Image::sealed("2")).id;
    computer.set_loader(258);
    let before = computer.entries();
    repair(&computer);
    let entries = computer.esp().join("loader/entries");
    // The new one is there, the earlier one not yet removed.
    let name = before.difference(&computer.entries()).next().unwrap().clone();
    let other = fs::read_to_string(entries.join(computer.entries().difference(&before).next().unwrap())).unwrap();
    fs::write(entries.join(&name), other.replace("uki /EFI", "efi /EFI")).unwrap();
    assert_eq!(computer.entries().len(), 3);
    for version in [258, 257] {
        computer.set_loader(version);
        repair(&computer);
        computer.assert_whole();
    }
    assert_eq!(computer.boot(), id);
}

/// What `bootloader update --allow-downgrade` does with an image that has this systemd-boot; how many programs were replaced.
fn update_loader(computer: &Computer, version: u32) -> Result<usize, BootloaderError> {
    let image = tempfile::tempdir().unwrap();
    let directory = image.path().join(loader::DIRECTORY);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(Architecture::native().unwrap().systemd_boot()), systemd_boot(version)).unwrap();
    let off = SecureBoot::default();
    let allowed = Allowed { downgrade: true, unsigned: false };
    computer.run(None, |machine| {
        let programs = Programs::read(image.path(), &off)?;
        programs.update(machine.boot, &off, allowed, &Silent).map(|replaced| replaced.len())
    })
}

#[test]
fn loader_is_not_updated_under_a_deployment_that_is_still_tried() {
    for (from, to) in [(257, 258), (258, 257)] {
        let mut computer = Computer::installed(&Image::sealed("1"));
        computer.set_loader(from);
        let first = computer.booted();
        let staged = computer.upgrade(&Image::sealed("2")).id;
        let before = (computer.entries(), keys(&computer));
        let err = update_loader(&computer, to).unwrap_err();
        assert!(matches!(&err, BootloaderError::Tried { entries } if entries.len() == 1), "{err:?}");
        assert!(err.hint().unwrap().contains("reboot into it first"));
        assert_eq!((computer.entries(), keys(&computer)), before);

        assert_eq!(computer.boot(), staged);
        assert_eq!(update_loader(&computer, to).unwrap(), 2, "{from} {to}");
        computer.assert_whole();
        assert_eq!(computer.boot(), staged);
        computer.rollback();
        assert_eq!(computer.boot(), first);
        computer.assert_whole();
    }
}

#[test]
fn deployment_that_was_given_up_stays_so_when_the_loader_is_updated() {
    for (from, to) in [(257, 258), (258, 257)] {
        let mut computer = Computer::installed(&Image::sealed("1"));
        computer.set_loader(from);
        let first = computer.booted();
        let failing = computer.upgrade(&Image::sealed("2")).id;
        assert_falls_back(&mut computer, &failing, &first);
        assert_eq!(update_loader(&computer, to).unwrap(), 2);
        computer.assert_whole();
        assert!(computer.model().is_bad(&failing));
        assert_eq!(computer.boot(), first, "{from} {to}");
        assert_eq!(keys(&computer), if to == 258 { ["efi", "uki"] } else { ["efi", "efi"] });
    }
}

#[test]
fn without_an_entry_that_works_the_loader_stays() {
    let mut computer = Computer::installed(&Image::sealed("1"));
    for name in computer.entries() {
        let entries = computer.esp().join("loader/entries");
        fs::rename(entries.join(&name), entries.join(name.replace(".conf", "+0-3.conf"))).unwrap();
    }
    assert!(matches!(update_loader(&computer, 258), Err(BootloaderError::AllFailed)));
    computer.boot();
}

#[test]
fn older_loader_shows_what_the_newer_one_has_shown() {
    let mut computer = Computer::installed(&Image::new("0"));
    computer.set_loader(258);
    computer.upgrade(&Image::sealed("1"));
    let first = computer.boot();
    computer.upgrade(&Image::sealed("2"));
    let second = computer.boot();
    assert_eq!(keys(&computer)[1..], ["uki", "uki"]);
    assert_eq!(update_loader(&computer, 257).unwrap(), 2);
    cleanup_and_assert(&computer);
    assert_eq!(computer.boot(), second);
    computer.rollback();
    assert_eq!(computer.boot(), first);
    // And back again.
    assert_eq!(update_loader(&computer, 258).unwrap(), 2);
    cleanup_and_assert(&computer);
    assert_eq!(computer.boot(), first);
}

/// Makes every replacement of a loader fail: copies of one content are kept, for they may share clusters, and so many are too many.
fn keep_from_replacing(computer: &Computer) {
    for directory in ["systemd", "BOOT"] {
        for number in 0..16 {
            fs::write(computer.esp().join(format!("EFI/{directory}/osupdate-{number}.tmp")), "alike").unwrap();
        }
    }
}

#[test]
fn entries_fit_the_new_loader_before_the_first_program_is_replaced() {
    for (from, to, given_up) in [(258, 257, false), (257, 258, true)] {
        let mut computer = Computer::installed(&Image::sealed("1"));
        computer.set_loader(from);
        let first = computer.booted();
        let second = computer.upgrade(&Image::sealed("2")).id;
        if given_up {
            assert_falls_back(&mut computer, &second, &first);
        } else {
            computer.boot();
        }
        keep_from_replacing(&computer);
        let err = update_loader(&computer, to).unwrap_err();
        assert!(matches!(err, BootloaderError::Replace { .. }), "{err:?}");
        assert_eq!(keys(&computer), if to == 258 { ["efi", "uki"] } else { ["efi", "efi"] });
        computer.assert_whole();
        // As it was, as it becomes.
        for version in [from, to] {
            computer.set_loader(version);
            assert_eq!(computer.boot(), if given_up { first.clone() } else { second.clone() }, "{version}");
        }
    }
}

#[test]
fn deployment_that_was_given_up_stays_so_while_loaders_are_mixed() {
    for (version, mixed) in [(258, [258, 257]), (258, [257, 258]), (257, [258, 257]), (257, [257, 258])] {
        let mut computer = Computer::installed(&Image::sealed("1"));
        computer.set_loader(version);
        let first = computer.booted();
        let failing = computer.upgrade(&Image::sealed("2")).id;
        assert_falls_back(&mut computer, &failing, &first);
        computer.set_loaders(mixed);
        for _ in 0..2 {
            repair(&computer);
            computer.assert_whole();
            assert_eq!(keys(&computer), ["efi", "uki"], "{version} {mixed:?}");
            assert_eq!(computer.boot(), first, "{version} {mixed:?}");
        }
        assert!(computer.model().is_bad(&failing));
        assert_eq!(update_loader(&computer, 258).unwrap(), 1);
        computer.assert_whole();
        assert_eq!(computer.boot(), first);
    }
}

#[test]
fn where_all_was_given_up_every_loader_shows_it() {
    let mut computer = Computer::installed(&Image::sealed("1"));
    computer.set_loader(258);
    computer.upgrade(&Image::sealed("2"));
    let entries = computer.esp().join("loader/entries");
    for name in computer.entries() {
        let id = name.split(['+', '.']).next().unwrap();
        fs::rename(entries.join(&name), entries.join(format!("{id}+0-3.conf"))).unwrap();
    }
    computer.set_loaders([257, 258]);
    repair(&computer);
    assert_eq!(keys(&computer), ["efi", "efi"]);
    computer.boot();
}

#[test]
fn mixed_loaders_are_updated_under_a_deployment_that_they_do_not_count() {
    for mixed in [[258, 257], [257, 258]] {
        let mut computer = Computer::installed(&Image::sealed("1"));
        computer.set_loaders(mixed);
        computer.upgrade(&Image::sealed("2"));
        if mixed[0] == 258 {
            computer.boot();
        }
        let second = computer.model().next().unwrap().id.clone();
        assert!(computer.model().entry(&second).unwrap().tries_left.is_some());
        assert_eq!(update_loader(&computer, 258).unwrap(), 1);
        computer.assert_whole();
        assert_eq!(computer.boot(), second);
        assert_eq!(computer.model().entry(&second).unwrap().tries_left, None, "counted, and found good");
    }
}

#[test]
fn what_mixed_loaders_do_not_count_is_counted_before_the_first_program_is_replaced() {
    let mut computer = Computer::installed(&Image::sealed("1"));
    let first = computer.booted();
    computer.set_loaders([258, 257]);
    let failing = computer.upgrade(&Image::sealed("2")).id;
    keep_from_replacing(&computer);
    assert!(matches!(update_loader(&computer, 258), Err(BootloaderError::Replace { .. })));
    assert_falls_back(&mut computer, &failing, &first);
    computer.set_loaders([257, 258]);
    assert_eq!(computer.boot(), first);
}

#[test]
fn update_that_makes_loaders_mixed_is_like_one_of_all() {
    for given_up in [false, true] {
        let mut computer = Computer::installed(&Image::sealed("1"));
        // One that does not know the key `uki`, and that is not updated.
        computer.elsewhere = Some(LoaderFeatures(0x1ff));
        let first = computer.booted();
        let second = computer.upgrade(&Image::sealed("2")).id;
        assert!(matches!(update_loader(&computer, 258), Err(BootloaderError::Tried { .. })));
        if !given_up {
            assert_eq!(computer.boot(), second);
            assert_eq!(update_loader(&computer, 258).unwrap(), 2);
            assert_eq!((computer.boot(), keys(&computer)), (second, vec!["efi".to_owned(); 2]));
            continue;
        }
        assert_falls_back(&mut computer, &second, &first);
        keep_from_replacing(&computer);
        assert!(matches!(update_loader(&computer, 258), Err(BootloaderError::Replace { .. })));
        assert_eq!(keys(&computer), ["efi", "uki"]);
        computer.assert_whole();
        for version in [257, 258] {
            computer.set_loader(version);
            assert_eq!(computer.boot(), first, "{version}");
        }
    }
}

fn cleanup_and_assert(computer: &Computer) {
    computer.run(None, |machine| cleanup::remove_unneeded(machine).map(drop).unwrap());
    computer.assert_whole();
}
