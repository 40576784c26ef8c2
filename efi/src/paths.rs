//! Where things are on the partition, relative to its root.

/// Type #1 entries. Owned by the boot loader specification, shared with others.
pub const ENTRIES: &str = "loader/entries";

/// Says that `loader/entries` is used as the specification has it.
pub const ENTRIES_SREL: &str = "loader/entries.srel";

/// Configuration of systemd-boot.
pub const LOADER_CONF: &str = "loader/loader.conf";

/// Type #2 entries.
pub const TYPE_2: &str = "EFI/Linux";

/// Addons for every UKI.
pub const ADDONS: &str = "loader/addons";

/// After the path of a UKI: the directory of its addons.
pub const OWN_ADDONS: &str = ".extra.d";

/// Our boot files, one directory for each pair. Nobody else's.
pub const BOOT_FILES: &str = "EFI/osupdate";

/// The kernel, in a directory of boot files.
pub const VMLINUZ: &str = "vmlinuz";

/// The initial ramdisk, in a directory of boot files.
pub const INITRD: &str = "initrd";
