//! What an update is said to cost, against what it then costs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use osupdate_core::observer::Silent;
use osupdate_core::oci::{Amount, Offer, Platform, PullOptions, pull};

use osupdate_record::paths;

use super::computer::{Computer, upgrade};
use super::image::Image;
use crate::check::{self, ArgumentChange, Check, Cost, Scene};
use crate::machine::Machine;
use crate::plan::Staging;

pub(super) fn check(machine: &Machine<'_>, offer: &Offer<'_>) -> Check {
    let model = machine.survey().unwrap().model;
    let (sysroot, repository) = (machine.sysroot, machine.repository);
    check::check(&Scene { sysroot, repository, boot: Some(machine.boot), model: &model }, offer).unwrap()
}

fn check_of(computer: &Computer, image: &Image) -> Check {
    computer.run(None, |machine| {
        let before = computer.everything();
        let check = check(machine, &Offer::fetch(image, &Platform::host()).unwrap());
        assert!(computer.everything() == before, "something was written");
        check
    })
}

/// What all that is below a directory takes up.
fn used_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let of_entry = |path: &Path| match fs::symlink_metadata(path).unwrap() {
        metadata if metadata.is_dir() => metadata.blocks() * 512 + used_bytes(path),
        metadata => metadata.blocks() * 512,
    };
    entries.map(|path| of_entry(&path)).sum()
}

#[test]
fn what_the_layers_decide_is_not_known_before_they_are_here() {
    let computer = Computer::installed(&Image::new("1"));
    computer.change_etc("default.conf", "changed here");
    let Check { staging, cost, .. } = check_of(&computer, &Image::new("2"));
    assert_eq!(staging, Staging::New);
    assert!(cost.fetch_bytes.known().unwrap() > 1024);
    assert_eq!((cost.root_bytes.at_most, cost.esp_bytes), (None, Amount::UNKNOWN));
    assert_eq!((cost.etc_conflicts, cost.arguments), (None, None));
    assert!(cost.reboot);
}

#[test]
fn what_an_update_costs_is_known_when_its_layers_are_here() {
    let computer = Computer::installed(&Image::new("1"));
    computer.change_etc("default.conf", "changed here");
    computer.change_etc("own.conf", "changed here");
    let image = Image::with_files("2", "kernel 2", "", 10_000);
    computer.run(None, |machine| pull(machine.repository, &image, &PullOptions::default(), &Silent).map(drop)).unwrap();

    let Check { staging, cost, .. } = check_of(&computer, &image);
    assert_eq!(staging, Staging::New);
    assert_eq!(cost.fetch_bytes, Amount::NOTHING);
    assert_eq!(cost.etc_conflicts.as_deref(), Some(&["/etc/default.conf".to_owned()][..]));
    assert_eq!(cost.arguments, Some(ArgumentChange::default()));
    // As in a repository of any size.
    for directory in 0..=255 {
        let path = computer.root().join(paths::REPOSITORY).join(format!("objects/{directory:02x}"));
        fs::create_dir_all(path).unwrap();
    }
    let used = || (used_bytes(&computer.root()), used_bytes(&computer.esp()));
    let (root, esp) = used();
    computer.run(None, |machine| upgrade(machine, &image, false)).unwrap();
    let (root, esp) = (used().0 - root, used().1 - esp);
    let root_bytes = cost.root_bytes.known().unwrap();
    assert!(root_bytes.abs_diff(root) <= root / 100, "{root_bytes} were told, {root} it was");
    // Two boot files and an entry; the directory is a cluster, too.
    let esp_bytes = cost.esp_bytes.known().unwrap();
    assert!(esp_bytes.abs_diff(esp) <= 4096, "{esp_bytes} were told, {esp} it was");
}

#[test]
fn what_runs_or_is_staged_costs_nothing() {
    let computer = Computer::installed(&Image::new("1"));
    let nothing =
        |cost: &Cost| [cost.fetch_bytes, cost.root_bytes, cost.esp_bytes].iter().all(|b| *b == Amount::NOTHING);
    let current = check_of(&computer, &Image::new("1"));
    assert!(current.staging == Staging::Current && nothing(&current.cost) && !current.cost.reboot);
    computer.upgrade(&Image::new("2"));
    let staged = check_of(&computer, &Image::new("2"));
    assert!(staged.staging == Staging::Staged && nothing(&staged.cost) && staged.cost.reboot);
    // Another manifest of the same files is the same deployment.
    computer.run(None, |machine| {
        let again = Image::with("2", "kernel 2", "built again");
        pull(machine.repository, &again, &PullOptions::default(), &Silent).unwrap();
    });
    assert_eq!(check_of(&computer, &Image::with("2", "kernel 2", "built again")).staging, Staging::Staged);
}
