//! The kernel, its initramfs and its arguments.

use osupdate_core::boot::find_ukis;
use osupdate_core::tree::Tree;
use osupdate_deploy::kargs::{KargsError, image_arguments};

use super::{Findings, Image, Lint, LintError, Severity, initramfs};

pub(super) static KERNEL_MISSING: Lint = Lint {
    name: "kernel-missing",
    severity: Severity::Error,
    reason: "there is nothing to boot",
    fix: "install a kernel, and move it to /usr/lib/modules/<version>/vmlinuz; or add a UKI in /boot/EFI/Linux",
};
pub(super) static KERNEL_SEVERAL: Lint = Lint {
    name: "kernel-several",
    severity: Severity::Error,
    reason: "an image boots with one kernel, and which one must not be left to chance",
    fix: "remove the packages of the other kernels, and what they leave in /usr/lib/modules",
};
pub(super) static INITRAMFS_MISSING: Lint = Lint {
    name: "initramfs-missing",
    severity: Severity::Error,
    reason: "the initramfs verifies the image and mounts it: the kernel alone cannot",
    fix: "dracut --no-hostonly --kver VERSION /usr/lib/modules/VERSION/initramfs.img",
};
pub(super) static KERNEL_ARGUMENTS: Lint = Lint {
    name: "kernel-arguments",
    severity: Severity::Error,
    reason: "an image whose kernel arguments cannot be read is not deployed",
    fix: "correct the file; it has kargs = [\"ARGUMENT\", ...] and perhaps match-architectures = [\"x86_64\", ...]",
};

const MODULES: &str = "usr/lib/modules";
const UKIS: &str = "boot/EFI/Linux";

pub(super) fn check(image: &Image<'_>, findings: &mut Findings) -> Result<(), LintError> {
    let tree = image.tree;
    let kernels = kernels(tree);
    let has_uki = !find_ukis(tree).is_empty();
    match &kernels[..] {
        [] if !has_uki => findings.add_for_all(&KERNEL_MISSING, describe_missing(tree)),
        [] | [_] => {}
        several => {
            findings.add(&KERNEL_SEVERAL, MODULES.as_bytes(), format!("has kernels for {}", several.join(", ")));
        }
    }
    for version in kernels {
        let path = format!("{MODULES}/{version}/initramfs.img");
        match tree.follow_to_file(&path) {
            Some(content) => initramfs::check(image, &path, content, findings)?,
            None if has_uki => {}
            None => findings.add(&INITRAMFS_MISSING, path.as_bytes(), "is not there"),
        }
    }
    match image_arguments(image.files, tree) {
        Ok(_) => {}
        Err(error @ KargsError::Read { .. }) => return Err(error.into()),
        Err(error) => {
            let (KargsError::Invalid { name, .. }
            | KargsError::Control { name }
            | KargsError::Composefs { name }
            | KargsError::Read { name, .. }) = &error
            else {
                return Err(error.into());
            };
            let path = format!("usr/lib/bootc/kargs.d/{name}");
            let detail = match &error {
                KargsError::Invalid { source, .. } => source.message().to_owned(),
                KargsError::Control { .. } => "an argument with a line break or control character".to_owned(),
                _ => "a composefs argument, which is not the image's to set".to_owned(),
            };
            findings.add(&KERNEL_ARGUMENTS, path.as_bytes(), detail);
        }
    }
    Ok(())
}

/// The versions for which there is a kernel.
fn kernels(tree: &Tree) -> Vec<String> {
    let versions = tree.directory(MODULES).map(|directory| directory.entries.keys());
    let versions = versions.into_iter().flatten().filter_map(|name| std::str::from_utf8(name).ok());
    versions
        .filter(|version| tree.follow_to_file(&format!("{MODULES}/{version}/vmlinuz")).is_some())
        .map(str::to_owned)
        .collect()
}

/// Where a kernel is instead, if it is anywhere.
fn describe_missing(tree: &Tree) -> String {
    let names = tree.directory("boot").map(|directory| directory.entries.keys());
    let mut names = names.into_iter().flatten().map(|name| String::from_utf8_lossy(name));
    match names.find(|name| name.starts_with("vmlinuz")) {
        Some(name) => format!("there is no /{MODULES}/<version>/vmlinuz; /boot/{name} is not looked for"),
        None => format!("there is no /{MODULES}/<version>/vmlinuz, and no UKI in /{UKIS}"),
    }
}
