//! Whole lives of a computer, with the power cut at every step.

mod checks;
mod computer;
mod image;
mod kargs;
mod loader;
mod sealed;
mod signed;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use osupdate_core::oci::{Amount, BlobDescriptor, ImageSource, Offer, Platform, SourceError};
use osupdate_record::paths;

use self::computer::{Computer, REFERENCE, names, source, upgrade};
use self::image::Image;
use crate::cleanup;
use crate::machine::Step;
use crate::plan::{RollbackError, Staging};
use crate::prepare::Source;
use crate::rollback;
use crate::stage::{self, Request};

/// All steps of a change.
const STEPS: [Step; 10] = [
    Step::Reference,
    Step::Record,
    Step::EtcAside,
    Step::Kernel,
    Step::Entry,
    Step::Finished,
    Step::Superseded,
    Step::EntryRemoved,
    Step::KernelRemoved,
    Step::RecordRemoved,
];

fn request(source: &Source, retry_failed: bool) -> Request {
    Request { source: source.clone(), signatures: Vec::new(), retry_failed, allow_unsealed: true }
}

/// Steps that come before the commit point.
fn before_commit(step: Step) -> bool {
    matches!(step, Step::Reference | Step::Record | Step::EtcAside | Step::Kernel)
}

#[test]
fn upgrade_boots_the_new_image_with_local_changes_and_rollback_the_old_one() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    computer.change_etc("host.conf", "mine");
    let staged = computer.upgrade(&Image::new("2"));
    assert_eq!(staged.staging, Staging::New);
    assert_eq!(computer.record(&staged.id).etc.carry_from, Some(first.clone()));
    assert_eq!(computer.record(&staged.id).boot.arguments, ["root=UUID=1", "rw"]);
    assert_eq!(computer.record(&staged.id).boot.image_arguments, ["quiet"]);
    assert_eq!(computer.record(&staged.id).image.version.as_deref(), Some("2"));
    computer.change_etc("late.conf", "after staging");
    computer.assert_whole();

    assert_eq!(computer.boot(), staged.id);
    assert!(computer.etc().contains("host.conf") && computer.etc().contains("late.conf"));
    computer.change_etc("second.conf", "only here");
    assert_eq!(computer.model().rollback().unwrap().id, first);

    assert_eq!(computer.rollback().target, first);
    assert!(computer.model().rollback_queued());
    assert_eq!(computer.boot(), first);
    assert!(!computer.etc().contains("second.conf"), "its own /etc");

    assert_eq!(computer.rollback().target, staged.id, "forward again");
    assert_eq!(computer.boot(), staged.id);
    assert!(computer.etc().contains("second.conf"));
    computer.assert_whole();
}

#[test]
fn nothing_to_do_is_told() {
    let mut computer = Computer::installed(&Image::new("1"));
    assert_eq!(computer.upgrade(&Image::new("1")).staging, Staging::Current);
    let staged = computer.upgrade(&Image::new("2"));
    let again = computer.upgrade(&Image::new("2"));
    assert_eq!((again.staging, again.id), (Staging::Staged, staged.id.clone()));
    computer.boot();
    assert_eq!(computer.upgrade(&Image::new("2")).staging, Staging::Current);
    computer.assert_whole();
}

#[test]
fn first_deployment_has_nothing_to_roll_back_to() {
    let computer = Computer::installed(&Image::new("1"));
    let err = computer.run(None, rollback::rollback).unwrap_err();
    assert!(matches!(err, rollback::Error::Nowhere(RollbackError::Nothing)), "{err}");
}

#[test]
fn rollback_toggles_and_gives_up_what_is_staged() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    computer.upgrade(&Image::new("2"));
    let second = computer.boot();
    let third = computer.upgrade(&Image::new("3"));
    let plan = computer.rollback();
    assert_eq!((plan.target, plan.discards), (first.clone(), Some(third.id.clone())));
    assert!(computer.model().get(&third.id).is_none());
    let back = computer.rollback();
    assert!(back.undoes);
    assert_eq!(back.target, second);
    assert_eq!(computer.rollback().target, first);
    computer.assert_whole();
    assert_eq!(computer.boot(), first);
}

#[test]
fn rollback_to_a_damaged_image_changes_nothing() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    computer.upgrade(&Image::new("2"));
    let second = computer.boot();
    std::fs::remove_file(computer.root().join(paths::REPOSITORY).join("images").join(first.as_str())).unwrap();
    let err = computer.run(None, rollback::rollback).unwrap_err();
    assert!(matches!(&err, rollback::Error::Image { id, .. } if *id == first), "{err}");
    assert_eq!(computer.boot(), second);
}

#[test]
fn only_needed_deployments_are_kept() {
    let mut computer = Computer::installed(&Image::new("1"));
    let mut ids = vec![computer.booted()];
    for version in 2..=9 {
        computer.upgrade(&Image::new(&version.to_string()));
        ids.push(computer.boot());
        computer.assert_whole();
    }
    let kept = || computer.model().deployments().iter().map(|item| item.id.clone()).collect::<Vec<_>>();
    assert_eq!(kept(), [ids[8].clone(), ids[7].clone(), ids[6].clone()], "the oldest goes with the next run");
    let nothing = computer.upgrade(&Image::new("9"));
    assert_eq!((nothing.staging, nothing.removed), (Staging::Current, vec![ids[6].clone()]));
    assert_eq!(kept(), [ids[8].clone(), ids[7].clone()]);
    computer.assert_whole();
}

#[test]
fn pinned_deployment_stays() {
    let mut computer = Computer::installed(&Image::new("1"));
    let pinned = computer.booted();
    let mut record = computer.record(&pinned);
    record.pinned = true;
    fs::write(computer.root().join(paths::record(&pinned)), record.to_toml().unwrap()).unwrap();
    for version in ["2", "3", "4", "5"] {
        computer.upgrade(&Image::new(version));
        computer.boot();
    }
    assert!(computer.model().get(&pinned).is_some());
    computer.assert_whole();
}

#[test]
fn cut_upgrade_boots_old_or_new_and_the_next_run_completes() {
    for step in STEPS {
        let mut computer = Computer::installed(&Image::new("1"));
        computer.upgrade(&Image::new("2"));
        computer.boot();
        // So that this upgrade also has a deployment to remove.
        computer.upgrade(&Image::new("3"));
        let old = computer.boot();
        computer.change_etc("host.conf", "mine");
        let cut = computer.cut(step, |machine| upgrade(machine, &Image::new("4"), false));
        assert_eq!(cut, !matches!(step, Step::EtcAside | Step::Superseded), "{step:?} is reached");
        let booted = computer.boot();
        assert_eq!(booted == old, cut && before_commit(step), "{step:?}");
        assert!(computer.etc().contains("host.conf"), "{step:?}");

        let staged = computer.upgrade(&Image::new("4"));
        computer.assert_whole();
        assert_eq!(computer.boot(), staged.id, "{step:?}");
        assert!(computer.etc().contains("host.conf"), "{step:?}");
    }
}

#[test]
fn cut_upgrade_without_a_boot_is_completed_by_the_next() {
    for step in STEPS {
        let mut computer = Computer::installed(&Image::new("1"));
        computer.cut(step, |machine| upgrade(machine, &Image::new("2"), false));
        let staged = computer.upgrade(&Image::new("2"));
        let known = if before_commit(step) { Staging::New } else { Staging::Staged };
        assert_eq!(staged.staging, if step == Step::EtcAside { Staging::Staged } else { known }, "{step:?}");
        computer.assert_whole();
        assert_eq!(computer.boot(), staged.id);
    }
}

#[test]
fn cut_rollback_boots_one_of_the_two_and_can_be_repeated() {
    for step in STEPS {
        let mut computer = Computer::installed(&Image::new("1"));
        let first = computer.booted();
        computer.change_etc("first.conf", "");
        computer.upgrade(&Image::new("2"));
        let second = computer.boot();
        computer.change_etc("second.conf", "");
        computer.cut(step, rollback::rollback);
        let (expected, other) = if before_commit(step) && !matches!(step, Step::Reference | Step::EtcAside) {
            (second, first)
        } else {
            (first, second)
        };
        assert_eq!(computer.boot(), expected, "{step:?}");
        assert_eq!(computer.rollback().target, other, "{step:?}");
        computer.assert_whole();
        assert_eq!(computer.boot(), other, "{step:?}");
    }
}

#[test]
fn deploying_an_image_again_carries_etc_anew_and_loses_nothing() {
    for step in STEPS.map(Some).into_iter().chain([None]) {
        let mut computer = Computer::installed(&Image::new("1"));
        let first = computer.booted();
        computer.change_etc("first.conf", "");
        computer.upgrade(&Image::new("2"));
        let second = computer.boot();
        computer.change_etc("second.conf", "");
        let committed = match step {
            Some(step) => {
                computer.cut(step, |machine| upgrade(machine, &Image::new("1"), false));
                !before_commit(step)
            }
            None => {
                assert_eq!(computer.upgrade(&Image::new("1")).staging, Staging::Again);
                true
            }
        };
        assert_eq!(computer.boot(), if committed { first.clone() } else { second.clone() }, "{step:?}");
        if !committed {
            // Taken back: the rollback has its own /etc, as if nothing had been tried.
            assert_eq!(computer.rollback().target, first);
            computer.assert_whole();
            assert_eq!(computer.boot(), first);
            assert_eq!(computer.etc(), ["first.conf".to_owned()].into(), "{step:?}");
            continue;
        }
        assert_eq!(computer.etc(), ["first.conf".to_owned(), "second.conf".to_owned()].into(), "{step:?}");
        let aside = computer.state(&first).join("etc/upper.1");
        assert_eq!(names(&aside), ["first.conf".to_owned()].into(), "{step:?}: the former /etc is still there");
        computer.upgrade(&Image::new("1"));
        computer.assert_whole();
    }
}

#[test]
fn running_image_offered_again_replaces_what_was_staged() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    let second = computer.upgrade(&Image::new("2"));
    let kept = computer.upgrade(&Image::new("1"));
    assert_eq!((kept.staging, &kept.removed), (Staging::KeepBooted, &vec![second.id]));
    computer.assert_whole();
    assert_eq!(computer.boot(), first);
    assert_eq!(computer.etc().len(), 0);
}

#[test]
fn same_contents_under_another_manifest_are_followed() {
    let computer = Computer::installed(&Image::with("1", "k", "a"));
    let other = Image::with("1", "k", "b");
    let before = computer.record(&computer.booted()).image.manifest_digest;
    assert_eq!(computer.upgrade(&other).staging, Staging::Current);
    let after = computer.record(&computer.booted()).image.manifest_digest;
    assert_ne!(before, after);
    assert_eq!(computer.upgrade(&other).staging, Staging::Current, "and needs no pull now");
    computer.assert_whole();
}

#[test]
fn switching_to_the_running_image_follows_the_new_reference() {
    let computer = Computer::installed(&Image::new("1"));
    let source = Source {
        reference: "docker://host/other:1".to_owned(),
        plain_http: true,
        summary_key: None,
        requirement: None,
    };
    computer.run(None, |machine| {
        let survey = cleanup::repair(machine).unwrap();
        let image = Image::new("1");
        let offer = Offer::fetch(&image, &Platform::host()).unwrap();
        stage::stage(machine, &survey, &offer, &request(&source, true)).unwrap();
        assert_eq!(stage::origin(&machine.survey().unwrap().model).unwrap(), source);
    });
}

#[test]
fn upgrade_follows_what_was_switched_to() {
    let computer = Computer::installed(&Image::new("1"));
    assert_eq!(stage::origin(&computer.model()).unwrap().reference, REFERENCE);
    let switched = Source {
        reference: "docker://host/other:1".to_owned(),
        plain_http: true,
        summary_key: Some("a public key".to_owned()),
        requirement: None,
    };
    computer.run(None, |machine| {
        let survey = cleanup::repair(machine).unwrap();
        let image = Image::new("2");
        let offer = Offer::fetch(&image, &Platform::host()).unwrap();
        stage::stage(machine, &survey, &offer, &request(&switched, true)).unwrap();
    });
    assert_eq!(stage::origin(&computer.model()).unwrap(), switched);
}

#[test]
fn what_was_looked_at_is_pulled_even_if_the_tag_moves() {
    let computer = Computer::installed(&Image::new("1"));
    let moving = Moving { looked: AtomicBool::new(false), first: Image::new("2"), second: Image::new("3") };
    computer.run(None, |machine| {
        let survey = cleanup::repair(machine).unwrap();
        let offer = Offer::fetch(&moving, &Platform::host()).unwrap();
        let check = checks::check(machine, &offer);
        assert_eq!((check.staging, check.cost.fetch_bytes), (Staging::New, Amount::exactly(offer.layer_bytes())));
        let staged = stage::stage(machine, &survey, &offer, &request(&source(), false)).unwrap();
        assert_eq!(staged.record.image.version.as_deref(), Some("2"));
        assert_eq!(staged.record.image.manifest_digest, check.manifest_digest.to_string());
        let after = checks::check(machine, &offer);
        assert_eq!((after.staging, after.cost.fetch_bytes), (Staging::Staged, Amount::NOTHING));
    });
}

/// A tag that is moved after it was looked at once.
struct Moving {
    looked: AtomicBool,
    first: Image,
    second: Image,
}

impl ImageSource for Moving {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        if self.looked.swap(true, Ordering::Relaxed) { self.second.manifest() } else { self.first.manifest() }
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn std::io::Read + Send + '_>, SourceError> {
        self.first.blob(descriptor).or_else(|_| self.second.blob(descriptor))
    }
}

#[test]
fn failed_image_is_not_tried_again_by_itself() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    let failing = computer.upgrade(&Image::new("2")).id;
    computer.blessing = false;
    for _ in 0..3 {
        assert_eq!(computer.boot(), failing);
    }
    assert_eq!(computer.boot(), first, "the loader fell back");
    computer.blessing = true;
    assert_eq!(computer.upgrade(&Image::new("2")).staging, Staging::Failed);
    assert!(computer.model().is_bad(&failing));
    assert_eq!(computer.boot(), first);

    let retried = computer.run(None, |machine| upgrade(machine, &Image::new("2"), true)).unwrap();
    assert_eq!(retried.staging, Staging::Again);
    assert_eq!(computer.boot(), failing, "asked for, it is tried");
    computer.assert_whole();
}

#[test]
fn newer_image_replaces_a_failed_one() {
    let mut computer = Computer::installed(&Image::new("1"));
    let failing = computer.upgrade(&Image::new("2")).id;
    computer.blessing = false;
    for _ in 0..4 {
        computer.boot();
    }
    computer.blessing = true;
    let third = computer.upgrade(&Image::new("3")).id;
    assert!(computer.model().get(&failing).is_some(), "still known as failed");
    assert_eq!(computer.boot(), third);
    computer.run(None, |machine| cleanup::remove_unneeded(machine).unwrap());
    assert!(computer.model().get(&failing).is_none());
    computer.assert_whole();
}

#[test]
fn lost_entries_and_kernels_are_made_again() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    computer.upgrade(&Image::new("2"));
    let second = computer.boot();
    for name in computer.entries() {
        fs::remove_file(computer.esp().join("loader/entries").join(name)).unwrap();
    }
    fs::remove_dir_all(computer.esp().join("EFI/osupdate")).unwrap();
    computer.run(None, |machine| cleanup::repair(machine).unwrap());
    computer.assert_whole();
    assert_eq!(computer.boot(), second);
    assert_eq!(computer.rollback().target, first);
    assert_eq!(computer.boot(), first);
}

#[test]
fn missing_initrd_makes_entry_and_kernel_again() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    let kernel = computer.record(&first).boot.digest;
    fs::remove_file(computer.esp().join("EFI/osupdate").join(kernel).join("initrd")).unwrap();
    computer.run(None, |machine| cleanup::repair(machine).unwrap());
    computer.assert_whole();
    assert_eq!(computer.boot(), first);
}

#[test]
fn entries_of_others_are_left_alone() {
    let mut computer = Computer::installed(&Image::new("1"));
    let entries = computer.esp().join("loader/entries");
    let own = fs::read_to_string(entries.join(computer.entries().first().unwrap())).unwrap();
    let other_root = own.replace("root=UUID=1", "root=UUID=2").replace("composefs.digest=v1-sha512-12:", "composefs=?");
    fs::write(entries.join("osupdate-aaaaaaaaaaaa-000000.conf"), other_root).unwrap();
    fs::write(entries.join("debian.conf"), "title Debian\nlinux /vmlinuz\n").unwrap();
    fs::write(computer.esp().join("vmlinuz"), "x").unwrap();
    let unknown = "b".repeat(128);
    let orphan = own.replace(computer.booted().as_str(), &unknown);
    fs::write(entries.join("osupdate-bbbbbbbbbbbb-000000.conf"), orphan).unwrap();
    computer.upgrade(&Image::new("2"));
    let left = computer.entries();
    assert!(left.contains("osupdate-aaaaaaaaaaaa-000000.conf") && left.contains("debian.conf"), "{left:?}");
    assert!(!left.contains("osupdate-bbbbbbbbbbbb-000000.conf"), "it boots nothing");
    let foreign = computer.run(None, |machine| machine.survey().unwrap().listing.foreign);
    assert_eq!(foreign.len(), 2);
    computer.boot();
}

#[test]
fn damaged_record_stops_removal_of_what_it_may_need() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    let kernel = computer.record(&first).boot.digest;
    computer.upgrade(&Image::new("2"));
    computer.boot();
    fs::write(computer.root().join(paths::record(&first)), "version = 1\nsequence = \"x\"\n").unwrap();
    for version in ["3", "4"] {
        computer.upgrade(&Image::new(version));
        computer.boot();
    }
    assert_eq!(computer.model().damaged.len(), 1);
    assert!(computer.state(&first).exists(), "its state is not deleted");
    assert!(computer.esp().join("EFI/osupdate").join(kernel).exists());
    assert!(computer.entries().iter().any(|name| name.contains(first.short(12))), "nor its entry");
}

#[test]
fn leftovers_are_removed() {
    let computer = Computer::installed(&Image::new("1"));
    let deployments = computer.root().join(paths::DEPLOYMENTS);
    for name in [".new-x", ".gone-x"] {
        fs::create_dir_all(deployments.join(name).join("etc/upper")).unwrap();
    }
    let temporary = computer.state(&computer.booted()).join(".deployment.toml.tmp-abc");
    fs::write(&temporary, "half").unwrap();
    let pair = computer.esp().join("EFI/osupdate").join("c".repeat(64));
    fs::create_dir_all(&pair).unwrap();
    fs::write(pair.join("vmlinuz"), "half").unwrap();
    computer.run(None, |machine| cleanup::repair(machine).unwrap());
    assert!(!temporary.exists());
    computer.assert_whole();
}

#[test]
fn unbooted_system_is_refused() {
    let computer = Computer::installed(&Image::new("1"));
    fs::remove_dir_all(computer.state(&computer.booted())).unwrap();
    let err = computer.run(None, |machine| upgrade(machine, &Image::new("2"), false)).unwrap_err();
    assert!(err.to_string().contains("not an osupdate system"), "{err}");
    assert_eq!(computer.entries().len(), 1, "what boots is not removed");
    assert_eq!(source().reference, REFERENCE);
}
