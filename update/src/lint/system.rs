//! What a system must have to be started and installed.

use osupdate_core::tree::Tree;

use super::files::{self, ReadError};
use super::{Findings, Image, Lint, Severity};

pub(super) static OS_RELEASE_MISSING: Lint = Lint {
    name: "os-release-missing",
    severity: Severity::Error,
    reason: "systemd in the initramfs does not switch to a root without it, and the boot menu has no name for the image",
    fix: "install the package that has it (base-files in Debian), or write /usr/lib/os-release",
};
pub(super) static BOOT_LOADER_MISSING: Lint = Lint {
    name: "boot-loader-missing",
    severity: Severity::Warning,
    reason: "the image cannot be installed: osupdate install takes the boot loader from it",
    fix: "install systemd-boot (in Debian the package systemd-boot-efi)",
};
pub(super) static FSTAB_ROOT: Lint = Lint {
    name: "fstab-root",
    severity: Severity::Error,
    reason: "systemd mounts it again, or remounts it, by a line that was not written for an image",
    fix: "remove the line; / comes from the kernel command line, /etc and /var from the deployment",
};

/// What is mounted before `/etc/fstab` is read.
const OURS: [&str; 5] = ["/", "/usr", "/etc", "/var", "/sysroot"];
const BOOT_LOADERS: &str = "usr/lib/systemd/boot/efi";

pub(super) fn check(image: &Image<'_>, findings: &mut Findings) -> Result<(), ReadError> {
    let tree = image.tree;
    if tree.follow_to_file("etc/os-release").or(tree.follow_to_file("usr/lib/os-release")).is_none() {
        findings.add(&OS_RELEASE_MISSING, b"usr/lib/os-release", "is not there, nor is /etc/os-release");
    }
    if !has_boot_loader(tree) {
        findings.add(&BOOT_LOADER_MISSING, BOOT_LOADERS.as_bytes(), "has no systemd-boot");
    }
    for line in files::text(image.files, tree, "etc/fstab")?.unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [device, place, ..] = fields[..]
            && !device.starts_with('#')
            && OURS.contains(&place)
        {
            findings.add(&FSTAB_ROOT, b"etc/fstab", format!("mounts {device} on {place}"));
        }
    }
    Ok(())
}

fn has_boot_loader(tree: &Tree) -> bool {
    let names = tree.directory(BOOT_LOADERS).map(|directory| directory.entries.keys());
    names.into_iter().flatten().any(|name| {
        let name = String::from_utf8_lossy(name);
        name.starts_with("systemd-boot") && (name.ends_with(".efi") || name.ends_with(".efi.signed"))
    })
}
