//! A machine's life, in virtual machines with real firmware: named after what a machine does.
//!
//! All tests share the images and a disk on which version 1 was installed; each has a copy-on-write copy of it.

use std::time::Duration;

use osupdate_tests::disk;
use osupdate_tests::journey::{
    Status, expect_local_changes, expect_running, image_of, large_file, make_local_changes, object_of, osupdate,
    wait_until_blessed,
};
use osupdate_tests::lab::{DISK_BYTES, empty_disk, flatten, install, install_command, reference, shared};
use osupdate_tests::machine::{Boot, Config, Disk, DiskFormat, Machine};
use osupdate_tests::signing::SigningKey;
use osupdate_tests::tree;
use tempfile::TempDir;

fn directory() -> TempDir {
    TempDir::new().unwrap()
}

#[test]
fn installed_machine_boots_verified_upgrades_with_its_etc_and_var_rolls_back_and_goes_forward() {
    let (lab, _turn) = shared();
    let (registry, directory) = (lab.registry(1).unwrap(), directory());
    let config = lab.installed("upgraded", &registry, directory.path()).unwrap();
    let mut machine = Machine::boot(&config).unwrap();
    let status = expect_running(&mut machine, "1").unwrap();
    let booted = status.booted.as_ref().unwrap();
    assert_eq!(booted.image.reference, reference());
    assert!(booted.image.manifest_digest.starts_with("sha256:"), "{status:?}");
    assert!(status.staged.is_none() && status.rollback.is_none() && status.others.is_empty(), "{status:?}");
    assert_eq!(machine.output("findmnt --noheadings --output FSTYPE --mountpoint /etc").unwrap(), "overlay");
    // status needs no privileges.
    let human = machine.output("setpriv --reuid=65534 --clear-groups osupdate status").unwrap();
    assert!(human.contains("verified    yes") && human.contains("os:latest"), "{human}");
    assert_eq!(machine.output("osupdate repo fsck >/dev/null 2>&1; echo $?").unwrap(), "0");

    make_local_changes(&mut machine).unwrap();
    let nothing = osupdate(&mut machine, "upgrade").unwrap();
    assert!(Status::of(&mut machine).unwrap().staged.is_none(), "{nothing}");

    lab.publish(&registry, 2).unwrap();
    osupdate(&mut machine, "upgrade").unwrap();
    let status = Status::of(&mut machine).unwrap();
    assert_eq!((status.booted_version(), status.staged_version()), (Some("1"), Some("2")), "{status:?}");
    // What is changed between staging and reboot counts too.
    machine.output("echo late > /etc/added.d/late.conf").unwrap();

    machine.reboot().unwrap();
    let status = expect_running(&mut machine, "2").unwrap();
    assert_eq!(status.rollback_version(), Some("1"), "{status:?}");
    expect_local_changes(&mut machine, "2").unwrap();
    assert_eq!(machine.output("cat /etc/added.d/late.conf").unwrap(), "late");
    machine.output("echo 'only with version 2' > /etc/added.d/second.conf").unwrap();
    // The boot was good: the loader no longer counts it.
    wait_until_blessed(&mut machine).unwrap();

    osupdate(&mut machine, "rollback").unwrap();
    machine.reboot().unwrap();
    let status = expect_running(&mut machine, "1").unwrap();
    assert_eq!(status.rollback_version(), Some("2"), "{status:?}");
    expect_local_changes(&mut machine, "1").unwrap();
    machine.output("test ! -e /etc/added.d/second.conf").unwrap();

    osupdate(&mut machine, "rollback").unwrap();
    machine.reboot().unwrap();
    expect_running(&mut machine, "2").unwrap();
    expect_local_changes(&mut machine, "2").unwrap();
    assert_eq!(machine.output("cat /etc/added.d/second.conf").unwrap(), "only with version 2");
}

#[test]
fn flipped_byte_of_an_object_gives_an_io_error_until_repaired_and_one_of_the_image_refuses_the_boot() {
    let (lab, _turn) = shared();
    let (registry, directory) = (lab.registry(1).unwrap(), directory());
    let config = lab.installed("damaged", &registry, directory.path()).unwrap();
    let raw = directory.path().join("disk.raw");
    flatten(&config.disks[0], &raw).unwrap();
    let config = Config { disks: vec![Disk::new(&raw, DiskFormat::Raw)], ..config };

    let object = object_of(&large_file(1));
    disk::flip_byte(&raw, &object, 200_000).unwrap();
    let mut machine = Machine::boot(&config).unwrap();
    let status = expect_running(&mut machine, "1").unwrap();
    let reply = machine.run("cat /usr/share/versions/large > /tmp/copy").unwrap();
    assert_ne!(reply.status, 0, "reading a damaged file should fail");
    assert!(reply.stderr.contains("Input/output error"), "{}", reply.stderr);
    let wrong = machine.output("tr -d 1 < /tmp/copy | wc -c").unwrap();
    assert_eq!(wrong, "0", "wrong data was read");
    let fsck = machine.run("osupdate repo fsck 2>&1").unwrap();
    assert_eq!(fsck.status, 3, "{}", fsck.stdout);
    assert!(fsck.stdout.contains(&object["/composefs/objects/".len()..]), "{}", fsck.stdout);

    // The running system fetches what is damaged, in its sealed repository. It has the damaged file open until it reboots.
    let repair = format!("osupdate repo fsck --plain-http --repair {} 2>&1", reference());
    let reply = machine.run_for(&repair, Duration::from_secs(300)).unwrap();
    assert_eq!(reply.status, 0, "{}", reply.stdout);
    let booted = status.booted.unwrap();
    // Nothing that boots is garbage, not even without any tag.
    machine.output("osupdate repo gc 2>&1").unwrap();
    machine
        .output(&format!(
            "export COPY=/var/tmp/copy; osupdate repo init --repo $COPY && osupdate repo fsck --repo $COPY &&
             osupdate repo copy --repo $COPY /sysroot/composefs {} && osupdate repo fsck --repo $COPY && rm -r $COPY",
            booted.image.manifest_digest
        ))
        .unwrap();
    machine.reboot().unwrap();
    expect_running(&mut machine, "1").unwrap();
    assert_eq!(machine.output("tr -d 1 < /usr/share/versions/large | wc -c").unwrap(), "0");
    assert_eq!(machine.output("osupdate repo fsck >/dev/null 2>&1; echo $?").unwrap(), "0");
    machine.power_off().unwrap();

    let id = booted.id;
    disk::flip_byte(&raw, &image_of(&id), 70_000).unwrap();
    let mut machine = Machine::start(&config).unwrap();
    let message = format!("expected the fs-verity digest {id}");
    machine.wait_for_console(&message, Duration::from_secs(180)).unwrap();
    // It must stay down, not come up a little later.
    assert!(machine.wait_until_up_for(Duration::from_secs(40)).is_err(), "the machine came up on a damaged image");
}

#[test]
fn machine_that_requires_signatures_takes_no_other_image_and_no_older_one_until_told() {
    let (lab, _turn) = shared();
    let (registry, directory) = (lab.registry(1).unwrap(), directory());
    let config = lab.installed("signed", &registry, directory.path()).unwrap();
    let mut machine = Machine::boot(&config).unwrap();
    expect_running(&mut machine, "1").unwrap();
    let human = machine.output("osupdate status; osupdate list").unwrap();
    for part in ["signed      by Makers of the test image", "openpgp key", "SIGNED BY"] {
        assert!(human.contains(part), "{part:?} is not in: {human}");
    }
    let refused = |machine: &mut Machine, command: &str, parts: &[&str]| {
        let reply = machine.run(&format!("osupdate {command} 2>&1")).unwrap();
        assert_eq!(reply.status, 1, "{command}: {}", reply.stdout);
        for part in parts {
            assert!(reply.stdout.contains(part), "{command}: {part:?} is not in: {}", reply.stdout);
        }
        assert!(Status::of(machine).unwrap().staged.is_none(), "{command}");
    };

    // Stripped on the way, signed by somebody else, signed as something else.
    lab.publish(&registry, 2).unwrap();
    registry.signatures().strip().unwrap();
    refused(&mut machine, "upgrade", &["os:latest", "no OpenPGP signature"]);
    refused(&mut machine, "upgrade --check", &["no OpenPGP signature"]);
    let stranger = SigningKey::get(&directory.path().join("key"), "A stranger <stranger@example.com>").unwrap();
    lab.publish_signed(&registry, 2, &stranger).unwrap();
    refused(&mut machine, "upgrade", &[stranger.fingerprint()]);
    lab.publish(&registry, 2).unwrap();
    lab.publish_unsigned(&registry, 2, "os:other").unwrap();
    refused(&mut machine, "switch --plain-http docker://10.0.2.100:5000/os:other", &["os:other", "os:latest"]);

    // Not even where the policy has become lax, unless the user says so for the image that he names.
    let lax = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
    machine
        .output(&format!("cp /etc/containers/policy.json /run/policy && echo '{lax}' > /etc/containers/policy.json"))
        .unwrap();
    refused(&mut machine, "upgrade", &["must be signed since", "switch --allow-unsigned-image"]);
    let other = "switch --plain-http docker://10.0.2.100:5000/os:other";
    refused(&mut machine, other, &["must be signed", "--allow-unsigned-image"]);
    let dropped = osupdate(&mut machine, &format!("{other} --allow-unsigned-image")).unwrap();
    assert!(dropped.contains("until now they did") && dropped.contains("NOT SIGNED"), "{dropped}");
    let human = machine.output("osupdate status").unwrap();
    assert!(human.contains("signed      NO: the user has allowed that"), "{human}");

    machine.output("cat /run/policy > /etc/containers/policy.json").unwrap();
    osupdate(&mut machine, &format!("switch --plain-http {}", reference())).unwrap();
    let human = machine.output("osupdate status").unwrap();
    assert!(!human.contains("signed      NO"), "{human}");
    machine.reboot().unwrap();
    expect_running(&mut machine, "2").unwrap();

    lab.publish(&registry, 1).unwrap();
    refused(&mut machine, "upgrade", &["(version 1", "older", "(version 2", "--allow-downgrade"]);
    osupdate(&mut machine, "upgrade --allow-downgrade").unwrap();
    assert_eq!(Status::of(&mut machine).unwrap().staged_version(), Some("1"));
}

#[test]
fn machine_follows_an_image_in_a_published_tree() {
    let (lab, _turn) = shared();
    let (registry, directory) = (lab.registry(1).unwrap(), directory());
    let config = lab.installed("published", &registry, directory.path()).unwrap();
    let mut machine = Machine::boot(&config).unwrap();
    expect_running(&mut machine, "1").unwrap();
    lab.publish_in_tree(&registry, 1).unwrap();
    let switch = format!("osupdate switch --plain-http {} 2>&1", tree::reference());
    let refused = machine.run(&switch).unwrap();
    assert!(refused.status == 1 && refused.stdout.contains("policy"), "{}", refused.stdout);
    machine.output(&tree::trust()).unwrap();
    // The same image: nothing but where it comes from is another.
    machine.output(&switch).unwrap();
    let status = Status::of(&mut machine).unwrap();
    assert!(status.staged.is_none(), "{status:?}");
    assert_eq!(status.booted.unwrap().image.reference, tree::reference());

    lab.publish_in_tree(&registry, 2).unwrap();
    let check = machine.run("osupdate upgrade --check 2>&1").unwrap();
    assert_eq!(check.status, 3, "{}", check.stdout);
    osupdate(&mut machine, "upgrade").unwrap();
    machine.reboot().unwrap();
    let status = expect_running(&mut machine, "2").unwrap();
    assert_eq!(status.booted.unwrap().image.reference, tree::reference());
    let nothing = machine.output("osupdate upgrade 2>&1").unwrap();
    assert!(nothing.contains("No update available"), "{nothing}");
    assert_eq!(machine.output("osupdate repo fsck >/dev/null 2>&1; echo $?").unwrap(), "0");
}

#[test]
fn upgrade_without_space_changes_nothing_and_a_killed_one_is_completed_by_the_next() {
    let (lab, _turn) = shared();
    let (registry, directory) = (lab.registry(1).unwrap(), directory());
    let config = lab.installed("interrupted", &registry, directory.path()).unwrap();
    let mut machine = Machine::boot(&config).unwrap();
    lab.publish(&registry, 2).unwrap();

    machine
        .output(
            "mkdir /run/esp && mount $(blkid --match-token TYPE=vfat --output device) /run/esp
             head -c 10G /dev/zero > /run/esp/filler 2>/dev/null; sync; ls /run/esp/loader/entries > /run/before",
        )
        .unwrap();
    let reply = machine.run_for("osupdate upgrade 2>&1", Duration::from_secs(600)).unwrap();
    assert_eq!(reply.status, 1, "{}", reply.stdout);
    assert!(reply.stdout.contains("space"), "{}", reply.stdout);
    assert_eq!(machine.output("ls /run/esp/loader/entries").unwrap(), machine.output("cat /run/before").unwrap());
    assert!(Status::of(&mut machine).unwrap().staged.is_none());
    machine.output("rm /run/esp/filler && umount /run/esp").unwrap();

    for seconds in ["0.2", "0.8"] {
        machine.run(&format!("timeout --signal=KILL {seconds} osupdate upgrade")).unwrap();
    }
    machine.cut_power();
    let mut machine = Machine::boot(&config).unwrap();
    // A fast machine has completed it before it was killed.
    if Status::of(&mut machine).unwrap().booted_version() == Some("1") {
        expect_running(&mut machine, "1").unwrap();
        osupdate(&mut machine, "upgrade").unwrap();
        assert_eq!(machine.output("osupdate repo fsck >/dev/null 2>&1; echo $?").unwrap(), "0");
        machine.reboot().unwrap();
    }
    expect_running(&mut machine, "2").unwrap();
}

#[test]
fn installation_refuses_what_is_wrong_and_makes_a_btrfs_root_found_by_its_partition_type() {
    let (lab, _turn) = shared();
    let (registry, directory) = (lab.registry(1).unwrap(), directory());
    let (small, target) = (directory.path().join("small.raw"), directory.path().join("target.raw"));
    empty_disk(&small, 300 << 20).unwrap();
    empty_disk(&target, DISK_BYTES).unwrap();
    let mut installer = lab.installer(&[&small, &target], &registry).unwrap();
    let mut refused = |command: &str, parts: &[&str]| {
        let reply = installer.run(&format!("{command} 2>&1")).unwrap();
        assert_ne!(reply.status, 0, "{command}");
        for part in parts {
            assert!(reply.stdout.contains(part), "{command}: {part:?} is not in: {}", reply.stdout);
        }
        assert_eq!(installer.output("wipefs --noheadings /dev/vdb").unwrap(), "", "{command} wrote to the disk");
    };
    refused(&install_command("/dev/vdb", ""), &["/dev/vdb", "too small"]);
    refused(&install_command("/dev/vda", ""), &["/dev/vda", "in use"]);
    refused(&install_command("/dev/none", ""), &["/dev/none"]);
    let source = |source: &str| format!("osupdate install to-disk --plain-http --source docker://{source} /dev/vdb");
    refused(&source("10.0.2.100:5000/os:none"), &["none", "latest"]);
    refused(&source("10.0.2.100:1/os:latest"), &["10.0.2.100:1"]);
    refused("osupdate install to-disk --source docker://10.0.2.100:5000/os:latest /dev/vdb", &["--plain-http"]);
    refused("setpriv --reuid=65534 --clear-groups osupdate install to-disk --source oci:/tmp /dev/vdb", &["root"]);
    refused("osupdate upgrade", &["not an osupdate system"]);

    installer.output("mkfs.ext4 -q /dev/vdc").unwrap();
    let command = install_command("/dev/vdc", "--filesystem btrfs --root-mount-spec auto");
    let reply = installer.run(&format!("{command} 2>&1")).unwrap();
    assert!(reply.status != 0 && reply.stdout.contains("--wipe"), "{}", reply.stdout);
    install(&mut installer, &command.replace("to-disk", "to-disk --wipe")).unwrap();
    installer.power_off().unwrap();

    let config = Config {
        name: "btrfs".to_owned(),
        boot: Boot::Firmware,
        disks: vec![Disk::new(&target, DiskFormat::Raw)],
        network: Some(registry.network()),
        ..Config::default()
    };
    let mut machine = Machine::boot(&config).unwrap();
    expect_running(&mut machine, "1").unwrap();
    assert_eq!(machine.output("findmnt --noheadings --output FSTYPE --mountpoint /sysroot").unwrap(), "btrfs");
    assert!(!machine.output("cat /proc/cmdline").unwrap().contains("root="));
}
