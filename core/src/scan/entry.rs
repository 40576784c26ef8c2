//! What the kernel says of one file.

use rustix::fs::{FileType, Stat as KernelStat, major, minor};

use super::ScanOptions;
use crate::tree::{Stat, Xattrs};

/// What stays the same as long as nobody changes the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Identity {
    pub(super) fn of(stat: &KernelStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Device and inode number: what two names of one file have in common.
    pub(super) fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

pub(super) fn file_type(stat: &KernelStat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The metadata that is recorded.
pub(super) fn metadata(stat: &KernelStat, xattrs: Xattrs, options: &ScanOptions) -> Stat {
    let (mtime_secs, mtime_nanos) = match options.times {
        true => (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default()),
        false => (0, 0),
    };
    // The type is told by the kind of node; what is left has 12 bits.
    let mode = (stat.st_mode & 0o7777) as u16;
    Stat { mode, uid: stat.st_uid, gid: stat.st_gid, mtime_secs, mtime_nanos, xattrs }
}

/// Device number in the kernel's 32-bit encoding.
pub(super) fn device(stat: &KernelStat) -> u32 {
    let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
    (major & 0xfff) << 8 | (minor & 0xff) | (minor & !0xff) << 12
}
