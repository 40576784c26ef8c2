//! Sealed systems under attack, in virtual machines whose firmware has Secure Boot with keys of our own.
//!
//! Attackers here write to every disk, while the machine is off or as root in it, and have no key. `efi/SEALING.md` says
//! which of these tests shows what.

use std::fs;
use std::path::Path;
use std::process::Command;

use osupdate_tests::guest::BOOT_TIMEOUT;
use osupdate_tests::journey::{expect_running, image_of, large_file, object_of};
use osupdate_tests::lab::{Lab, shared};
use osupdate_tests::machine::{Boot, Config, Disk, DiskFormat, Machine};
use osupdate_tests::sealed::Sealed;
use osupdate_tests::secure_boot::{Keys, Role};
use osupdate_tests::{disk, initrd, tool, uki};
use tempfile::TempDir;

/// Begins what attackers add to the kernel command line.
const MARK: &str = "osupdate.attack";
/// What their programs make, if they run.
const ATTACKED: &str = "/run/attacked";
/// Where version 1 has the stub, a file that nothing needs.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// The same program with some bytes of it changed, its signature as it was.
fn patched(program: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let places: Vec<usize> = (0..=program.len() - old.len()).filter(|at| program[*at..].starts_with(old)).collect();
    let [place] = places[..] else { panic!("what is to be changed is there {} times", places.len()) };
    let mut program = program.to_vec();
    program[place..place + new.len()].copy_from_slice(new);
    program
}

/// Programs that the firmware should refuse, by what is wrong with them.
fn forgeries(lab: &Lab, sealed: &Sealed, keys: &Keys, revoked: Vec<u8>) -> [(&'static str, Vec<u8>); 5] {
    let genuine = sealed.program().unwrap();
    let initrd = fs::read(lab.images().initrd()).unwrap();
    let unsigned = uki::build(lab.images(), &format!("{} {MARK}=unsigned", sealed.command_line)).unwrap();
    [
        ("signed by a stranger", uki::sign(&unsigned, keys, Role::Stranger).unwrap()),
        ("unsigned", unsigned),
        ("with another command line", patched(&genuine, b"console=ttyS0", b"init=/bin/sh ")),
        ("with another initramfs", patched(&genuine, &initrd[..512], &[b'x'; 512])),
        ("revoked", revoked),
    ]
}

/// Puts beside loader and UKI whatever they look at, none of it signed by the owner.
fn add_to_esp(lab: &Lab, sealed: &Sealed, keys: &Keys, directory: &Path) {
    let put = |path: &str, contents: &[u8]| disk::write_esp(&sealed.disk, path, contents).unwrap();
    let beside = format!("{}.extra.d", sealed.uki);
    let addon = |text: &str| uki::build_addon(lab.images(), &format!("{MARK}={text}")).unwrap();
    put(&format!("{beside}/attack.addon.efi"), &addon("unsigned"));
    put("loader/addons/attack.addon.efi", &uki::sign(&addon("stranger"), keys, Role::Stranger).unwrap());
    // Credentials that make systemd run a program.
    let unit = format!("[Service]\nExecStart=/usr/bin/touch {ATTACKED}\n");
    put("loader/credentials/systemd.extra-unit.attack.service.cred", unit.as_bytes());
    let wants = "[Unit]\nWants=attack.service\n";
    put("loader/credentials/systemd.unit-dropin.multi-user.target.cred", wants.as_bytes());
    put(&format!("{beside}/tmpfiles.extra.cred"), format!("f {ATTACKED}\n").as_bytes());
    put(&format!("{beside}/attack.sysext.raw"), &extension(directory));
    put("EFI/systemd/drivers/attackx64.efi", &fs::read(lab.images().loader()).unwrap());
    // What the firmware would take in setup mode.
    put("loader/loader.conf", b"timeout 0\nsecure-boot-enroll force\n");
    for name in ["PK", "KEK", "db"] {
        put(&format!("loader/keys/auto/{name}.auth"), &keys.unsigned_update(Role::Stranger).unwrap());
    }
    sealed.edit_entry(&format!("options {MARK}=entry init=/bin/sh")).unwrap();
}

/// A system extension with a file in /usr.
fn extension(directory: &Path) -> Vec<u8> {
    let (root, image) = (directory.join("extension"), directory.join("extension.raw"));
    fs::create_dir_all(root.join("usr/lib/extension-release.d")).unwrap();
    fs::write(root.join("usr/lib/extension-release.d/extension-release.attack"), "ID=_any\n").unwrap();
    fs::write(root.join("usr/attacked"), "").unwrap();
    tool::run(Command::new("mkfs.erofs").arg(&image).arg(&root)).unwrap();
    fs::read(&image).unwrap()
}

/// An initramfs that is nothing but a program which systemd starts early.
fn hostile_initrd(directory: &Path) -> Vec<u8> {
    let root = directory.join("initrd");
    let generators = root.join("usr/lib/systemd/system-generators");
    fs::create_dir_all(&generators).unwrap();
    fs::write(generators.join("attack"), format!("#!/bin/sh\necho {MARK}=initrd > /dev/kmsg\n")).unwrap();
    tool::run(Command::new("chmod").args(["-R", "0755"]).arg(&root)).unwrap();
    initrd::archive(&root, &["usr".into()]).unwrap()
}

/// Makes sure that the sealed system runs, enforced by the firmware, and nothing of the attackers'.
fn expect_untouched(machine: &mut Machine, sealed: &Sealed) {
    let enforced = "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    assert_eq!(machine.output(enforced).unwrap().trim(), "1");
    assert_eq!(machine.output("cat /proc/cmdline").unwrap(), sealed.command_line);
    expect_running(machine, "1").unwrap();
    machine.output(&format!("test ! -e {ATTACKED} -a ! -e /usr/attacked")).unwrap();
    assert!(!machine.console().unwrap().contains(MARK));
}

/// Makes sure that a file cannot be read, and that no wrong byte of it can.
fn expect_io_error(machine: &mut Machine, file: &str) {
    let reply = machine.run(&format!("cat {file} > /tmp/copy")).unwrap();
    assert!(reply.status != 0 && reply.stderr.contains("Input/output error"), "{file}: {reply:?}");
}

#[test]
fn forged_programs_are_refused_by_the_firmware_and_unsigned_things_beside_the_uki_are_ignored() {
    let (lab, _turn) = shared();
    let (directory, keys) = (TempDir::new().unwrap(), lab.images().secure_boot_keys());
    let sealed = Sealed::make(lab, directory.path()).unwrap();
    let revoked = uki::build(lab.images(), &format!("{} {MARK}=revoked", sealed.command_line)).unwrap();
    let revoked = uki::sign(&revoked, keys, Role::Db).unwrap();
    let variables = directory.path().join("variables");
    keys.enroll(&variables, &[uki::digest(&revoked).unwrap()]).unwrap();

    // The firmware tries one medium after the other.
    let forgeries = forgeries(lab, &sealed, keys, revoked);
    let mut disks = Vec::new();
    for (what, program) in &forgeries {
        let medium = directory.path().join(format!("{what}.raw"));
        disk::bootable_disk(&medium, program).unwrap();
        disks.push(Disk::snapshot(medium, DiskFormat::Raw));
    }
    disks.push(Disk::new(&sealed.disk, DiskFormat::Raw));
    add_to_esp(lab, &sealed, keys, directory.path());
    disk::flip_byte(&sealed.disk, &object_of(&large_file(1)), 200_000).unwrap();
    let boot = Boot::SecureBoot { variables };
    let config = Config { name: "attacked".to_owned(), boot: boot.clone(), disks, ..Config::default() };
    let mut machine = Machine::boot(&config).unwrap();
    let console = machine.console().unwrap();
    let refused = console.lines().filter(|line| line.contains("failed to load") && line.contains("Access Denied"));
    assert_eq!(refused.count(), forgeries.len(), "{console}");
    expect_untouched(&mut machine, &sealed);
    // The lists of keys are the owner's still.
    let db =
        "cat /sys/firmware/efi/efivars/db-d719b2cb-3d3a-4596-a3bc-dad00e67656f | tail -c +5 | sha256sum | cut -c-64";
    assert_eq!(machine.output(db).unwrap(), keys.db_digest().unwrap());

    // Files of the repository: one changed on the disk, one exchanged by root.
    expect_io_error(&mut machine, "/usr/share/versions/large");
    let object = format!("/sysroot{}", object_of(&fs::read(lab.images().stub()).unwrap()));
    machine
        .output(&format!(
            "mount -o remount,rw /sysroot && cp {object} {object}.new && echo attack >> {object}.new &&
             mv {object}.new {object} && echo 3 > /proc/sys/vm/drop_caches"
        ))
        .unwrap();
    expect_io_error(&mut machine, STUB);

    // And the image: a copy that is not verified in its place, while a UKI that is signed finds it as another one.
    let (image, other) = (image_of(&sealed.id), "5".repeat(128));
    let other_image = image_of(&other);
    machine
        .output(&format!(
            "cd /sysroot && mkdir -p composefs/objects/55 && ln .{image} .{other_image} &&
             ln -s ..{} composefs/images/{other} && cp .{image} copy && mv copy .{image} && sync",
            &other_image["/composefs".len()..]
        ))
        .unwrap();
    machine.cut_power();
    let line = sealed.command_line.replace(&sealed.id, &other);
    let signed = uki::sign(&uki::build(lab.images(), &line).unwrap(), keys, Role::Db).unwrap();
    disk::write_esp(&sealed.disk, "EFI/osupdate/other.efi", &signed).unwrap();
    let entry = "title other\nversion 9\nsort-key osupdate\nefi /EFI/osupdate/other.efi\n";
    disk::write_esp(&sealed.disk, "loader/entries/other+1-0.conf", entry.as_bytes()).unwrap();
    let config = Config { disks: vec![Disk::new(&sealed.disk, DiskFormat::Raw)], ..config };
    let mut machine = Machine::start(&config).unwrap();
    machine.wait_for_console(&format!("expected the fs-verity digest {other}"), BOOT_TIMEOUT).unwrap();
    // That was the only try: the loader goes on to the other one.
    machine.wait_for_console(&format!("expected the fs-verity digest {}", sealed.id), BOOT_TIMEOUT).unwrap();
    // And there it stays, with no shell for whoever sits before it.
    machine.wait_for_console("the root account is locked", BOOT_TIMEOUT).unwrap();
}

#[test]
fn loader_gives_neither_an_unsigned_uki_nor_another_initramfs_to_the_kernel() {
    let (lab, _turn) = shared();
    let (directory, keys) = (TempDir::new().unwrap(), lab.images().secure_boot_keys());
    let sealed = Sealed::make(lab, directory.path()).unwrap();
    let variables = directory.path().join("variables");
    keys.enroll(&variables, &[]).unwrap();
    let put = |path: &str, contents: &[u8]| disk::write_esp(&sealed.disk, path, contents).unwrap();
    let entry = |name: &str, version: u8, rest: &str| {
        let text = format!("title {name}\nversion {version}\nsort-key osupdate\n{rest}\n");
        put(&format!("loader/entries/{name}.conf"), text.as_bytes());
    };
    put("EFI/osupdate/unsigned.efi", &uki::build(lab.images(), &sealed.command_line).unwrap());
    entry("osupdate-a+1-0", 99, "efi /EFI/osupdate/unsigned.efi");
    put("EFI/osupdate/initrd", &hostile_initrd(directory.path()));
    let with = format!("linux /{}\ninitrd /EFI/osupdate/initrd\noptions {MARK}=entry", sealed.uki);
    entry("osupdate-b", 9, &with);
    let disks = vec![Disk::new(&sealed.disk, DiskFormat::Raw)];
    let config = Config { name: "loader".to_owned(), boot: Boot::SecureBoot { variables }, disks, ..Config::default() };
    let mut machine = Machine::start(&config).unwrap();
    // The first was tried in vain and counted, the second comes as far as the stub, which finds an initramfs there already.
    machine.wait_for_console("Error loading \\EFI\\osupdate\\unsigned.efi: Access denied", BOOT_TIMEOUT).unwrap();
    machine.wait_for_console("Error registering initrd: Already started", BOOT_TIMEOUT).unwrap();
    machine.cut_power();
    let entries = disk::esp_names(&sealed.disk, "/loader/entries").unwrap();
    assert!(entries.contains(&"osupdate-a+0-1.conf".to_owned()), "{entries:?}");
}
