//! Which file system a descriptor is on, for messages that tell what to do.

use std::os::fd::BorrowedFd;

use rustix::fs::fstatfs;

/// A kind of file system, as far as its users are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its name as `mount -t` has it.
    name: &'static str,
    /// What makes it support fs-verity.
    verity_hint: &'static str,
}

const OTHER_HINT: &str = "put the repository on ext4, btrfs or f2fs";

/// Magic numbers of `linux/magic.h`.
const KNOWN: [(u64, FileSystem); 9] = [
    (
        0xEF53,
        FileSystem {
            name: "ext4",
            verity_hint: "enable it with `tune2fs -O verity <device>`; the kernel needs CONFIG_FS_VERITY",
        },
    ),
    (0x9123_683E, FileSystem { name: "btrfs", verity_hint: "linux 5.15 or later with CONFIG_FS_VERITY is needed" }),
    (
        0xF2F5_2010,
        FileSystem {
            name: "f2fs",
            verity_hint: "make the file system with `mkfs.f2fs -O verity`; the kernel needs CONFIG_FS_VERITY",
        },
    ),
    (0x5846_5342, FileSystem { name: "xfs", verity_hint: OTHER_HINT }),
    (0x0102_1994, FileSystem { name: "tmpfs", verity_hint: OTHER_HINT }),
    (0x794C_7630, FileSystem { name: "overlay", verity_hint: OTHER_HINT }),
    (0x4D44, FileSystem { name: "vfat", verity_hint: OTHER_HINT }),
    (0x6969, FileSystem { name: "nfs", verity_hint: OTHER_HINT }),
    (0x6573_5546, FileSystem { name: "fuse", verity_hint: OTHER_HINT }),
];

impl FileSystem {
    /// The file system of an open file; "unknown" if the kernel does not tell.
    pub(super) fn of(fd: BorrowedFd<'_>) -> Self {
        let unknown = Self { name: "unknown", verity_hint: OTHER_HINT };
        let Ok(stat) = fstatfs(fd) else { return unknown };
        // The type of the field differs between architectures; all magic numbers have at most 32 bits.
        let magic = stat.f_type as u64 & 0xFFFF_FFFF;
        KNOWN.iter().find(|(known, _)| *known == magic).map_or(unknown, |(_, file_system)| *file_system)
    }

    /// What the user can do to get fs-verity here.
    pub fn verity_hint(&self) -> &'static str {
        self.verity_hint
    }
}

impl std::fmt::Display for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
