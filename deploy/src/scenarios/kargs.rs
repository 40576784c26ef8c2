//! Lives of a computer whose kernel arguments are changed.

use std::sync::Mutex;

use osupdate_core::observer::{Event, Observer};
use osupdate_efi::authenticode::fake::Authority;
use osupdate_record::DeploymentId;

use super::computer::{Computer, upgrade};
use super::image::Image;
use super::sealed::{chain, secure_boot};
use super::{STEPS, before_commit};
use crate::cleanup;
use crate::kargs::change::{ChangeKargsError, ChangedKargs, change};
use crate::kargs::edit::Edit;
use crate::local_addon::{LocalAddonError, LocalSigner};
use crate::model::Entry;
use crate::plan::Staging;
use crate::rollback;

fn append(argument: &str) -> Edit {
    Edit { append: vec![argument.to_owned()], ..Edit::default() }
}

fn delete(argument: &str) -> Edit {
    Edit { delete: vec![argument.to_owned()], ..Edit::default() }
}

/// Changes the arguments; what is needed for an addon is signed by this authority.
fn try_change(computer: &Computer, edit: &Edit, authority: &Authority) -> Result<ChangedKargs, ChangeKargsError> {
    let signer = || Ok(LocalSigner::new(authority.signer(), computer.secure_boot.clone()));
    computer.run(None, |machine| change(machine, edit, signer))
}

/// The same where no addon is needed.
fn changed(computer: &Computer, edit: &Edit) -> ChangedKargs {
    computer.run(None, |machine| change(machine, edit, || panic!("no key is needed")).unwrap())
}

/// A computer with Secure Boot and two sealed images, of which it runs the second; signed by the authority.
fn sealed(authority: &Authority) -> Computer {
    let mut computer = Computer::installed(&Image::signed("1", &authority.signer()));
    computer.secure_boot = secure_boot(authority, None);
    computer.upgrade(&Image::signed("2", &authority.signer()));
    computer.boot();
    computer
}

#[test]
fn arguments_in_the_entry_are_changed_from_the_next_boot_on_and_tried_first() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    computer.upgrade(&Image::new("2"));
    let second = computer.boot();
    let change = changed(&computer, &append("console=ttyS0"));
    assert_eq!(
        (change.id, change.after),
        (second.clone(), ["root=UUID=1", "rw", "console=ttyS0"].map(str::to_owned).to_vec())
    );
    assert_eq!(computer.model().entry(&second).unwrap().tries_left, Some(3), "not shown to work");
    assert!(computer.model().change_pending());
    assert_eq!(computer.upgrade(&Image::new("2")).staging, Staging::Staged, "to be started");
    computer.assert_whole();
    assert_eq!(computer.boot(), second);
    assert!(!computer.model().change_pending());
    assert_eq!(computer.upgrade(&Image::new("2")).staging, Staging::Current);
    assert!(computer.line.ends_with("root=UUID=1 rw console=ttyS0 quiet"), "{}", computer.line);
    let again = changed(&computer, &append("console=ttyS0"));
    assert_eq!(again.before, again.after);
    assert_eq!(computer.model().entry(&second).unwrap().tries_left, None, "nothing was changed");
    computer.upgrade(&Image::new("3"));
    computer.boot();
    assert!(computer.line.contains("rw console=ttyS0 quiet"), "carried: {}", computer.line);
    computer.upgrade(&Image::new("4"));
    changed(&computer, &delete("console"));
    computer.upgrade(&Image::new("5"));
    computer.boot();
    assert!(computer.line.ends_with("rw quiet"), "of what was staged: {}", computer.line);
    assert!(computer.model().get(&first).is_none());
    for argument in ["", "a\nlinux /x", "composefs=00"] {
        let err =
            computer.run(None, |machine| crate::kargs::change::change(machine, &append(argument), || panic!("no key")));
        assert!(matches!(err, Err(ChangeKargsError::Argument { .. })), "{argument:?}");
    }
}

#[test]
fn arguments_that_do_not_boot_are_given_up_with_their_deployment() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    computer.upgrade(&Image::new("2"));
    let second = computer.boot();
    changed(&computer, &append("panic=now"));
    computer.blessing = false;
    for _ in 0..3 {
        assert_eq!(computer.boot(), second);
    }
    assert_eq!(computer.boot(), second, "with the arguments that were good");
    assert!(!computer.line.contains("panic"), "{}", computer.line);
    assert!(!computer.model().change_pending());
    computer.blessing = true;
    // Going back and forth tries the new arguments again, never without a counter.
    assert_eq!(computer.rollback().target, first);
    computer.boot();
    assert_eq!(computer.rollback().target, second);
    assert_eq!(computer.model().entry(&second).unwrap().tries_left, Some(3));
    changed(&computer, &delete("panic"));
    assert_eq!(computer.boot(), second);
    assert!(!computer.line.contains("panic"), "{}", computer.line);
    computer.run(None, |machine| cleanup::repair(machine).unwrap());
    computer.assert_whole();
}

#[test]
fn only_deployment_survives_arguments_that_do_not_boot() {
    let authority = Authority::new("Ours");
    for image in [Image::new("1"), Image::signed("1", &authority.signer())] {
        let mut computer = Computer::installed(&image);
        let only = computer.booted();
        try_change(&computer, &append("nr_cpus=0"), &authority).unwrap();
        computer.assert_whole();
        computer.blessing = false;
        for _ in 0..3 {
            assert_eq!(computer.boot(), only);
            assert!(computer.line.contains("nr_cpus=0"), "{}", computer.line);
        }
        assert_eq!(computer.boot(), only);
        assert!(!computer.line.contains("nr_cpus=0"), "{}", computer.line);
        computer.blessing = true;
        computer.run(None, |machine| cleanup::repair(machine).unwrap());
        assert_eq!(computer.boot(), only, "the repair leaves what boots");
        assert!(!computer.line.contains("nr_cpus=0"), "{}", computer.line);
        try_change(&computer, &delete("nr_cpus"), &authority).unwrap();
        computer.boot();
        computer.run(None, |machine| cleanup::repair(machine).unwrap());
        assert_eq!(computer.entries().len(), 1);
        computer.assert_whole();
    }
}

#[test]
fn change_of_order_keeps_what_is_good_behind_a_change_that_is_not_tried() {
    let authority = Authority::new("Ours");
    for sealed in [false, true] {
        let image = |version: &str| match sealed {
            true => Image::signed(version, &authority.signer()),
            false => Image::new(version),
        };
        let mut computer = Computer::installed(&image("1"));
        let only = computer.booted();
        try_change(&computer, &append("nr_cpus=0"), &authority).unwrap();
        computer.upgrade(&image("2"));
        assert_eq!(computer.upgrade(&image("1")).staging, Staging::KeepBooted);
        computer.assert_whole();
        assert_gives_up(&mut computer, &only, &only);

        computer.blessing = true;
        try_change(&computer, &delete("nr_cpus"), &authority).unwrap();
        computer.boot();
        computer.upgrade(&image("2"));
        let second = computer.boot();
        try_change(&computer, &append("nr_cpus=0"), &authority).unwrap();
        computer.rollback();
        assert!(computer.rollback().undoes);
        computer.assert_whole();
        assert_has_good_entry(&computer, &second);
        assert_gives_up(&mut computer, &second, &only);
    }
}

#[test]
fn change_of_order_keeps_what_is_good_behind_another_uki() {
    let mut computer = Computer::installed(&Image::sealed("1"));
    let only = computer.booted();
    assert_eq!(computer.upgrade(&Image::resealed("1", "rw nr_cpus=0")).staging, Staging::Resealed);
    computer.upgrade(&Image::sealed("2"));
    assert_eq!(computer.upgrade(&Image::resealed("1", "rw nr_cpus=0")).staging, Staging::KeepBooted);
    computer.assert_whole();
    assert_gives_up(&mut computer, &only, &only);
}

fn assert_has_good_entry(computer: &Computer, id: &DeploymentId) {
    let model = computer.model();
    let is_good = |entry: &Entry| entry.deployment == *id && entry.tries_left.is_none();
    assert!(model.entries().iter().any(is_good), "{:?}", model.entries());
}

#[test]
fn lost_entry_of_a_change_that_is_not_tried_is_counted_when_it_is_made_again() {
    for runs in [true, false] {
        let mut computer = Computer::installed(&Image::new("1"));
        let first = computer.booted();
        computer.upgrade(&Image::new("2"));
        let second = computer.boot();
        changed(&computer, &append("nr_cpus=0"));
        let changed = computer.model().entry(&second).unwrap().clone();
        if !runs {
            assert_eq!(computer.rollback().target, first);
            assert_eq!(computer.boot(), first);
        }
        std::fs::remove_file(computer.esp().join("loader/entries").join(&changed.file_name)).unwrap();
        computer.run(None, |machine| cleanup::repair(machine).unwrap());
        computer.assert_whole();
        let made = computer.model().entry(&second).unwrap().clone();
        assert_eq!((made.sequence, made.tries_left), (changed.sequence, Some(3)), "{runs}");
        if !runs {
            assert_eq!(computer.rollback().target, second);
        }
        assert_has_good_entry(&computer, &second);
        assert_gives_up(&mut computer, &second, if runs { &second } else { &first });
    }
}

#[test]
fn lost_entry_of_a_change_that_runs_is_not_counted_when_it_is_made_again() {
    let mut computer = Computer::installed(&Image::new("1"));
    changed(&computer, &append("quiet=yes"));
    let running = computer.boot();
    for name in computer.entries() {
        std::fs::remove_file(computer.esp().join("loader/entries").join(name)).unwrap();
    }
    computer.run(None, |machine| cleanup::repair(machine).unwrap());
    assert_eq!(computer.model().entry(&running).unwrap().tries_left, None);
    computer.assert_whole();
}

/// What an upgrade warns about.
fn warnings(computer: &Computer, image: &Image) -> Vec<String> {
    let warnings = Warnings::default();
    computer.run_observed(None, &warnings, |machine| upgrade(machine, image, false)).unwrap();
    warnings.0.into_inner().unwrap()
}

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Observer for Warnings {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

#[test]
fn arguments_that_were_given_up_and_are_carried_on_are_warned_about() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    changed(&computer, &append("nr_cpus=0"));
    assert_eq!(warnings(&computer, &Image::new("1")), [""; 0], "not given up yet");
    assert_gives_up(&mut computer, &first, &first);
    computer.blessing = true;
    assert!(computer.model().change_failed(&first));
    for image in [Image::new("1"), Image::new("2")] {
        let told = warnings(&computer, &image);
        assert!(told.len() == 1 && told[0].contains("nr_cpus=0") && told[0].contains("kargs --delete"), "{told:?}");
    }
    // What was staged has them, and is what is changed.
    changed(&computer, &delete("nr_cpus"));
    computer.boot();
    assert!(!computer.line.contains("nr_cpus"), "{}", computer.line);
    assert_eq!(warnings(&computer, &Image::new("3")), [""; 0]);
}

/// Asserts that a change of a deployment is given up after three boots, and that this one then boots as it did before.
fn assert_gives_up(computer: &mut Computer, changed: &DeploymentId, then: &DeploymentId) {
    computer.blessing = false;
    for _ in 0..3 {
        assert_eq!(computer.boot(), *changed);
        assert!(computer.line.contains("nr_cpus=0"), "{}", computer.line);
    }
    assert_eq!(computer.boot(), *then);
    assert!(!computer.line.contains("nr_cpus=0"), "{}", computer.line);
}

#[test]
fn local_addon_belongs_to_one_deployment_and_is_carried_and_rolled_back_with_it() {
    let authority = Authority::new("Ours");
    let mut computer = sealed(&authority);
    let second = computer.booted();
    try_change(&computer, &append("console=ttyS0"), &authority).unwrap();
    let change = try_change(&computer, &append("loglevel=7"), &authority).unwrap();
    assert_eq!((&change.id, change.after.len()), (&second, 2));
    assert_eq!(computer.model().entry(&second).unwrap().tries_left, Some(3));
    computer.assert_whole();
    assert_eq!(computer.boot(), second);
    assert!(computer.line.ends_with(" rw console=ttyS0 loglevel=7"), "{}", computer.line);
    let addons = |computer: &Computer| {
        let names = super::computer::names(&computer.state(&computer.booted()));
        names.into_iter().filter(|name| name.ends_with(".addon.efi")).count()
    };
    computer.run(None, |machine| cleanup::repair(machine).unwrap());
    assert_eq!(addons(&computer), 1, "the earlier one is gone");

    let first = computer.rollback().target;
    assert_eq!(computer.boot(), first);
    assert!(computer.line.ends_with(" rw"), "{}", computer.line);
    computer.rollback();
    assert_eq!(computer.boot(), second);
    assert!(computer.line.ends_with(" loglevel=7"), "{}", computer.line);

    computer.upgrade(&Image::signed("3", &authority.signer()));
    let third = computer.boot();
    assert!(computer.line.ends_with(" rw console=ttyS0 loglevel=7"), "carried: {}", computer.line);
    computer.assert_whole();
    // Lost from the boot partition, it is made again.
    computer.run(None, |machine| cleanup::remove_unneeded(machine).unwrap());
    std::fs::remove_dir_all(computer.esp().join("EFI/osupdate")).unwrap();
    computer.run(None, |machine| cleanup::repair(machine).unwrap());
    computer.assert_whole();
    assert_eq!(computer.boot(), third);
    assert!(computer.line.ends_with(" loglevel=7"), "{}", computer.line);

    try_change(&computer, &delete("loglevel"), &authority).unwrap();
    changed(&computer, &delete("console"));
    assert_eq!(computer.boot(), third);
    assert!(computer.line.ends_with(" rw"), "{}", computer.line);
    computer.run(None, |machine| cleanup::repair(machine).unwrap());
    assert_eq!(addons(&computer), 0);
    computer.assert_whole();
}

#[test]
fn cut_change_of_a_local_addon_has_the_old_arguments_or_the_new() {
    let authority = Authority::new("Ours");
    for step in STEPS {
        let mut computer = sealed(&authority);
        let second = computer.booted();
        let edit = append("console=ttyS0");
        let signer = || Ok(LocalSigner::new(authority.signer(), computer.secure_boot.clone()));
        let cut = computer.cut(step, |machine| change(machine, &edit, signer));
        assert_eq!(computer.boot(), second, "{step:?}");
        let arguments = if cut && before_commit(step) { " rw" } else { " rw console=ttyS0" };
        assert!(computer.line.ends_with(arguments), "{step:?}: {}", computer.line);
        try_change(&computer, &edit, &authority).unwrap();
        computer.assert_whole();
        assert_eq!(computer.boot(), second, "{step:?}");
        assert!(computer.line.ends_with(" rw console=ttyS0"), "{step:?}: {}", computer.line);
    }
}

#[test]
fn what_may_not_be_added_or_would_be_ignored_is_refused() {
    let (ours, theirs) = (Authority::new("Ours"), Authority::new("Theirs"));
    let computer = sealed(&ours);
    let before = computer.record(&computer.booted());
    let refused = |argument: &str, authority: &Authority| {
        chain(&try_change(&computer, &append(argument), authority).unwrap_err())
    };
    let text = refused("init=/bin/sh", &ours);
    assert!(text.contains("would change what is booted"), "{text}");
    let text = refused("selinux=0", &ours);
    assert!(text.contains("not one that may be added"), "{text}");
    let text = refused("quiet", &theirs);
    assert!(
        text.contains("Secure Boot of this machine would not accept the addon") && text.contains("Theirs"),
        "{text}"
    );
    let signer = || Err(LocalAddonError::NoKey { path: "/nowhere".into() });
    let err = computer.run(None, |machine| change(machine, &append("quiet"), signer)).unwrap_err();
    assert!(matches!(err, ChangeKargsError::Addon(LocalAddonError::NoKey { .. })), "{err}");
    assert_eq!(computer.record(&computer.booted()), before);
    computer.assert_whole();
}

#[test]
fn image_that_allows_less_does_not_get_the_arguments() {
    let authority = Authority::new("Ours");
    let list = |image: &Image, lines: &str| {
        image.with_layer(&[], &[("usr/lib/osupdate/local-kargs.conf", lines)]).sealed_and_signed(&authority.signer())
    };
    let mut computer = Computer::installed(&list(&Image::new("1"), "special.*\n"));
    computer.secure_boot = secure_boot(&authority, None);
    try_change(&computer, &append("special.mode=1"), &authority).unwrap();
    computer.boot();
    assert!(computer.line.ends_with(" special.mode=1"), "{}", computer.line);
    let staged = computer.upgrade(&Image::signed("2", &authority.signer()));
    assert_eq!(staged.staging, Staging::New);
    computer.boot();
    assert!(computer.line.ends_with(" rw"), "{}", computer.line);
    computer.run(None, rollback::rollback).unwrap();
    computer.boot();
    assert!(computer.line.ends_with(" special.mode=1"), "{}", computer.line);
    computer.assert_whole();
}
