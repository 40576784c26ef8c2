//! The life of a sealed machine, which has Secure Boot with keys of our own, a TPM, and a volume whose key the TPM gives only to
//! what the owner signed: in one virtual machine, from its installation on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osupdate_tests::guest::BOOT_TIMEOUT;
use osupdate_tests::journey::{Status, expect_running, osupdate, wait_until_blessed};
use osupdate_tests::lab::{DISK_BYTES, Lab, empty_disk, install, reference, shared};
use osupdate_tests::machine::{Boot, Config, Disk, DiskFormat, Machine};
use osupdate_tests::registry::Registry;
use osupdate_tests::secure_boot::{Keys, Role};
use osupdate_tests::{initrd, uki};
use tempfile::TempDir;

/// What the image's maker may never change on this machine: the ESP, and which deployments there are.
const WHAT_BOOTS: &str = "
    mkdir -p /run/esp && mount $(blkid --match-token TYPE=vfat --output device) /run/esp
    (cd /run/esp && find . -type f | sort | xargs sha256sum); umount /run/esp
    find /sysroot/state/deploy -maxdepth 2 | sort; sha256sum /sysroot/state/deploy/*/deployment.toml
    ls /sysroot/composefs/streams/refs/osupdate/deploy /sysroot/composefs/images/refs/osupdate/deploy";
/// Makes a volume. Its key is kept in the TPM, for every UKI with values of PCR 11 that the owner's key for policies has signed.
const SEAL_VOLUME: &str = "
    set -e; head -c 32 /dev/urandom > /run/key
    cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /run/key /dev/vdb
    systemd-cryptenroll --unlock-key-file=/run/key --tpm2-device=auto --tpm2-pcrs= \
        --tpm2-public-key=/run/systemd/tpm2-pcr-public-key.pem --tpm2-public-key-pcrs=11 /dev/vdb 2>&1
    cryptsetup open --key-file /run/key /dev/vdb volume && rm /run/key
    echo 'secret of the owner' > /dev/mapper/volume && cryptsetup close volume";
/// Makes what runs programs at each boot: a unit in /etc, and one in credentials on the ESP, encrypted with the key that everybody
/// has. And something in /var.
const ATTACK: &str = "
    set -e; mkdir -p /etc/systemd/system/multi-user.target.wants /var/lib/attack /run/esp
    printf '[Service]\\nExecStart=/usr/bin/touch /run/attacked-by-etc\\n' > /etc/systemd/system/attack.service
    ln -s ../attack.service /etc/systemd/system/multi-user.target.wants/
    mount $(blkid --match-token TYPE=vfat --output device) /run/esp; mkdir -p /run/esp/loader/credentials
    put() { systemd-creds encrypt --with-key=null --name=$1 - /run/esp/loader/credentials/$1.cred; }
    printf '[Service]\\nExecStart=/usr/bin/touch /run/attacked-by-credential\\n' | put systemd.extra-unit.credential.service
    printf '[Unit]\\nWants=credential.service\\n' | put systemd.unit-dropin.multi-user.target
    umount /run/esp; sync";
/// What the signed values of PCR 11 are of the UKI that runs.
const SIGNED_VALUES: &str = "/run/systemd/tpm2-pcr-signature.json";

/// How long an upgrade may take in an emulated machine.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(900);

/// Reads what is in the volume with nobody there who could be asked for a passphrase.
fn read_volume(machine: &mut Machine) -> Result<String, String> {
    let attach = "/usr/lib/systemd/systemd-cryptsetup attach volume /dev/vdb -";
    let reply = machine
        .run(&format!(
            "{attach} tpm2-device=auto,headless=true >&2 && head -n 1 /dev/mapper/volume &&
             /usr/lib/systemd/systemd-cryptsetup detach volume >&2"
        ))
        .unwrap();
    if reply.status == 0 { Ok(reply.stdout) } else { Err(reply.stderr) }
}

/// Makes sure that the machine runs this version with nothing but these kernel arguments, enforced by its firmware, and that it gets
/// into its volume.
fn expect_at_home(machine: &mut Machine, version: &str, command_line: &str) {
    expect_running(machine, version).unwrap();
    assert_eq!(machine.output("cat /proc/cmdline").unwrap(), command_line);
    let enforced = "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    assert_eq!(machine.output(enforced).unwrap().trim(), "1");
    assert_eq!(read_volume(machine).unwrap(), "secret of the owner\n", "version {version}");
}

/// Makes sure that osupdate itself refuses a command, for these reasons, with nothing changed of `before`.
fn expect_refused(machine: &mut Machine, command: &str, reasons: &[&str], before: &str) {
    let reply = machine.run_for(&format!("osupdate {command} 2>&1"), UPGRADE_TIMEOUT).unwrap();
    assert_eq!(reply.status, 1, "{command}: {}", reply.stdout);
    for reason in reasons {
        assert!(reply.stdout.contains(reason), "{command}: {reason:?} is not in: {}", reply.stdout);
    }
    assert_eq!(machine.output(WHAT_BOOTS).unwrap(), before, "{command}: {}", reply.stdout);
}

/// Puts a key with its certificate into a directory of the machine.
fn give_key(machine: &mut Machine, keys: &Keys, role: Role, directory: &str) {
    for (file, name) in [(keys.key(role), "local.key"), (keys.certificate(role), "local.crt")] {
        let text = fs::read_to_string(file).unwrap();
        machine
            .output(&format!("umask 077; mkdir -p {directory} && cat > {directory}/{name} <<'END'\n{text}END"))
            .unwrap();
    }
}

/// Installs version 1, sealed, onto a new disk.
fn installed(lab: &Lab, registry: &Registry, directory: &Path) -> PathBuf {
    let disk = directory.join("disk.raw");
    empty_disk(&disk, DISK_BYTES).unwrap();
    let mut installer = lab.installer(&[&disk], registry).unwrap();
    let command = format!("osupdate install to-disk --source {} --plain-http /dev/vdb", reference());
    let account = install(&mut installer, &command).unwrap();
    assert!(account.contains("It boots with /boot/EFI/Linux/os.efi of the image"), "{account}");
    installer.power_off().unwrap();
    disk
}

/// Files for an initramfs after which the machine has nothing of its own in /etc and /var.
fn transient_state(directory: &Path) -> PathBuf {
    let (root, archive) = (directory.join("initrd"), directory.join("initrd.cpio"));
    fs::create_dir_all(root.join("usr/lib/composefs")).unwrap();
    let settings = "[etc]\nmount = \"transient\"\n[var]\nmount = \"transient\"\n";
    fs::write(root.join("usr/lib/composefs/setup-root-conf.toml"), settings).unwrap();
    fs::write(&archive, initrd::archive(&root, &["usr".into()]).unwrap()).unwrap();
    archive
}

/// Makes sure that the attacker's credentials have reached the system, and are used for nothing.
fn expect_credentials_ignored(machine: &mut Machine) {
    let names = machine.output("ls /run/credentials/@encrypted").unwrap();
    assert!(names.contains("systemd.extra-unit.credential.service"), "{names}");
    let units = machine
        .output("systemctl is-system-running --wait; systemctl list-units --all attack.service credential.service")
        .unwrap();
    assert!(!units.contains("credential.service"), "{units}");
    machine.output("test ! -e /run/attacked-by-credential").unwrap();
}

#[test]
fn sealed_machine_upgrades_and_rolls_back_with_its_arguments_and_its_volume_and_takes_no_uki_that_would_not_start() {
    let (lab, _turn) = shared();
    let (directory, keys) = (TempDir::new().unwrap(), lab.images().secure_boot_keys());
    let registry = Registry::start().unwrap();
    lab.publish_sealed(&registry, 1).unwrap();
    let disk = installed(lab, &registry, directory.path());

    let line = |version| lab.images().sealed_command_line(version).unwrap();
    let unsigned = uki::build(lab.images(), &line(2)).unwrap();
    let revoked = uki::build(lab.images(), &format!("{} osupdate.revoked", line(2))).unwrap();
    let revoked = uki::sign(&revoked, keys, Role::Db).unwrap();
    let (variables, volume) = (directory.path().join("variables"), directory.path().join("volume.raw"));
    keys.enroll(&variables, &[uki::digest(&revoked).unwrap()]).unwrap();
    empty_disk(&volume, 64 << 20).unwrap();
    let mut machine = Machine::boot(&Config {
        name: "sealed".to_owned(),
        boot: Boot::SecureBoot { variables },
        disks: vec![Disk::new(&disk, DiskFormat::Raw), Disk::new(&volume, DiskFormat::Raw)],
        network: Some(registry.network()),
        tpm: Some(directory.path().join("tpm")),
    })
    .unwrap();
    machine.output(SEAL_VOLUME).unwrap();
    expect_at_home(&mut machine, "1", &line(1));

    // What would not start, or is not sealed, gets neither to the ESP nor into the list, although its maker is trusted.
    let before = &machine.output(WHAT_BOOTS).unwrap();
    let of_the_image = "Secure Boot of this machine would refuse /boot/EFI/Linux/os.efi of the image";
    for (uki, reasons) in [
        (&unsigned, [of_the_image, "it is not signed"]),
        (&uki::sign(&unsigned, keys, Role::Stranger).unwrap(), [of_the_image, "signed by CN=osupdate tests stranger"]),
        (&revoked, [of_the_image, "its digest is in dbx"]),
        (
            &uki::sign(&uki::build(lab.images(), &line(1)).unwrap(), keys, Role::Db).unwrap(),
            ["the UKI /boot/EFI/Linux/os.efi is for another image", "the files of this image make"],
        ),
    ] {
        lab.publish_with_uki(&registry, 2, uki).unwrap();
        expect_refused(&mut machine, "upgrade", &reasons, before);
    }
    lab.publish(&registry, 2).unwrap();
    expect_refused(&mut machine, "upgrade", &["is not sealed into a UKI", "--allow-unsealed-image"], before);
    // The key of the distribution is not one of the owner's.
    let kernel = "Secure Boot of this machine would refuse /usr/lib/modules/";
    expect_refused(&mut machine, "upgrade --allow-unsealed-image", &[kernel, "does not trust"], before);
    let no_key =
        ["this machine has no key of its own to sign kernel arguments with", "openssl req", "mokutil --import"];
    expect_refused(&mut machine, "kargs --append loglevel=5", &no_key, before);

    // What starts but does not come up is given up by the loader.
    let failing = uki::build(lab.images(), &format!("{} rdinit=/none panic=1", line(2))).unwrap();
    lab.publish_with_uki(&registry, 2, &uki::sign(&failing, keys, Role::Db).unwrap()).unwrap();
    osupdate(&mut machine, "upgrade").unwrap();
    machine.start_reboot().unwrap();
    machine.wait_until_up_for(3 * BOOT_TIMEOUT).unwrap();
    expect_at_home(&mut machine, "1", &line(1));
    let human = machine.output("osupdate status").unwrap();
    assert!(human.contains("the boot loader gave up on it after failed boots"), "{human}");

    lab.publish_sealed(&registry, 2).unwrap();
    osupdate(&mut machine, "upgrade").unwrap();
    let counted = Status::of(&mut machine).unwrap().staged.unwrap().boot_entry.unwrap();
    assert!(counted.ends_with("+3-0.conf"), "{counted}");
    // Kernel arguments of its own, for the new version: signed with a key that the firmware has.
    let before = machine.output(WHAT_BOOTS).unwrap();
    give_key(&mut machine, keys, Role::Stranger, "/run/keys");
    let strangers = "kargs --append loglevel=5 --key /run/keys/local.key --certificate /run/keys/local.crt";
    let reasons = ["Secure Boot of this machine would not accept the addon", "CN=osupdate tests stranger"];
    expect_refused(&mut machine, strangers, &reasons, &before);
    give_key(&mut machine, keys, Role::Local, "/etc/osupdate/keys");
    osupdate(&mut machine, "kargs --append loglevel=5").unwrap();
    machine.reboot().unwrap();
    expect_at_home(&mut machine, "2", &format!("{} loglevel=5", line(2)));
    let human = machine.output("osupdate status").unwrap();
    assert!(human.contains("loglevel=5, in an addon of this machine"), "{human}");
    // The loader has counted this boot, and it was good.
    let path = machine.output("cat /sys/firmware/efi/efivars/LoaderBootCountPath-* | tr -d '\\0'").unwrap();
    assert!(path.contains("+2-1.conf"), "{path}");
    wait_until_blessed(&mut machine).unwrap();
    machine.output(ATTACK).unwrap();

    // Back to the lower version, which has no arguments of its own and comes first now; then to the older one of the two, the
    // higher version, with its arguments.
    osupdate(&mut machine, "rollback").unwrap();
    machine.reboot().unwrap();
    expect_at_home(&mut machine, "1", &line(1));
    osupdate(&mut machine, "rollback").unwrap();
    machine.reboot().unwrap();
    expect_at_home(&mut machine, "2", &format!("{} loglevel=5", line(2)));

    // Other arguments for what runs: a restart is due until it has happened.
    assert!(!Status::of(&mut machine).unwrap().change_pending);
    osupdate(&mut machine, "kargs --replace loglevel=6").unwrap();
    assert!(Status::of(&mut machine).unwrap().change_pending);
    let human = machine.output("osupdate upgrade").unwrap();
    assert!(human.contains("Staged already"), "{human}");
    machine.reboot().unwrap();
    expect_at_home(&mut machine, "2", &format!("{} loglevel=6", line(2)));
    assert!(!Status::of(&mut machine).unwrap().change_pending);

    // What is in /etc runs, if the image leaves /etc to the machine; a credential that anybody can make does not.
    machine.output("timeout 180 sh -c 'until test -e /run/attacked-by-etc; do sleep 1; done'").unwrap();
    expect_credentials_ignored(&mut machine);

    // The same version in a UKI that the owner lets boot, but not open the volume; and it uses nothing that is on the disk.
    let image = uki::build_without_policy(lab.images(), &line(2), &transient_state(directory.path())).unwrap();
    lab.publish_with_uki(&registry, 2, &uki::sign(&image, keys, Role::Db).unwrap()).unwrap();
    machine.output(&format!("test -e {SIGNED_VALUES}")).unwrap();
    osupdate(&mut machine, "upgrade").unwrap();
    machine.reboot().unwrap();
    expect_running(&mut machine, "2").unwrap();
    assert_eq!(machine.output("cat /proc/cmdline").unwrap(), format!("{} loglevel=6", line(2)));
    machine.output(&format!("test ! -e {SIGNED_VALUES}")).unwrap();
    let said = read_volume(&mut machine).unwrap_err();
    assert!(said.contains("Failed to load PCR signature"), "{said}");
    expect_credentials_ignored(&mut machine);
    machine
        .output("test ! -e /run/attacked-by-etc -a ! -e /etc/systemd/system/attack.service -a ! -e /var/lib/attack")
        .unwrap();
}
