//! The sections that the boot stub uses.

/// Names of sections.
pub mod names {
    /// The kernel.
    pub const LINUX: &str = ".linux";
    /// The os-release file.
    pub const OS_RELEASE: &str = ".osrel";
    /// The kernel command line.
    pub const COMMAND_LINE: &str = ".cmdline";
    /// The initial ramdisk.
    pub const INITRD: &str = ".initrd";
    /// Microcode, as an initial ramdisk that comes before the other one.
    pub const MICROCODE: &str = ".ucode";
    /// A picture, BMP.
    pub const SPLASH: &str = ".splash";
    /// A device tree.
    pub const DEVICE_TREE: &str = ".dtb";
    /// Version of the kernel.
    pub const UNAME: &str = ".uname";
    /// Generations of the parts, for revocation.
    pub const SBAT: &str = ".sbat";
    /// Signatures of expected values of PCR 11.
    pub const PCR_SIGNATURE: &str = ".pcrsig";
    /// The public key that those are made with.
    pub const PCR_PUBLIC_KEY: &str = ".pcrpkey";
    /// Begins a profile, and describes it.
    pub const PROFILE: &str = crate::pe::PROFILE_SECTION;
    /// One of several device trees, chosen by the hardware.
    pub const DEVICE_TREE_AUTO: &str = ".dtbauto";
    /// Which hardware is meant by which device tree or firmware.
    pub const HWIDS: &str = ".hwids";
    /// Firmware, chosen by the hardware.
    pub const FIRMWARE: &str = ".efifw";
}

use names::*;

/// All of them, in the order in which they are measured. The order never changes; new sections come behind.
pub const SECTIONS: [&str; 15] = [
    LINUX,
    OS_RELEASE,
    COMMAND_LINE,
    INITRD,
    MICROCODE,
    SPLASH,
    DEVICE_TREE,
    UNAME,
    SBAT,
    PCR_SIGNATURE,
    PCR_PUBLIC_KEY,
    PROFILE,
    DEVICE_TREE_AUTO,
    HWIDS,
    FIRMWARE,
];

/// Those that are measured into PCR 11, in this order: all but the signatures of what is measured, and firmware, which stubs of systemd
/// 257 do not know and later ones measure where the hardware chooses it.
pub const MEASURED_SECTIONS: [&str; 13] = [
    LINUX,
    OS_RELEASE,
    COMMAND_LINE,
    INITRD,
    MICROCODE,
    SPLASH,
    DEVICE_TREE,
    UNAME,
    SBAT,
    PCR_PUBLIC_KEY,
    PROFILE,
    DEVICE_TREE_AUTO,
    HWIDS,
];

/// Those that are text.
pub(super) const TEXT: [&str; 5] = [OS_RELEASE, COMMAND_LINE, UNAME, SBAT, PROFILE];

/// Those that the boot stub takes from addons.
pub(super) const OF_ADDONS: [&str; 7] =
    [COMMAND_LINE, INITRD, MICROCODE, DEVICE_TREE, DEVICE_TREE_AUTO, HWIDS, FIRMWARE];
