//! What makes an image bootable: its kernel, its boot form, what it says about itself.
//!
//! The *boot form* of an image is the tree that is mounted as root: without what the image has in `/boot` and `/sysroot`,
//! where the machine's own boot partition and physical root are mounted. Its digest is the one on the kernel command line.

mod initramfs;
mod os_release;
#[cfg(test)]
mod tests;
mod uki;

use std::io::{self, Read};

use thiserror::Error;

pub use initramfs::{InitramfsSearch, search_initramfs};
pub use os_release::OsRelease;
pub use uki::{UkiFile, find_ukis};

use crate::repository::{ObjectError, OpenContent};
use crate::selinux::{self, ALIAS_FILES, LABEL_XATTR, Policy, PolicyError, RULE_FILES};
use crate::transform::{TransformError, compact, retain_xattrs, usr_stat};
use crate::tree::{Content, Directory, Entry, Tree};

const MODULES: &str = "usr/lib/modules";
const KERNEL: &str = "vmlinuz";
const INITRAMFS: &str = "initramfs.img";
const SELINUX_CONFIG: &str = "etc/selinux/config";
/// Most bytes of a configuration file of the image that are read.
const TEXT_MAX_BYTES: u64 = 1 << 20;

/// Why an image cannot be booted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// No kernel.
    #[error("the image has no kernel; a bootable image has one as /{MODULES}/<version>/{KERNEL}")]
    NoKernel,
    /// More than one kernel.
    #[error("the image has several kernels ({}); a bootable image has one in /{MODULES}", versions.join(", "))]
    SeveralKernels {
        /// Their versions.
        versions: Vec<String>,
    },
    /// A kernel without initramfs.
    #[error("the image has no /{MODULES}/{version}/{INITRAMFS}, which its kernel needs; run dracut when building it")]
    NoInitramfs {
        /// The kernel's version.
        version: String,
    },
    /// The files cannot be labelled.
    #[error("cannot label files by the SELinux policy {policy:?} of the image")]
    Selinux {
        /// `SELINUXTYPE`.
        policy: String,
        /// What is wrong with the policy.
        source: PolicyError,
    },
    /// A directory is missing.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// A file of the image is not in the repository.
    #[error("cannot open /{path} of the image")]
    Open {
        /// The file.
        path: String,
        /// What is wrong.
        source: ObjectError,
    },
    /// A file of the image cannot be read.
    #[error("cannot read /{path} of the image")]
    Read {
        /// The file.
        path: String,
        /// What is wrong.
        source: io::Error,
    },
}

/// The kernel of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Name of its directory in `/usr/lib/modules`, as `uname -r` will show it.
    pub version: String,
    /// The kernel.
    pub vmlinuz: Content,
    /// Its initramfs.
    pub initramfs: Content,
}

/// Finds the one kernel of an image.
///
/// # Errors
/// When there is none, more than one, or one without an initramfs.
pub fn find_kernel(tree: &Tree) -> Result<Kernel, BootError> {
    let versions = tree.directory(MODULES).map(|modules| modules.entries.keys());
    let mut kernels = Vec::new();
    for version in versions.into_iter().flatten() {
        let Ok(version) = std::str::from_utf8(version) else { continue };
        if let Some(vmlinuz) = tree.follow_to_file(&format!("{MODULES}/{version}/{KERNEL}")) {
            kernels.push((version, vmlinuz));
        }
    }
    match kernels[..] {
        [] => Err(BootError::NoKernel),
        [(version, vmlinuz)] => match tree.follow_to_file(&format!("{MODULES}/{version}/{INITRAMFS}")) {
            Some(initramfs) => {
                Ok(Kernel { version: version.to_owned(), vmlinuz: vmlinuz.clone(), initramfs: initramfs.clone() })
            }
            None => Err(BootError::NoInitramfs { version: version.to_owned() }),
        },
        _ => {
            Err(BootError::SeveralKernels { versions: kernels.iter().map(|(version, _)| (*version).into()).collect() })
        }
    }
}

/// Variants of the boot form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootOptions {
    /// `/boot` and `/sysroot` take the nanoseconds of `/usr`'s time, too. cfsctl 0.9.0 copies the seconds only, 0.9.4
    /// both; the digests differ where `/usr` has nanoseconds.
    pub copy_nanoseconds: bool,
}

impl Default for BootOptions {
    /// As the present releases of all tools have it.
    fn default() -> Self {
        Self { copy_nanoseconds: true }
    }
}

/// Turns the tree of an image, as [`crate::transform::transform_for_oci`] leaves it, into its boot form. `files` are asked for
/// those of the image's SELinux policy, if it has one.
///
/// # Errors
/// When `/boot` or `/sysroot` is missing, or the policy cannot be read or used.
pub fn transform_for_boot(files: &dyn OpenContent, tree: &mut Tree, options: &BootOptions) -> Result<(), BootError> {
    let usr = usr_stat(tree)?;
    for name in ["boot", "sysroot"] {
        let Some(Entry::Directory(directory)) = tree.root.entries.get_mut(name.as_bytes()) else {
            return Err(TransformError::NoDirectory(name).into());
        };
        directory.entries.clear();
        directory.stat.mtime_secs = usr.mtime_secs;
        if options.copy_nanoseconds {
            directory.stat.mtime_nanos = usr.mtime_nanos;
        }
    }
    compact(tree);
    match selinux_policy(files, tree)? {
        Some((name, mut policy)) => {
            policy.label(tree).map_err(|source| BootError::Selinux { policy: name, source })?;
        }
        // Labels of the machine that built the image would mean nothing.
        None => retain_xattrs(tree, |name| name != LABEL_XATTR),
    }
    Ok(())
}

/// The policy that files are labelled by, and its name: `SELINUXTYPE`, if its rules are in the image.
fn selinux_policy(files: &dyn OpenContent, tree: &Tree) -> Result<Option<(String, Policy)>, BootError> {
    let Some(config) = read_text(files, tree, SELINUX_CONFIG)? else { return Ok(None) };
    let name = config.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case("SELINUXTYPE").then(|| value.trim())
    });
    let directory = |name: &str| format!("etc/selinux/{name}/contexts/files");
    let Some(name) = name.filter(|name| !name.is_empty() && tree.directory(&directory(name)).is_some()) else {
        return Ok(None);
    };
    let mut texts = Vec::new();
    for file in RULE_FILES.into_iter().chain(ALIAS_FILES) {
        let path = format!("{}/{file}", directory(name));
        if let Some(text) = read_file(files, tree, &path, selinux::FILE_MAX_BYTES + 1)? {
            texts.push((file, text));
        }
    }
    let policy = Policy::parse(&texts, count_names(&tree.root))
        .map_err(|source| BootError::Selinux { policy: name.to_owned(), source })?;
    Ok(Some((name.to_owned(), policy)))
}

fn count_names(directory: &Directory) -> usize {
    let counts = directory.entries.values().map(|entry| match entry {
        Entry::Directory(child) => 1 + count_names(child),
        Entry::Leaf(_) => 1,
    });
    counts.sum()
}

/// Reads what the image says about itself in `/etc/os-release`, else `/usr/lib/os-release`; empty if it has neither.
///
/// # Errors
/// When the file is there but cannot be read.
pub fn os_release(files: &dyn OpenContent, tree: &Tree) -> Result<OsRelease, BootError> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Some(text) = read_text(files, tree, path)? {
            return Ok(OsRelease::parse(&text));
        }
    }
    Ok(OsRelease::default())
}

/// The text of a file of the image, symbolic links followed; `None` if there is no such file.
fn read_text(files: &dyn OpenContent, tree: &Tree, path: &str) -> Result<Option<String>, BootError> {
    let bytes = read_file(files, tree, path, TEXT_MAX_BYTES)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The first `max_bytes` bytes of a file of the image, symbolic links followed; `None` if there is no such file.
///
/// # Errors
/// When the file is there but cannot be read.
pub fn read_file(
    files: &dyn OpenContent,
    tree: &Tree,
    path: &str,
    max_bytes: u64,
) -> Result<Option<Vec<u8>>, BootError> {
    let Some(content) = tree.follow_to_file(path) else { return Ok(None) };
    let contents = files.open_content(content).map_err(|source| BootError::Open { path: path.to_owned(), source })?;
    let mut bytes = Vec::new();
    let read = contents.take(max_bytes).read_to_end(&mut bytes);
    read.map_err(|source| BootError::Read { path: path.to_owned(), source })?;
    Ok(Some(bytes))
}
