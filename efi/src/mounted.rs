//! Mounting the partition so that nobody else sees it.
//!
//! The mount is never attached to the tree of directories: it lives as long as its root's descriptor. Nothing is left
//! behind by a crash, automount units do not matter, and a distribution may have the partition mounted where it likes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use thiserror::Error;

/// What the mount is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looking. Leaves the partition as it is, even its "in use" mark.
    Read,
    /// Changing.
    Write,
}

/// Why a partition cannot be mounted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MountError {
    /// The kernel does not know the file system.
    #[error("cannot mount {}: this kernel has no vfat", device.display())]
    NoVfat {
        /// The partition.
        device: PathBuf,
    },
    /// Somebody has the device, in a way that excludes this one: the kernel allows a device to be mounted either for
    /// reading only or for writing, wherever it is mounted.
    #[error("cannot mount {} for writing: it is in use, or mounted read-only elsewhere", device.display())]
    Busy {
        /// The partition.
        device: PathBuf,
    },
    /// Another failure.
    #[error("cannot mount {}{}", device.display(), explained(kernel))]
    Mount {
        /// The partition.
        device: PathBuf,
        /// What the kernel says about it, if it does.
        kernel: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn explained(kernel: &str) -> String {
    if kernel.is_empty() { String::new() } else { format!(" ({kernel})") }
}

impl MountError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoVfat { .. } => Some("load the kernel module vfat, or install the one of the running kernel"),
            Self::Busy { .. } => Some("see in findmnt where it is mounted; unmount it there, or remount it read-write"),
            Self::Mount { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some("run as root"),
            Self::Mount { .. } => None,
        }
    }
}

/// Mounts a vfat partition and returns its root directory. The mount ends when the last descriptor in it is closed.
///
/// Needs `CAP_SYS_ADMIN`. Programs, devices, set-user-ID files and symbolic links on the partition have no effect, and
/// only root can read it. If it is mounted elsewhere too, the two share one state and the first mount's owner and mode.
pub fn mount(device: &Path, access: Access) -> Result<OwnedFd, MountError> {
    let mounted = match attempt(device, access, access) {
        // It is mounted elsewhere for writing. Then this mount must share that, but need not allow writing itself.
        Err(Failure { errno: Errno::BUSY, .. }) if access == Access::Read => attempt(device, Access::Write, access),
        result => result,
    };
    mounted.map_err(|failure| {
        let device = device.to_owned();
        match failure.errno {
            Errno::NODEV if failure.no_vfat => MountError::NoVfat { device },
            Errno::BUSY => MountError::Busy { device },
            errno => MountError::Mount { device, kernel: failure.kernel, source: errno.into() },
        }
    })
}

/// How an attempt failed.
struct Failure {
    errno: Errno,
    no_vfat: bool,
    kernel: String,
}

/// Mounts with the device opened as `device_access` asks and the mount restricted to `access`.
fn attempt(device: &Path, device_access: Access, access: Access) -> Result<OwnedFd, Failure> {
    let context = rustix::mount::fsopen("vfat", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| Failure {
        errno,
        no_vfat: errno == Errno::NODEV,
        kernel: String::new(),
    })?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW
        // Else reading would write dates of access.
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    if access == Access::Read {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let configure = || {
        rustix::mount::fsconfig_set_string(&context, "source", device)?;
        rustix::mount::fsconfig_set_string(&context, "umask", "0077")?;
        if device_access == Access::Read {
            rustix::mount::fsconfig_set_flag(&context, "ro")?;
        }
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    configure().map_err(|errno| Failure { errno, no_vfat: false, kernel: kernel_messages(&context) })
}

/// What the kernel says about a failure: a message for each `read`, until there is none.
fn kernel_messages(context: &OwnedFd) -> String {
    let mut messages = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(len) = rustix::io::read(context, &mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..len]);
        // Before the message stands its kind: "e " for errors.
        messages.push(message.trim_end().get(2..).unwrap_or_default().to_owned());
        if messages.len() == 8 {
            break;
        }
    }
    messages.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plain file is no block device, whoever asks and whatever the kernel has.
    #[test]
    fn failure_names_the_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for access in [Access::Read, Access::Write] {
            let err = mount(file.path(), access).unwrap_err();
            assert!(err.to_string().starts_with(&format!("cannot mount {}", file.path().display())), "{err}");
        }
    }
}
