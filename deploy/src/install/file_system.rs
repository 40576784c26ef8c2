//! Making and mounting the file systems of a new system.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::StepError;
use crate::tool::{Tool, ToolError};

/// Label of the ESP's file system.
const ESP_LABEL: &str = "ESP";

/// Label of the root file system.
const ROOT_LABEL: &str = "root";

/// Types of the root file system; both have fs-verity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4, with the verity feature and 4096-byte blocks.
    #[default]
    Ext4,
    /// btrfs.
    Btrfs,
}

impl FileSystem {
    /// Name for the kernel.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Btrfs => "btrfs",
        }
    }

    /// Makes the root file system and returns its UUID.
    pub(crate) fn make_root(self, partition: &Path) -> Result<String, StepError> {
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(StepError::Write)?;
        let uuid = uuid.trim().to_owned();
        let tool = match self {
            // fs-verity needs blocks of the page size; small file systems get smaller ones by default.
            Self::Ext4 => Tool::new("mkfs.ext4").arg("-q").arg("-F").arg("-O").arg("verity").arg("-b").arg("4096"),
            Self::Btrfs => Tool::new("mkfs.btrfs").arg("-q").arg("-f"),
        };
        tool.arg("-L").arg(ROOT_LABEL).arg("-U").arg(&uuid).arg(partition).run()?;
        Ok(uuid)
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FileSystem {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ext4" => Ok(Self::Ext4),
            "btrfs" => Ok(Self::Btrfs),
            _ => Err("the file system is ext4 or btrfs".to_owned()),
        }
    }
}

/// Makes the ESP's file system.
pub(crate) fn make_esp(partition: &Path) -> Result<(), ToolError> {
    Tool::new("mkfs.fat").arg("-F").arg("32").arg("-n").arg(ESP_LABEL).arg(partition).run()?;
    Ok(())
}

/// Mounts the root file system where nobody else sees it; unmounted when the descriptor is closed.
pub(crate) fn mount_root(file_system: FileSystem, partition: &Path) -> Result<OwnedFd, StepError> {
    let mount = || {
        let context = rustix::mount::fsopen(file_system.name(), FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&context, "source", partition)?;
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    mount().map_err(|err: rustix::io::Errno| StepError::Mount { path: partition.to_owned(), source: err.into() })
}
