//! Finding $BOOT: which partition has the entries that the loader will read.
//!
//! The loader says from which partition it came; where it does not, it is the ESP on the disk of the root. An XBOOTLDR
//! partition on the same disk is preferred for entries and boot files.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::gpt::{self, ESP_TYPE, GptError, GptPartition, Guid, XBOOTLDR_TYPE};
use crate::variables::{EfiVariables, VariableError};

/// The partitions of the boot loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootPartitions {
    /// The EFI system partition, from which the firmware starts the loader.
    pub esp: Partition,
    /// The extended boot loader partition on the same disk, if there is one.
    pub xbootldr: Option<Partition>,
}

impl BootPartitions {
    /// $BOOT: where new entries and their files go.
    pub fn boot(&self) -> &Partition {
        self.xbootldr.as_ref().unwrap_or(&self.esp)
    }

    /// The name of $BOOT for people: "the ESP (/dev/vda1)".
    pub fn boot_place(&self) -> String {
        let what = if self.xbootldr.is_some() { "the XBOOTLDR partition" } else { "the ESP" };
        format!("{what} ({})", self.boot().device.display())
    }
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its block device: `/dev/vda1`.
    pub device: PathBuf,
    /// Its identifier in the partition table.
    pub id: Guid,
}

/// A block device by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNumber {
    /// Kind of device.
    pub major: u32,
    /// Which one.
    pub minor: u32,
}

/// Why $BOOT was not found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocateError {
    /// There is no disk to look at.
    #[error("cannot tell on which disk the ESP is: neither the boot loader nor the root file system names one")]
    NoDisk,
    /// The disks have no ESP.
    #[error("there is no EFI system partition on {}", disks.join(", "))]
    NoEsp {
        /// The disks.
        disks: Vec<String>,
    },
    /// There are several candidates, and nothing says which is used.
    #[error("{disk} has several {kind} partitions, numbers {numbers:?}")]
    Ambiguous {
        /// The disk.
        disk: String,
        /// Which kind.
        kind: &'static str,
        /// Their numbers.
        numbers: Vec<u32>,
    },
    /// The kernel does not know a partition that the table has.
    #[error("the kernel has no device for partition {number} of {disk}")]
    NoDevice {
        /// The disk.
        disk: String,
        /// The partition.
        number: u32,
    },
    /// A disk's table cannot be read.
    #[error("cannot read the partitions of {disk}")]
    Table {
        /// The disk.
        disk: String,
        /// Why.
        #[source]
        source: GptError,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A loader variable cannot be used.
    #[error(transparent)]
    Variable(#[from] VariableError),
}

impl LocateError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoDisk | Self::Ambiguous { .. } => {
                Some("boot this system with systemd-boot, which tells from which partition it came")
            }
            Self::NoEsp { .. } => {
                Some("a disk for osupdate has a GPT with an EFI system partition; see lsblk -o +PARTTYPENAME")
            }
            Self::NoDevice { .. } => Some("let the kernel read the partition table again: partx --update"),
            Self::Read { source, .. } | Self::Table { source: GptError::Read(source), .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("run as root")
            }
            Self::Table { .. } | Self::Read { .. } | Self::Variable(_) => None,
        }
    }
}

/// Where the kernel shows its devices and the firmware's variables.
#[derive(Clone, Debug)]
pub struct Devices {
    /// sysfs.
    pub sys: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
    /// The loader's variables.
    pub variables: EfiVariables,
}

impl Default for Devices {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), variables: EfiVariables::default() }
    }
}

impl Devices {
    /// Finds the boot loader's partitions; `root` is the device of the root file system, see [`device_of`].
    ///
    /// A loader that came from a partition which is not there any more, as when an installation medium was pulled out,
    /// says nothing about this system.
    pub fn locate(&self, root: Option<DeviceNumber>) -> Result<BootPartitions, LocateError> {
        let root_disks = match root {
            Some(root) => self.disks_of(root)?,
            None => Vec::new(),
        };
        let loader: Option<Guid> = self.variables.loader_device_part_uuid()?.and_then(|text| text.parse().ok());
        if let Some(id) = loader {
            // Most often it is the root's disk; the others need not be woken then.
            let others = self.all_disks()?.into_iter().filter(|disk| !root_disks.contains(disk));
            for disk in root_disks.iter().cloned().chain(others) {
                match self.partitions(&disk) {
                    Ok(partitions) => {
                        if let Some(esp) = partitions.iter().find(|partition| partition.id == id) {
                            return self.with_xbootldr(&disk, esp, &partitions);
                        }
                    }
                    Err(err) if root_disks.contains(&disk) => return Err(err),
                    Err(err) => tracing::debug!("{err}, ignoring"),
                }
            }
            tracing::warn!("the boot loader came from partition {id}, which is not there any more, ignoring");
        }
        if root_disks.is_empty() {
            return Err(LocateError::NoDisk);
        }
        for disk in &root_disks {
            let partitions = self.partitions(disk)?;
            if let Some(esp) = only(disk, "EFI system", ESP_TYPE, &partitions)? {
                return self.with_xbootldr(disk, esp, &partitions);
            }
        }
        Err(LocateError::NoEsp { disks: root_disks })
    }

    /// All ESPs from which this system may be started: that of the loader, and those on the disks of the root file system.
    pub fn esps(&self, root: Option<DeviceNumber>) -> Result<Vec<Partition>, LocateError> {
        let mut found = vec![self.locate(root)?.esp];
        let disks = root.map_or_else(|| Ok(Vec::new()), |root| self.all_disks_of(root))?;
        for disk in disks {
            let partitions = self.partitions(&disk).unwrap_or_else(|err| {
                tracing::debug!("{err}, ignoring: it has no ESP");
                Vec::new()
            });
            for partition in partitions.iter().filter(|partition| partition.kind == ESP_TYPE) {
                let partition = self.device(&disk, partition)?;
                if !found.contains(&partition) {
                    found.push(partition);
                }
            }
        }
        Ok(found)
    }

    fn with_xbootldr(
        &self,
        disk: &str,
        esp: &GptPartition,
        partitions: &[GptPartition],
    ) -> Result<BootPartitions, LocateError> {
        let xbootldr = only(disk, "XBOOTLDR", XBOOTLDR_TYPE, partitions)?;
        Ok(BootPartitions {
            esp: self.device(disk, esp)?,
            xbootldr: xbootldr.map(|partition| self.device(disk, partition)).transpose()?,
        })
    }

    /// Names of all disks, without those that are empty.
    fn all_disks(&self) -> Result<Vec<String>, LocateError> {
        let block = self.sys.join("class/block");
        let mut disks = Vec::new();
        for device in read_dir(&block)? {
            let is_partition = block.join(&device).join("partition").exists();
            if !is_partition && self.attribute(&device, "size")?.trim() != "0" {
                disks.push(device);
            }
        }
        Ok(disks)
    }

    /// Names of the disks on which a device is: of a partition, or of all the devices below a mapped one.
    fn disks_of(&self, number: DeviceNumber) -> Result<Vec<String>, LocateError> {
        let link = self.sys.join(format!("dev/block/{}:{}", number.major, number.minor));
        let device = fs::canonicalize(&link).map_err(|source| LocateError::Read { path: link, source })?;
        let mut disks = Vec::new();
        self.add_disks(&device, &mut disks)?;
        Ok(disks)
    }

    /// The same, with the disks of all devices if the device is one of several of a btrfs file system.
    fn all_disks_of(&self, number: DeviceNumber) -> Result<Vec<String>, LocateError> {
        let mut disks = self.disks_of(number)?;
        let link = self.sys.join(format!("dev/block/{}:{}", number.major, number.minor));
        let device = fs::canonicalize(&link).map_err(|source| LocateError::Read { path: link, source })?;
        let file_systems = self.sys.join("fs/btrfs");
        let names = if file_systems.exists() { read_dir(&file_systems)? } else { Vec::new() };
        for devices in names.iter().map(|name| file_systems.join(name).join("devices")).filter(|path| path.is_dir()) {
            let links = read_dir(&devices)?.into_iter().map(|name| devices.join(name));
            let all: Vec<_> = links.filter_map(|link| fs::canonicalize(link).ok()).collect();
            if all.contains(&device) {
                for device in &all {
                    self.add_disks(device, &mut disks)?;
                }
            }
        }
        Ok(disks)
    }

    fn add_disks(&self, device: &Path, disks: &mut Vec<String>) -> Result<(), LocateError> {
        let slaves = device.join("slaves");
        let below = if slaves.exists() { read_dir(&slaves)? } else { Vec::new() };
        for slave in &below {
            let link = slaves.join(slave);
            let slave = fs::canonicalize(&link).map_err(|source| LocateError::Read { path: link, source })?;
            self.add_disks(&slave, disks)?;
        }
        if below.is_empty() {
            let is_partition = device.join("partition").exists();
            let disk = if is_partition { device.parent().unwrap_or(device) } else { device };
            let name = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !disks.contains(&name) {
                disks.push(name);
            }
        }
        Ok(())
    }

    fn partitions(&self, disk: &str) -> Result<Vec<GptPartition>, LocateError> {
        let block_bytes = self.attribute(disk, "queue/logical_block_size")?.trim().parse().unwrap_or(512);
        let path = self.node(disk);
        let mut file = File::open(&path).map_err(|source| LocateError::Read { path, source })?;
        gpt::partitions(&mut file, block_bytes).map_err(|source| LocateError::Table { disk: disk.to_owned(), source })
    }

    /// The device of a partition: the directory with its number below the disk's.
    fn device(&self, disk: &str, partition: &GptPartition) -> Result<Partition, LocateError> {
        let path = self.sys.join("class/block").join(disk);
        for child in read_dir(&path)? {
            let number = path.join(&child).join("partition");
            if fs::read_to_string(number).is_ok_and(|number| number.trim().parse() == Ok(partition.number)) {
                return Ok(Partition { device: self.node(&child), id: partition.id });
            }
        }
        Err(LocateError::NoDevice { disk: disk.to_owned(), number: partition.number })
    }

    fn attribute(&self, device: &str, name: &str) -> Result<String, LocateError> {
        let path = self.sys.join("class/block").join(device).join(name);
        fs::read_to_string(&path).map_err(|source| LocateError::Read { path, source })
    }

    /// The node of a device; sysfs writes `!` where its name has a slash.
    fn node(&self, device: &str) -> PathBuf {
        self.dev.join(device.replace('!', "/"))
    }
}

/// The partition of a kind, if there is one; an error if there are more.
fn only<'a>(
    disk: &str,
    kind: &'static str,
    id: Guid,
    partitions: &'a [GptPartition],
) -> Result<Option<&'a GptPartition>, LocateError> {
    let found: Vec<_> = partitions.iter().filter(|partition| partition.kind == id).collect();
    match found[..] {
        [] => Ok(None),
        [partition] => Ok(Some(partition)),
        _ => {
            let numbers = found.iter().map(|partition| partition.number).collect();
            Err(LocateError::Ambiguous { disk: disk.to_owned(), kind, numbers })
        }
    }
}

fn read_dir(path: &Path) -> Result<Vec<String>, LocateError> {
    let read = || -> io::Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(path)?
            .map(|item| Ok(item?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    };
    read().map_err(|source| LocateError::Read { path: path.to_owned(), source })
}

/// The block device of the file system that has `path`; `None` if it has none, as tmpfs.
///
/// Asks the mount table, not `stat`: on btrfs `st_dev` is no block device.
pub fn device_of(path: &Path) -> io::Result<Option<DeviceNumber>> {
    let stat = rustix::fs::statx(rustix::fs::CWD, path, rustix::fs::AtFlags::empty(), rustix::fs::StatxFlags::MNT_ID)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let Some(source) = mount_source(&mounts, stat.stx_mnt_id) else { return Ok(None) };
    let stat = match rustix::fs::stat(source) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    let is_block = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_block_device();
    let number = DeviceNumber { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
    Ok(is_block.then_some(number))
}

/// The source of the mount with this id. Format: `36 35 98:0 /root /mnt rw master:1 - ext4 /dev/vda2 rw`.
fn mount_source(mounts: &str, id: u64) -> Option<&str> {
    let line = mounts.lines().find(|line| line.split(' ').next().is_some_and(|first| first.parse() == Ok(id)))?;
    line.split_once(" - ")?.1.split(' ').nth(1)
}

#[cfg(test)]
mod tests;
