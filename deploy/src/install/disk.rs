//! [`Disk`]: a whole disk that is safe to overwrite.
//!
//! Everything here only looks. The exclusive open is what protects a disk in use; the other checks exist to say by whom
//! it is used, which the kernel does not tell.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use thiserror::Error;

use crate::tool::{Tool, ToolError};

/// How long to wait for the device nodes of new partitions.
const NODE_TIMEOUT: Duration = Duration::from_secs(20);

/// How often to look for them.
const NODE_INTERVAL: Duration = Duration::from_millis(50);

/// A whole disk that nothing uses.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    /// Its directory in /sys.
    sysfs: PathBuf,
    size_bytes: u64,
    held: Option<File>,
}

/// Why a disk cannot be installed to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The device or its description in /sys could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not exist.
    #[error("there is no {}", path.display())]
    Missing {
        /// The device.
        path: PathBuf,
    },
    /// It is something else than a block device.
    #[error("{} is not a block device", path.display())]
    NotBlockDevice {
        /// The device.
        path: PathBuf,
    },
    /// It is a part of a disk.
    #[error("{} is a partition, not a whole disk; its disk is {disk}", path.display())]
    Partition {
        /// The partition.
        path: PathBuf,
        /// The disk it belongs to.
        disk: String,
    },
    /// It cannot be written to.
    #[error("{} is read-only", path.display())]
    ReadOnly {
        /// The device.
        path: PathBuf,
    },
    /// Something uses it.
    #[error("{} is in use: {}", path.display(), users.join("; "))]
    InUse {
        /// The device.
        path: PathBuf,
        /// By whom, for people.
        users: Vec<String>,
    },
    /// There is something on it.
    #[error("{} is not empty: it has {}", path.display(), found.join(", "))]
    NotEmpty {
        /// The device.
        path: PathBuf,
        /// Signatures and partition tables.
        found: Vec<String>,
    },
    /// It could not be searched for signatures.
    #[error("cannot look for signatures on {}", path.display())]
    Probe {
        /// The device.
        path: PathBuf,
        /// Why.
        #[source]
        source: ToolError,
    },
    /// The nodes of the new partitions did not appear.
    #[error("partition {number} of {} did not appear within {} seconds", path.display(), NODE_TIMEOUT.as_secs())]
    NoNode {
        /// The disk.
        path: PathBuf,
        /// Number of the partition.
        number: u32,
    },
}

impl Disk {
    /// Checks that `path` is a whole, writable disk that nothing uses, and holds it exclusively until it is partitioned.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let read = |at: &Path| {
            let at = at.to_owned();
            move |source| DiskError::Read { path: at, source }
        };
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(DiskError::Missing { path: path.into() }),
            Err(err) => return Err(read(path)(err)),
        };
        if !metadata.file_type().is_block_device() {
            return Err(DiskError::NotBlockDevice { path: path.into() });
        }
        let link = PathBuf::from(format!("/sys/dev/block/{}", device_number(metadata.rdev())));
        let sysfs = std::fs::canonicalize(&link).map_err(read(&link))?;
        if sysfs.join("partition").exists() {
            let disk = sysfs.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
            return Err(DiskError::Partition { path: path.into(), disk: format!("/dev/{disk}") });
        }
        let users = users(&sysfs)?;
        if !users.is_empty() {
            return Err(DiskError::InUse { path: path.into(), users });
        }
        if attribute(&sysfs, "ro")?.trim() == "1" {
            return Err(DiskError::ReadOnly { path: path.into() });
        }
        let size_file = sysfs.join("size");
        let sectors =
            attribute(&sysfs, "size")?.trim().parse::<u64>().map_err(io::Error::other).map_err(read(&size_file))?;
        let flags = (OFlags::EXCL | OFlags::CLOEXEC).bits();
        // The bits of open flags are the same for std and rustix.
        let flags = flags.cast_signed();
        let held =
            File::options().read(true).write(true).custom_flags(flags).open(path).map_err(|err| match err.kind() {
                io::ErrorKind::ResourceBusy => DiskError::InUse {
                    path: path.into(),
                    users: vec!["the kernel refuses to open it exclusively".to_owned()],
                },
                _ => read(path)(err),
            })?;
        // The unit of this file is 512 bytes whatever the disk's own sectors are.
        Ok(Self { path: path.to_owned(), sysfs, size_bytes: sectors * 512, held: Some(held) })
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Fails if there is a partition table, a file system or anything else with a signature on the disk.
    pub fn check_empty(&self) -> Result<(), DiskError> {
        let listing = Tool::new("wipefs")
            .arg("--no-act")
            .arg("--noheadings")
            .arg("--output")
            .arg("TYPE")
            .arg(&self.path)
            .run()
            .map_err(|source| DiskError::Probe { path: self.path.clone(), source })?;
        let mut found: Vec<String> = listing.lines().map(|line| line.trim().to_owned()).collect();
        found.retain(|name| !name.is_empty());
        found.dedup();
        let partitions = self.partitions()?.len();
        if partitions > 0 {
            found.push(format!("{partitions} partition{}", if partitions == 1 { "" } else { "s" }));
        }
        if found.is_empty() { Ok(()) } else { Err(DiskError::NotEmpty { path: self.path.clone(), found }) }
    }

    /// Writes a new partition table, given as input for sfdisk, and removes signatures where partitions begin.
    pub(crate) fn partition(&mut self, script: &str) -> Result<(), ToolError> {
        // The partitioner wants the disk for itself.
        self.held = None;
        Tool::new("sfdisk")
            .arg("--quiet")
            .arg("--wipe")
            .arg("always")
            .arg("--wipe-partitions")
            .arg("always")
            .arg(&self.path)
            .input(script)
            .run()?;
        Ok(())
    }

    /// Device nodes of the partitions that the kernel knows now, by number.
    pub fn partitions(&self) -> Result<BTreeMap<u32, PathBuf>, DiskError> {
        let mut partitions = BTreeMap::new();
        for name in children(&self.sysfs)? {
            let directory = self.sysfs.join(&name);
            if directory.join("partition").exists() {
                let number = attribute(&directory, "partition")?;
                if let Ok(number) = number.trim().parse() {
                    partitions.insert(number, Path::new("/dev").join(name));
                }
            }
        }
        Ok(partitions)
    }

    /// Waits until the nodes of these partitions can be used, and returns them in the order asked for.
    pub fn wait_for_partitions<const N: usize>(&self, numbers: [u32; N]) -> Result<[PathBuf; N], DiskError> {
        let deadline = Instant::now() + NODE_TIMEOUT;
        // The partitioner asks the kernel to read the table; some devices and kernels need to be told what is in it.
        let known = self.partitions()?;
        if numbers.iter().any(|number| !known.contains_key(number))
            && let Err(err) = Tool::new("partx").arg("--update").arg(&self.path).run()
        {
            tracing::debug!("{err}, ignoring");
        }
        // udev renames and relinks after the kernel made a node; without udev there is nothing to wait for.
        if let Err(err) = Tool::new("udevadm").arg("settle").arg("--timeout=10").run() {
            tracing::debug!("{err}, ignoring");
        }
        loop {
            let partitions = self.partitions()?;
            let missing = numbers.into_iter().find(|number| !partitions.get(number).is_some_and(|path| path.exists()));
            match missing {
                None => return Ok(numbers.map(|number| partitions[&number].clone())),
                Some(number) if Instant::now() > deadline => {
                    return Err(DiskError::NoNode { path: self.path.clone(), number });
                }
                Some(_) => std::thread::sleep(NODE_INTERVAL),
            }
        }
    }
}

/// `major:minor` of a device, as in /sys and mountinfo.
fn device_number(device: u64) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

fn attribute(directory: &Path, name: &str) -> Result<String, DiskError> {
    let path = directory.join(name);
    std::fs::read_to_string(&path).map_err(|source| DiskError::Read { path, source })
}

fn children(directory: &Path) -> Result<Vec<String>, DiskError> {
    let error = |source| DiskError::Read { path: directory.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(error)? {
        names.push(entry.map_err(error)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Who uses a disk or its partitions: mounts, swap, and devices on top of it.
fn users(sysfs: &Path) -> Result<Vec<String>, DiskError> {
    let mut devices = vec![sysfs.to_owned()];
    devices.extend(
        children(sysfs)?.into_iter().map(|name| sysfs.join(name)).filter(|path| path.join("partition").exists()),
    );
    let read =
        |path: &str| std::fs::read_to_string(path).map_err(|source| DiskError::Read { path: path.into(), source });
    let mountinfo = read("/proc/self/mountinfo")?;
    // The kernel may be built without swap.
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut users = Vec::new();
    for device in devices {
        let node = Path::new("/dev").join(device.file_name().unwrap_or_default());
        let number = attribute(&device, "dev")?;
        for mount_point in mounts(&mountinfo, number.trim(), &node.to_string_lossy()) {
            users.push(format!("{} is mounted on {mount_point}", node.display()));
        }
        if swaps.lines().any(|line| line.split_whitespace().next() == node.to_str()) {
            users.push(format!("{} is swap space", node.display()));
        }
        for holder in children(&device.join("holders"))? {
            users.push(format!("{} is part of {holder}", node.display()));
        }
    }
    Ok(users)
}

/// Mount points of a device; file systems with several devices (btrfs) only tell by the source.
fn mounts<'a>(mountinfo: &'a str, number: &str, node: &str) -> Vec<&'a str> {
    let mut points = Vec::new();
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        let (Some(found), Some(point)) = (fields.nth(2), fields.nth(1)) else { continue };
        let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1));
        if found == number || source == Some(node) {
            points.push(point);
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let mountinfo = "30 1 8:1 / /boot rw shared:1 - ext4 /dev/sda1 rw\n\
                         31 1 0:40 /@ /home rw - btrfs /dev/sda2 rw,subvol=/@\n\
                         32 1 8:17 / /mnt rw - ext4 /dev/sdb1 rw\n";
        assert_eq!(mounts(mountinfo, "8:1", "/dev/sda1"), ["/boot"]);
        assert_eq!(mounts(mountinfo, "8:2", "/dev/sda2"), ["/home"]);
        assert!(mounts(mountinfo, "8:3", "/dev/sda3").is_empty());
    }

    #[test]
    fn other_files_are_no_disks() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        assert!(matches!(Disk::open(&file), Err(DiskError::Missing { .. })));
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(Disk::open(&file), Err(DiskError::NotBlockDevice { .. })));
        assert!(matches!(Disk::open(Path::new("/dev/null")), Err(DiskError::NotBlockDevice { .. })));
    }
}
