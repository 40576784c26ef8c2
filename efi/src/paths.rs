//! Where things are on the partition, relative to its root.

use osupdate_core::digest::Digest;

/// Type #1 entries. Owned by the boot loader specification, shared with others.
pub const ENTRIES: &str = "loader/entries";

/// Says that `loader/entries` is used as the specification has it.
pub const ENTRIES_SREL: &str = "loader/entries.srel";

/// Configuration of systemd-boot.
pub const LOADER_CONF: &str = "loader/loader.conf";

/// Sets of Secure Boot keys for systemd-boot to enrol.
pub const ENROLMENT_KEYS: &str = "loader/keys";

/// Type #2 entries.
pub const TYPE_2: &str = "EFI/Linux";

/// Addons for every UKI.
pub const ADDONS: &str = "loader/addons";

/// After the path of a UKI: the directory of its addons.
pub const OWN_ADDONS: &str = ".extra.d";

/// Ends the name of an addon.
pub const ADDON_SUFFIX: &str = ".addon.efi";

/// Ends the name of a UKI.
pub const UKI_SUFFIX: &str = ".efi";

/// Our boot files, one directory for each kernel with its ramdisk, or UKI with its addons. Nobody else's.
pub const BOOT_FILES: &str = "EFI/osupdate";

/// The kernel, in a directory of boot files.
pub const VMLINUZ: &str = "vmlinuz";

/// The initial ramdisk, in a directory of boot files.
pub const INITRD: &str = "initrd";

/// The UKI, in a directory of boot files: named by the image whose digest is sealed into it.
pub fn uki(image: &Digest) -> String {
    format!("{image}{UKI_SUFFIX}")
}

/// An addon of the UKI, in a directory of boot files: the stub looks for it there.
pub fn addon(image: &Digest, name: &str) -> String {
    format!("{}{OWN_ADDONS}/{name}", uki(image))
}
