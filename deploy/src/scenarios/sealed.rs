//! Lives of a computer with images that have their digest sealed into a UKI.

use std::fs;

use osupdate_core::observer::Silent;
use osupdate_core::oci::{Offer, Platform};
use osupdate_efi::authenticode::fake::Authority;
use osupdate_efi::loader_install::EnrolmentKeys;
use osupdate_efi::pe::fake::pe;
use osupdate_efi::secure_boot::{SecureBoot, fake};
use osupdate_efi::variables::EfiVariables;

use super::STEPS;
use super::before_commit;
use super::checks;
use super::computer::{Computer, names, source, upgrade};
use super::image::{Image, UKI, addon, uki};
use crate::cleanup;
use crate::install::enrolment::{self, EnrolmentError};
use crate::loader::LoaderFile;
use crate::plan::Staging;
use crate::rollback;
use crate::stage::{self, Request, StageError};

/// The whole chain of an error, one cause on each line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Offers an image, which must be refused with nothing changed on the ESP and in the state.
fn refused(computer: &Computer, image: &Image) -> (String, StageError) {
    let before = (fs_state(computer), computer.entries());
    let err = computer.run(None, |machine| upgrade(machine, image, false)).unwrap_err();
    assert_eq!((fs_state(computer), computer.entries()), before, "refused before anything was written");
    (chain(&err), err)
}

fn fs_state(computer: &Computer) -> Vec<String> {
    let repository = computer.root().join(osupdate_record::paths::REPOSITORY);
    let is_state = |line: &&String| !line.contains(repository.to_str().unwrap());
    // The note of the lock is written by every run.
    computer.everything().iter().filter(is_state).filter(|line| !line.contains("state/lock")).cloned().collect()
}

#[test]
fn sealed_image_boots_by_its_own_command_line_and_is_rolled_back() {
    let mut computer = Computer::installed(&Image::sealed("2"));
    let first = computer.booted();
    assert!(computer.line.ends_with(" quiet rw"), "{}", computer.line);
    computer.change_etc("host.conf", "mine");
    // The older image has the higher version.
    let second = computer.upgrade(&Image::sealed("1"));
    assert_eq!(second.record.boot.kernel, "6.12.1-uki", "as the UKI says");
    assert_eq!(
        (second.staging, second.record.boot.image_arguments.as_slice()),
        (Staging::New, &["quiet", "rw"].map(str::to_owned)[..])
    );
    computer.assert_whole();
    assert_eq!(computer.boot(), second.id);
    assert!(computer.etc().contains("host.conf"));
    assert_eq!(computer.rollback().target, first);
    assert_eq!(computer.boot(), first);
    assert_eq!(computer.rollback().target, second.id);
    assert_eq!(computer.boot(), second.id);
    computer.assert_whole();
}

#[test]
fn computer_changes_between_kernels_and_ukis_and_keeps_its_arguments() {
    let mut computer = Computer::installed(&Image::new("1"));
    let plain = computer.booted();
    let sealed = computer.upgrade(&Image::sealed("2")).id;
    computer.assert_whole();
    assert_eq!(computer.boot(), sealed);
    assert!(!computer.line.contains("root="), "{}", computer.line);
    assert_eq!(computer.rollback().target, plain);
    assert_eq!(computer.boot(), plain);
    assert!(computer.line.contains("root=UUID=1 rw quiet"), "{}", computer.line);
    assert_eq!(computer.rollback().target, sealed);
    assert_eq!(computer.boot(), sealed);
    let third = computer.upgrade(&Image::new("3")).id;
    assert_eq!(computer.boot(), third);
    assert!(computer.line.contains("root=UUID=1 rw quiet"), "{}", computer.line);
    assert_eq!(computer.rollback().target, sealed);
    computer.assert_whole();
}

#[test]
fn cut_upgrade_to_a_uki_boots_old_or_new_and_the_next_run_completes() {
    for step in STEPS {
        let mut computer = Computer::installed(&Image::new("1"));
        computer.upgrade(&Image::sealed("2"));
        computer.boot();
        computer.upgrade(&Image::new("3"));
        let old = computer.boot();
        computer.change_etc("host.conf", "mine");
        let new = Image::sealed("4");
        let cut = computer.cut(step, |machine| upgrade(machine, &new, false));
        let booted = computer.boot();
        assert_eq!(booted == old, cut && before_commit(step), "{step:?}");
        let staged = computer.upgrade(&new);
        computer.assert_whole();
        assert_eq!(computer.boot(), staged.id, "{step:?}");
        assert!(computer.etc().contains("host.conf"), "{step:?}");
    }
}

#[test]
fn cut_rollback_to_a_uki_boots_one_of_the_two() {
    for step in STEPS {
        let mut computer = Computer::installed(&Image::sealed("1"));
        let first = computer.booted();
        computer.upgrade(&Image::new("2"));
        let second = computer.boot();
        let cut = computer.cut(step, rollback::rollback);
        let booted = computer.boot();
        assert_eq!(booted == second, cut && before_commit(step), "{step:?}");
        let other = if booted == first { second } else { first };
        assert_eq!(computer.rollback().target, other, "{step:?}");
        computer.assert_whole();
        assert_eq!(computer.boot(), other, "{step:?}");
    }
}

#[test]
fn same_files_with_another_uki_get_the_new_one() {
    for step in STEPS.map(Some).into_iter().chain([None]) {
        let mut computer = Computer::installed(&Image::new("0"));
        computer.upgrade(&Image::sealed("1"));
        let id = computer.boot();
        computer.change_etc("host.conf", "mine");
        let resealed = Image::resealed("1", "quiet rw debug");
        if let Some(step) = step {
            computer.cut(step, |machine| upgrade(machine, &resealed, false));
        } else {
            let staged = computer.upgrade(&resealed);
            assert_eq!((staged.staging, &staged.id), (Staging::Resealed, &id));
        }
        assert_eq!(computer.boot(), id, "{step:?}");
        assert!(computer.etc().contains("host.conf"), "{step:?}: its own /etc");
        let again = computer.upgrade(&resealed);
        if step.is_none() {
            assert_eq!(again.staging, Staging::Current);
        }
        computer.assert_whole();
        computer.boot();
        assert!(computer.line.ends_with(" rw debug"), "{step:?}: {}", computer.line);
        assert_eq!(computer.upgrade(&resealed).staging, Staging::Current);
    }
}

#[test]
fn failed_uki_is_tried_again_when_it_was_made_anew() {
    let mut computer = Computer::installed(&Image::sealed("1"));
    let first = computer.booted();
    let failing = computer.upgrade(&Image::sealed("2")).id;
    computer.blessing = false;
    for _ in 0..3 {
        assert_eq!(computer.boot(), failing);
    }
    assert_eq!(computer.boot(), first);
    computer.blessing = true;
    assert_eq!(computer.upgrade(&Image::sealed("2")).staging, Staging::Failed);
    assert_eq!(computer.upgrade(&Image::resealed("2", "rw")).staging, Staging::Again);
    assert_eq!(computer.boot(), failing);
    computer.assert_whole();
}

#[test]
fn lost_uki_is_made_again_although_the_mounted_image_does_not_have_it() {
    let mut computer = Computer::installed(&Image::sealed("1"));
    let first = computer.booted();
    computer.upgrade(&Image::sealed("2"));
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
fn cost_of_a_sealed_image_is_told() {
    let computer = Computer::installed(&Image::sealed("1"));
    let second = Image::sealed("2");
    computer.run(None, |machine| {
        let offer = Offer::fetch(&second, &Platform::host()).unwrap();
        crate::prepare::Prepared::fetch(machine.repository, &offer, &Silent).unwrap();
        let check = checks::check(machine, &offer);
        assert_eq!((check.staging, check.cost.arguments), (Staging::New, Some(Default::default())));
        assert_eq!(check.sealed, Some(true));
        assert!(check.cost.esp_bytes.known().unwrap() >= uki(&["x"]).len() as u64);
        let resealed = Image::resealed("1", "rw debug");
        let offer = Offer::fetch(&resealed, &Platform::host()).unwrap();
        crate::prepare::Prepared::fetch(machine.repository, &offer, &Silent).unwrap();
        assert_eq!(checks::check(machine, &offer).staging, Staging::Resealed);
    });
}

#[test]
fn uki_for_another_image_is_refused_with_what_differs() {
    let computer = Computer::installed(&Image::new("1"));
    let base = Image::new("2");
    let line = format!("composefs.digest=v1-sha512-12:{} rw", base.boot_digest());
    // The layer with the UKI has an entry for /usr, too, as archives of a whole tree have.
    let image = base.with_layer(&["usr", "etc/new"], &[(UKI, &uki(&[&line]))]);
    let (text, err) = refused(&computer, &image);
    assert!(text.contains(&format!("the UKI /{UKI} is for another image: {}", base.boot_digest())), "{text}");
    assert!(text.contains(&image.boot_digest()), "{text}");
    assert!(text.contains("it fits the image without the layer on top, where more than /boot changes"), "{text}");
    assert!(text.contains("/etc/new: directory added"), "{text}");
    let StageError::Prepare { source, .. } = err else { panic!("{text}") };
    let crate::prepare::PrepareError::Mismatch(mismatch) = *source else { panic!("{text}") };
    assert!(mismatch.hint().contains("nothing but /boot in it"), "{}", mismatch.hint());

    let line = format!("composefs.digest=v1-sha512-12:{} rw", "a".repeat(128));
    let (text, _) = refused(&computer, &base.with_layer(&[], &[(UKI, &uki(&[&line]))]));
    assert!(text.ends_with(&format!("the files of this image make {}", base.boot_digest())), "{text}");
}

#[test]
fn digest_of_the_form_with_boot_is_recognized() {
    let computer = Computer::installed(&Image::new("1"));
    // What is sealed cannot be in what is sealed; so it is of the image with an earlier UKI.
    let base = Image::with_files("2", "k", "", 1);
    let line = format!("composefs={} rw", base.plain_digest());
    let (text, _) = refused(&computer, &base.with_layer(&[], &[(UKI, &uki(&[&line]))]));
    assert!(text.contains("still have what the image has in /boot"), "{text}");
}

#[test]
fn what_to_boot_is_never_guessed() {
    let computer = Computer::installed(&Image::new("1"));
    let base = Image::new("2");
    let line = format!("composefs={} rw", base.boot_digest());
    let sealed = uki(&[&line]);
    let (text, _) = refused(&computer, &base.with_layer(&[], &[(UKI, &sealed), ("boot/EFI/Linux/b.efi", &sealed)]));
    assert!(text.contains("several UKIs with a digest (/boot/EFI/Linux/b.efi, /boot/EFI/Linux/os.efi)"), "{text}");
    let (text, _) = refused(&computer, &base.with_layer(&[], &[(UKI, &uki(&["quiet rw"]))]));
    assert!(text.contains("names no image"), "{text}");
    let (text, _) = refused(&computer, &base.with_layer(&[], &[(UKI, &uki(&[&line, "rescue"]))]));
    assert!(text.contains("profile 1 of the UKI"), "{text}");
    let (text, _) = refused(&computer, &base.with_layer(&[], &[(UKI, &[b'x'; 100])]));
    assert!(text.contains("no UKI that firmware can start"), "{text}");
    let no_initrd = pe(&[(".linux", b"kernel"), (".cmdline", line.as_bytes())]);
    let (text, _) = refused(&computer, &base.with_layer(&[], &[(UKI, &no_initrd)]));
    assert!(text.contains("has no initrd"), "{text}");
    for name in ["a:b.addon.efi", "ZZ-local.addon.efi"] {
        let path = format!("{UKI}.extra.d/{name}");
        let image = base.with_layer(&[], &[(UKI, sealed.clone()), (path.as_str(), addon("quiet"))]);
        let (text, _) = refused(&computer, &image);
        assert!(text.contains("cannot have this name"), "{name}: {text}");
    }
    let (text, _) = refused(&computer, &base.with_layer(&[], &[(UKI, &addon(&line))]));
    assert!(text.contains("of the kind addon"), "{text}");
    let path = format!("{UKI}.extra.d/a.addon.efi");
    let (text, _) = refused(&computer, &base.with_layer(&[], &[(UKI, sealed.clone()), (path.as_str(), addon(&line))]));
    assert!(text.contains("a.addon.efi of the image has a composefs argument"), "{text}");
}

#[test]
fn uki_of_the_distribution_beside_a_kernel_is_left_alone() {
    let mut computer = Computer::installed(&Image::new("1"));
    for (version, other) in [("2", uki(&["quiet"])), ("3", vec![b'x'; 100])] {
        let image = Image::new(version).with_layer(&[], &[("usr/lib/modules/6.12/vmlinuz-virt.efi", &other)]);
        let staged = computer.upgrade(&image);
        assert_eq!(staged.record.boot.uki, None);
        assert_eq!(computer.boot(), staged.id);
        computer.assert_whole();
    }
}

#[test]
fn addons_of_the_image_are_beside_its_uki() {
    let mut computer = Computer::installed(&Image::new("1"));
    let base = Image::new("2");
    let line = format!("composefs={} rw", base.boot_digest());
    let path = format!("{UKI}.extra.d/debug.addon.efi");
    let image = base.with_layer(&[], &[(UKI, uki(&[&line])), (path.as_str(), addon("debug"))]);
    let staged = computer.upgrade(&image);
    computer.assert_whole();
    computer.boot();
    assert_eq!(computer.line, format!("{line} debug"));
    let directory = computer.esp().join("EFI/osupdate").join(&staged.record.boot.digest);
    assert_eq!(names(&directory).len(), 2);
    computer.upgrade(&Image::new("3"));
    computer.boot();
    computer.upgrade(&Image::new("4"));
    computer.boot();
    computer.run(None, |machine| cleanup::remove_unneeded(machine).unwrap());
    assert!(!directory.exists(), "removed with all of it");
}

#[test]
fn secure_boot_keys_of_the_image_are_complete_or_refused() {
    let computer = Computer::installed(&Image::new("1"));
    let find = |files: &[&str]| {
        let paths: Vec<String> =
            files.iter().map(|file| format!("usr/lib/bootc/install/secureboot-keys/{file}")).collect();
        let files: Vec<(&str, &[u8])> = paths.iter().map(|path| (path.as_str(), path.as_bytes())).collect();
        let image = Image::new("2").with_layer(&[], &files);
        computer.run(None, |machine| {
            let (_, prepared) = crate::prepare::Prepared::fetch(machine.repository, &image, &Silent).unwrap();
            enrolment::find(machine.repository, &prepared.tree)
        })
    };
    assert_eq!(find(&[]).unwrap(), []);
    let sets = find(&["auto/PK.auth", "auto/KEK.auth", "auto/db.auth", "auto/README", "README"]).unwrap();
    assert_eq!(sets.len(), 1);
    assert_eq!(sets[0].set, "auto");
    let names: Vec<_> = sets[0].variables.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["db", "KEK", "PK"]);
    assert!(sets[0].variables[2].1.ends_with(b"auto/PK.auth"));
    let err = find(&["auto/PK.auth", "auto/db.auth"]).unwrap_err().to_string();
    assert!(err.ends_with("secureboot-keys/auto of the image has no KEK.auth"), "{err}");
    assert!(matches!(find(&["a b/PK.auth"]), Err(EnrolmentError::Name { .. })));
}

#[test]
fn keys_that_would_lock_the_machine_out_are_not_enrolled() {
    let (ours, theirs) = (Authority::new("Ours"), Authority::new("Theirs"));
    let unsigned = pe(&[(".text", b"a loader")]);
    let check = |loader: &[u8], kernel: &Authority, db: &Authority| {
        let path = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
        // As signed by the distribution, whose keys the machine will not have.
        let signed = (format!("{path}.signed"), theirs.signer().sign(&unsigned).unwrap());
        let files = [(path, loader), (signed.0.as_str(), &signed.1)];
        let image = Image::new("2").with_layer(&[], &files).sealed_and_signed(&kernel.signer());
        let computer = Computer::installed(&Image::new("1"));
        computer.run(None, |machine| {
            let (_, prepared) = crate::prepare::Prepared::fetch(machine.repository, &image, &Silent).unwrap();
            let loaders = LoaderFile::find(machine.repository, &prepared.tree).unwrap();
            let db = fake::signed_variable(&fake::list(fake::CERTIFICATE, &[db.certificate().der()]));
            let keys = EnrolmentKeys { set: "auto".to_owned(), variables: vec![("db".to_owned(), db)] };
            let chosen = enrolment::choose(machine.repository, &prepared.program, loaders, &[keys]);
            chosen.map(|loader| loader.unwrap().path).map_err(|err| chain(&err))
        })
    };
    let loader = ours.signer().sign(&unsigned).unwrap();
    assert!(check(&loader, &ours, &ours).unwrap().ends_with("systemd-bootx64.efi"));
    let text = check(&unsigned, &ours, &ours).unwrap_err();
    assert!(text.contains("/auto of the image would keep the machine from booting"), "{text}");
    assert!(text.contains("systemd-bootx64.efi would be refused") && text.contains("not signed"), "{text}");
    let text = check(&loader, &theirs, &ours).unwrap_err();
    assert!(text.contains(&format!("/{UKI} would be refused")) && text.contains("Theirs"), "{text}");
}

/// What firmware accepts with these certificates in db and dbx.
pub(super) fn secure_boot(db: &Authority, dbx: Option<&Authority>) -> SecureBoot {
    let efivarfs = tempfile::tempdir().unwrap();
    fake::enable(efivarfs.path(), &[db.certificate()]);
    if let Some(revoked) = dbx {
        let list = fake::list(fake::CERTIFICATE, &[revoked.certificate().der()]);
        fake::write_variable(efivarfs.path(), "dbx", &list);
    }
    SecureBoot::read(&EfiVariables::new(efivarfs.path())).unwrap()
}

#[test]
fn what_firmware_would_refuse_never_becomes_what_boots_next() {
    let (ours, theirs) = (Authority::new("Ours"), Authority::new("Theirs"));
    let mut computer = Computer::installed(&Image::signed("1", &ours.signer()));
    let first = computer.booted();
    computer.secure_boot = secure_boot(&ours, None);
    computer.upgrade(&Image::signed("2", &ours.signer()));
    let second = computer.boot();

    let (text, _) = refused(&computer, &Image::sealed("3"));
    assert!(text.contains(&format!("Secure Boot of this machine would refuse /{UKI} of the image")), "{text}");
    assert!(text.contains("it is not signed"), "{text}");
    let (text, _) = refused(&computer, &Image::signed("3", &theirs.signer()));
    assert!(text.contains("Theirs") && text.contains("does not trust"), "{text}");
    let (text, _) = refused(&computer, &Image::new("3"));
    assert!(text.contains("would refuse /usr/lib/modules/6.12/vmlinuz"), "{text}");

    // The key is revoked while the system runs that it has signed.
    computer.secure_boot = secure_boot(&theirs, Some(&ours));
    let err = computer.run(None, rollback::rollback).unwrap_err();
    assert!(matches!(&err, rollback::Error::Program { id, .. } if *id == first), "{err}");
    assert!(chain(&err).contains("was revoked"), "{}", chain(&err));
    assert_eq!(computer.model().next().unwrap().id, second);
    computer.upgrade(&Image::signed("3", &theirs.signer()));
    computer.boot();
    computer.assert_whole();
}

#[test]
fn sealed_machine_does_not_become_an_unsealed_one_by_itself() {
    let mut computer = Computer::installed(&Image::sealed("1"));
    let upgrade = |computer: &Computer, image: &Image, allow_unsealed| {
        computer.run(None, |machine| {
            let survey = cleanup::repair(machine).unwrap();
            let offer = Offer::fetch(image, &Platform::host()).unwrap();
            let request = Request { source: source(), signatures: Vec::new(), retry_failed: false, allow_unsealed };
            stage::stage(machine, &survey, &offer, &request)
        })
    };
    // The same files without the layer with the UKI, and other files without one.
    for image in [Image::new("1"), Image::new("2")] {
        let before = fs_state(&computer);
        let err = upgrade(&computer, &image, false).unwrap_err();
        assert!(matches!(err, StageError::Unsealed { .. }), "{err}");
        assert_eq!(fs_state(&computer), before);
    }
    let staged = upgrade(&computer, &Image::new("2"), true).unwrap();
    assert_eq!(computer.boot(), staged.id);
    let third = upgrade(&computer, &Image::new("3"), false).unwrap();
    assert_eq!(computer.boot(), third.id, "said once");
    upgrade(&computer, &Image::sealed("4"), false).unwrap();
    computer.boot();
    assert!(upgrade(&computer, &Image::new("5"), false).is_err(), "and sealed again");
}
