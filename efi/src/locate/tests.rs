//! Locating $BOOT in a pretended sysfs with a real partition table.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::gpt::tests::disk;

const ESP_ID: &str = "11111111-2222-3333-4444-555555555555";
const ROOT: Option<DeviceNumber> = Some(DeviceNumber { major: 254, minor: 4 });

struct Fake {
    dir: TempDir,
    devices: Devices,
}

impl Fake {
    /// Disk vda with the partitions of the table, a second disk without a table, and an empty card reader.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let devices = Devices {
            sys: dir.path().join("sys"),
            dev: dir.path().join("dev"),
            variables: EfiVariables::new(dir.path().join("efivars")),
        };
        let fake = Self { dir, devices };
        for below in ["sys/class/block", "sys/dev/block", "dev", "efivars"] {
            fs::create_dir_all(fake.dir.path().join(below)).unwrap();
        }
        fake.add_disk("vda", 254, &disk());
        for (number, partition) in [1, 2, 4].into_iter().enumerate() {
            fake.add_partition("vda", 254, partition, number + 1);
        }
        fake.add_disk("sdz", 8, &[0; 4096]);
        fake.add_disk("sr0", 11, &[]);
        fake
    }

    fn add_disk(&self, name: &str, major: u32, contents: &[u8]) {
        let device = self.dir.path().join("sys/devices").join(name);
        fs::create_dir_all(device.join("queue")).unwrap();
        fs::write(device.join("size"), format!("{}\n", contents.len() / 512)).unwrap();
        fs::write(device.join("queue/logical_block_size"), "512\n").unwrap();
        fs::write(self.devices.dev.join(name), contents).unwrap();
        self.link(&device, name, major, 0);
    }

    fn add_partition(&self, disk: &str, major: u32, number: u32, minor: usize) {
        let name = format!("{disk}{number}");
        let device = self.dir.path().join("sys/devices").join(disk).join(&name);
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("partition"), format!("{number}\n")).unwrap();
        self.link(&device, &name, major, minor + 1);
    }

    fn link(&self, device: &Path, name: &str, major: u32, minor: usize) {
        symlink(device, self.devices.sys.join("class/block").join(name)).unwrap();
        symlink(device, self.devices.sys.join(format!("dev/block/{major}:{minor}"))).unwrap();
    }

    fn loader_came_from(&self, id: &str) {
        let value: Vec<u8> = [6, 0, 0, 0].into_iter().chain(id.encode_utf16().flat_map(u16::to_le_bytes)).collect();
        let name = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
        fs::write(self.dir.path().join("efivars").join(name), value).unwrap();
    }

    fn names(&self, root: Option<DeviceNumber>) -> Result<(String, Option<String>), LocateError> {
        let name = |partition: &Partition| partition.device.file_name().unwrap().to_string_lossy().into_owned();
        self.devices.locate(root).map(|found| (name(&found.esp), found.xbootldr.as_ref().map(name)))
    }
}

fn expected() -> (String, Option<String>) {
    ("vda1".to_owned(), Some("vda2".to_owned()))
}

#[test]
fn loader_names_its_partition_whatever_the_root_is() {
    let fake = Fake::new();
    fake.loader_came_from(&ESP_ID.to_uppercase());
    assert_eq!(fake.names(None).unwrap(), expected());
    assert_eq!(fake.names(ROOT).unwrap(), expected());
    let found = fake.devices.locate(None).unwrap();
    assert_eq!(found.boot().device, fake.devices.dev.join("vda2"));
    assert!(found.boot_place().starts_with("the XBOOTLDR partition ("));
}

#[test]
fn without_a_word_from_the_loader_the_disk_of_the_root_is_searched() {
    let fake = Fake::new();
    assert_eq!(fake.names(ROOT).unwrap(), expected());
    // A loader from a medium that is gone.
    fake.loader_came_from("99999999-2222-3333-4444-555555555555");
    assert_eq!(fake.names(ROOT).unwrap(), expected());
}

#[test]
fn an_encrypted_root_is_followed_to_its_disk() {
    let fake = Fake::new();
    fake.add_disk("dm-0", 253, &[0; 4096]);
    let slaves = fake.dir.path().join("sys/devices/dm-0/slaves");
    fs::create_dir(&slaves).unwrap();
    symlink(fake.dir.path().join("sys/devices/vda/vda4"), slaves.join("vda4")).unwrap();
    assert_eq!(fake.names(Some(DeviceNumber { major: 253, minor: 0 })).unwrap(), expected());
}

#[test]
fn all_esps_below_a_root_on_several_disks_are_found() {
    let fake = Fake::new();
    fake.add_disk("vdb", 252, &disk());
    for (number, partition) in [1, 2, 4].into_iter().enumerate() {
        fake.add_partition("vdb", 252, partition, number + 1);
    }
    fake.add_disk("dm-0", 253, &[0; 4096]);
    let slaves = fake.dir.path().join("sys/devices/dm-0/slaves");
    fs::create_dir(&slaves).unwrap();
    for device in ["vda/vda4", "vdb/vdb4", "sdz"] {
        // In the order of their names; what has no table is passed over after the first ESP.
        let link = slaves.join(device.replace('/', "-").replace("sdz", "z"));
        symlink(fake.dir.path().join("sys/devices").join(device), link).unwrap();
    }
    let names = |root| {
        let found = fake.devices.esps(root).unwrap();
        found.iter().map(|esp| esp.device.file_name().unwrap().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(Some(DeviceNumber { major: 253, minor: 0 })), ["vda1", "vdb1"]);
    assert_eq!(names(ROOT), ["vda1"]);
    fake.loader_came_from(ESP_ID);
    assert_eq!(names(None), ["vda1"]);

    // A file system on both, of which the kernel shows one as what is mounted.
    let devices = fake.devices.sys.join("fs/btrfs/2d4b6fdb/devices");
    fs::create_dir_all(&devices).unwrap();
    fs::create_dir_all(fake.devices.sys.join("fs/btrfs/features")).unwrap();
    for device in ["vda/vda4", "vdb/vdb4"] {
        let link = devices.join(device.rsplit('/').next().unwrap());
        symlink(fake.dir.path().join("sys/devices").join(device), link).unwrap();
    }
    assert_eq!(names(ROOT), ["vda1", "vdb1"]);
}

#[test]
fn failures_name_what_was_looked_for() {
    let fake = Fake::new();
    assert!(matches!(fake.names(None), Err(LocateError::NoDisk)));
    let err = fake.names(Some(DeviceNumber { major: 8, minor: 0 })).unwrap_err();
    assert_eq!(err.to_string(), "cannot read the partitions of sdz");
    assert!(matches!(fake.names(Some(DeviceNumber { major: 1, minor: 1 })), Err(LocateError::Read { .. })));
    fs::remove_file(fake.dir.path().join("sys/devices/vda/vda1/partition")).unwrap();
    let err = fake.names(ROOT).unwrap_err();
    assert_eq!(err.to_string(), "the kernel has no device for partition 1 of vda");
}

#[test]
fn two_esps_are_not_guessed_about() {
    let partition = |number| GptPartition { number, kind: ESP_TYPE, id: ESP_ID.parse().unwrap() };
    let err = only("vda", "EFI system", ESP_TYPE, &[partition(1), partition(3)]).unwrap_err();
    assert_eq!(err.to_string(), "vda has several EFI system partitions, numbers [1, 3]");
    assert_eq!(only("vda", "XBOOTLDR", XBOOTLDR_TYPE, &[partition(1)]).unwrap(), None);
}

#[test]
fn source_of_a_mount_is_found_by_its_id() {
    let mounts = "21 1 0:20 / /proc rw shared:5 - proc proc rw\n\
                  136 35 0:33 /@ /sysroot rw,relatime - btrfs /dev/vda4 rw,subvol=/@\n\
                  36 35 98:0 / /mnt rw master:1 shared:2 - ext4 /dev/vdb1 rw\n";
    assert_eq!(mount_source(mounts, 136), Some("/dev/vda4"));
    assert_eq!(mount_source(mounts, 36), Some("/dev/vdb1"));
    assert_eq!(mount_source(mounts, 3), None);
    assert_eq!(device_of(Path::new("/proc")).unwrap(), None);
}
