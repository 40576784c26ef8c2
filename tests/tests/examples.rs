//! The sealed examples in virtual machines: installed, booted, upgraded and rolled back, each as its README says. `examples/bls` is
//! what all machines of `vm.rs` run.
//!
//! The systems of the last two also meet what comes with time: a newer boot loader, a second disk; keys that are enrolled.

use std::fs;
use std::path::Path;

use osupdate_tests::examples::{Example, keys};
use osupdate_tests::guest::BOOT_TIMEOUT;
use osupdate_tests::journey::{Status, expect_running, osupdate, wait_until_blessed};
use osupdate_tests::lab::{DISK_BYTES, empty_disk, shared};
use osupdate_tests::machine::{Boot, Config, Disk, DiskFormat, Machine};
use osupdate_tests::{next_release, secure_boot};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// GUID of the loader's variables.
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// A loader's variable, of text. Nobody can seek in these files, which `tail` does when it is given one.
fn loader_variable(machine: &mut Machine, name: &str) -> String {
    let file = format!("/sys/firmware/efi/efivars/{name}-{LOADER}");
    machine.output(&format!("cat {file} | tail -c +5 | tr -d '\\0'")).unwrap()
}

/// Runs a script with the ESP of the first disk mounted at /run/esp, in its root.
fn on_esp(machine: &mut Machine, script: &str) -> String {
    let script =
        format!("set -e; mkdir -p /run/esp; mount /dev/vda1 /run/esp; cd /run/esp\n{script}\ncd /; umount /run/esp");
    machine.output(&script).unwrap()
}

/// The name of the entry that boots next, and its text.
fn next_entry(machine: &mut Machine) -> (String, String) {
    let status = Status::of(machine).unwrap();
    let next = status.next.clone().unwrap();
    let all = [&status.booted, &status.staged, &status.rollback];
    let mut all = all.into_iter().flatten().chain(&status.others);
    let name = all.find(|deployment| deployment.id == next).and_then(|next| next.boot_entry.clone());
    let name = name.unwrap_or_else(|| panic!("{status:?}"));
    let text = on_esp(machine, &format!("cat loader/entries/{name}"));
    (name, text)
}

/// Starts a machine, and cuts its power when the loader has started the kernel.
fn boot_in_vain(config: &Config) {
    let mut machine = Machine::start(config).unwrap();
    machine.wait_for_console("EFI stub: Loaded initrd", BOOT_TIMEOUT).unwrap();
    machine.cut_power();
}

/// Boots a machine with what boots next, in vain at first; makes sure that the loader has counted both boots, and counts no more when
/// the second is good. Returns the name of the entry, which is then without a counter.
fn boot_counted(machine: Machine, config: &Config) -> (Machine, String) {
    machine.power_off().unwrap();
    boot_in_vain(config);
    let mut machine = Machine::boot(config).unwrap();
    let counted = loader_variable(&mut machine, "LoaderBootCountPath");
    assert!(counted.ends_with("+1-2.conf"), "the loader has not counted twice: {counted}");
    let entry = wait_until_blessed(&mut machine).unwrap();
    (machine, entry)
}

#[test]
fn system_of_the_uki_example_boots_upgrades_and_rolls_back() {
    let (lab, _turn) = shared();
    let (registry, directory) = (lab.registry(1).unwrap(), TempDir::new().unwrap());
    let config = lab.installed_example(Example::Uki, &registry, directory.path()).unwrap();
    let mut machine = Machine::boot(&config).unwrap();
    let status = expect_running(&mut machine, "1").unwrap();
    // Nothing but the UKI says what boots, and the root was found by the type of its partition.
    let (_, entry) = next_entry(&mut machine);
    assert!(entry.contains("\nefi /EFI/osupdate/") && !entry.contains("\noptions"), "{entry}");
    let id = status.booted.unwrap().id;
    assert_eq!(machine.output("cat /proc/cmdline").unwrap(), format!("composefs.digest=v1-sha512-12:{id} rw"));

    lab.publish_example(&registry, Example::Uki, 2, None).unwrap();
    osupdate(&mut machine, "upgrade").unwrap();
    machine.reboot().unwrap();
    expect_running(&mut machine, "2").unwrap();
    wait_until_blessed(&mut machine).unwrap();
    osupdate(&mut machine, "rollback").unwrap();
    machine.reboot().unwrap();
    let status = expect_running(&mut machine, "1").unwrap();
    assert_eq!(status.rollback_version(), Some("2"), "{status:?}");
}

/// Gives the machine a second disk to boot from: an ESP with the same loaders, and a part of the root.
const ADD_DISK: &str = "set -e
    printf 'label: gpt\\nsize=256M, type=uefi\\ntype=linux\\n' | sfdisk --quiet /dev/vdb
    udevadm settle
    mkfs.vfat -F 32 /dev/vdb1
    mkdir -p /run/first /run/second /run/root
    mount /dev/vda1 /run/first
    mount /dev/vdb1 /run/second
    mkdir /run/second/EFI
    cp -r /run/first/EFI/BOOT /run/first/EFI/systemd /run/second/EFI
    umount /run/first /run/second
    mount /dev/vda2 /run/root
    btrfs device add /dev/vdb2 /run/root
    umount /run/root";

/// Makes an entry that was given up out of the one that boots next: it would be the first if the loader did not see that.
const ADD_BAD_ENTRY: &str = "cd loader/entries
    name=$(echo osupdate-*-000002.conf)
    sed 's/^version .*/version 999999-bad/' $name > ${name%-000002.conf}-000009+0-3.conf";

#[test]
fn system_of_the_unified_example_upgrades_and_rolls_back_while_its_boot_loaders_change_on_two_disks() {
    let (lab, _turn) = shared();
    let Some(systemd) = next_release::get().unwrap() else { return };
    let (registry, directory) = (lab.registry(1).unwrap(), TempDir::new().unwrap());
    let mut config = lab.installed_example(Example::Unified, &registry, directory.path()).unwrap();
    let second = directory.path().join("second.raw");
    empty_disk(&second, DISK_BYTES).unwrap();
    config.disks.push(Disk::new(&second, DiskFormat::Raw));
    let mut machine = Machine::boot(&config).unwrap();
    expect_running(&mut machine, "1").unwrap();
    machine.output(ADD_DISK).unwrap();
    let told = loader_variable(&mut machine, "LoaderInfo");
    assert!(told.starts_with("systemd-boot 257"), "{told}");

    // The older loader does not know the key `uki`, and counts the boots of entries with `efi`.
    lab.publish_example(&registry, Example::Unified, 2, Some(&systemd)).unwrap();
    osupdate(&mut machine, "upgrade").unwrap();
    let (name, entry) = next_entry(&mut machine);
    assert!(name.contains("+3-0") && entry.contains("\nefi /EFI/osupdate/"), "{name}: {entry}");
    let (mut machine, _) = boot_counted(machine, &config);
    expect_running(&mut machine, "2").unwrap();

    // Its image has a newer one, which reads the counter of an entry with `uki` only.
    on_esp(&mut machine, ADD_BAD_ENTRY);
    let status = osupdate(&mut machine, "bootloader status").unwrap();
    assert_eq!(status.matches("older\n").count(), 4, "{status}");
    let updated = osupdate(&mut machine, "bootloader update").unwrap();
    let replaced = |disk: &str| updated.matches(&format!("on the ESP (/dev/{disk}1): 257")).count();
    assert_eq!((replaced("vda"), replaced("vdb")), (2, 2), "{updated}");
    let status = osupdate(&mut machine, "bootloader status").unwrap();
    assert_eq!(status.matches("current\n").count(), 4, "{status}");
    let bad = on_esp(&mut machine, "cat loader/entries/*+0-3.conf");
    assert!(bad.contains("\nuki /EFI/osupdate/"), "{bad}");
    let again = osupdate(&mut machine, "bootloader update").unwrap();
    assert!(again.contains("Nothing to do."), "{again}");

    osupdate(&mut machine, "rollback").unwrap();
    let (_, entry) = next_entry(&mut machine);
    assert!(entry.contains("\nuki /EFI/osupdate/"), "{entry}");
    machine.reboot().unwrap();
    expect_running(&mut machine, "1").unwrap();
    let told = loader_variable(&mut machine, "LoaderInfo");
    assert!(!told.starts_with("systemd-boot 257"), "{told}");

    // An entry of before somebody else has replaced the loaders: it gets the other key, and with it a longer name.
    osupdate(&mut machine, "upgrade").unwrap();
    let (name, entry) = next_entry(&mut machine);
    assert!(name.contains("+3-0") && entry.contains("\nuki /EFI/osupdate/"), "{name}: {entry}");
    on_esp(&mut machine, &format!("sed -i 's/^uki /efi /' loader/entries/{name}"));
    let updated = osupdate(&mut machine, "bootloader update").unwrap();
    assert!(updated.contains("newer than in the image, left as they are"), "{updated}");
    let (longer, entry) = next_entry(&mut machine);
    assert!(longer.len() == name.len() + 1 && longer.contains("+3-0"), "{name}, {longer}");
    assert!(entry.contains("\nuki /EFI/osupdate/"), "{entry}");
    let (mut machine, blessed) = boot_counted(machine, &config);
    expect_running(&mut machine, "2").unwrap();
    assert_eq!(blessed, longer.replace("+3-0", ""));

    // What does not come up is given up after its three tries.
    let good = Status::of(&mut machine).unwrap().booted.unwrap().id;
    lab.publish_as(&registry, &lab.images().example(Example::Uki, 2, None).unwrap(), Example::Unified.name()).unwrap();
    osupdate(&mut machine, "upgrade").unwrap();
    let (name, entry) = next_entry(&mut machine);
    assert!(name.contains("+3-0") && entry.contains("\nuki /EFI/osupdate/"), "{name}: {entry}");
    machine.power_off().unwrap();
    (0..3).for_each(|_| boot_in_vain(&config));
    let mut machine = Machine::boot(&config).unwrap();
    assert_eq!(expect_running(&mut machine, "2").unwrap().booted.unwrap().id, good);
    on_esp(&mut machine, &format!("test -e loader/entries/{}", name.replace("+3-0", "+0-3")));
    let human = machine.output("osupdate status").unwrap();
    assert!(human.contains("the boot loader gave up on it after failed boots"), "{human}");
}

#[test]
fn system_of_the_secure_boot_example_enrols_its_keys_and_takes_no_upgrade_that_they_did_not_sign() {
    let (lab, _turn) = shared();
    let (registry, directory) = (lab.registry(1).unwrap(), TempDir::new().unwrap());
    let config = lab.installed_example(Example::UnifiedSecureBoot, &registry, directory.path()).unwrap();
    // In setup mode the loader enrols the keys that it finds on the ESP, and starts the machine anew.
    let variables = directory.path().join("variables");
    secure_boot::without_keys(&variables).unwrap();
    let config = Config { boot: Boot::SecureBoot { variables }, ..config };
    let mut machine = Machine::boot(&config).unwrap();
    expect_running(&mut machine, "1").unwrap();
    let global =
        |name| format!("od -An -tu1 -j4 /sys/firmware/efi/efivars/{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    assert_eq!(machine.output(&global("SecureBoot")).unwrap().trim(), "1");
    assert_eq!(machine.output(&global("SetupMode")).unwrap().trim(), "0");
    let db = "cat /sys/firmware/efi/efivars/db-d719b2cb-3d3a-4596-a3bc-dad00e67656f | tail -c +5 | sha256sum | cut -d' ' -f1";
    assert_eq!(machine.output(db).unwrap(), sha256(&keys().join("db.esl")), "db has what the example made");

    // The same system, not signed.
    let name = Example::UnifiedSecureBoot.name();
    lab.publish_as(&registry, &lab.images().example(Example::Uki, 2, None).unwrap(), name).unwrap();
    let reply = machine.run("osupdate upgrade 2>&1").unwrap();
    assert_eq!(reply.status, 1, "{}", reply.stdout);
    assert!(reply.stdout.contains("Secure Boot of this machine would refuse"), "{}", reply.stdout);
    assert!(Status::of(&mut machine).unwrap().staged.is_none());

    lab.publish_example(&registry, Example::UnifiedSecureBoot, 2, None).unwrap();
    osupdate(&mut machine, "upgrade").unwrap();
    machine.reboot().unwrap();
    expect_running(&mut machine, "2").unwrap();
    assert_eq!(machine.output(&global("SecureBoot")).unwrap().trim(), "1");
    wait_until_blessed(&mut machine).unwrap();
    osupdate(&mut machine, "rollback").unwrap();
    machine.reboot().unwrap();
    expect_running(&mut machine, "1").unwrap();
}

fn sha256(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}
