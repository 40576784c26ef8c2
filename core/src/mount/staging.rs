//! A private directory where the image is attached while the overlay is made. Kernels before 6.15 accept only attached
//! mounts as layers; once it has cloned them, the overlay needs the place no more.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, mkdir, rmdir};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::MountError;
use crate::durable::with_temporary_name;

/// Only we may look in.
const MODE: Mode = Mode::from_raw_mode(0o700);

/// An attached mount; detached, and its directory removed, when dropped.
pub(super) struct Staging {
    path: PathBuf,
}

impl Staging {
    pub(super) fn attach(mount: BorrowedFd<'_>) -> Result<Self, MountError> {
        // In the initramfs and on every booted machine there is /run; elsewhere perhaps not.
        let made = match make_below(PathBuf::from("/run")) {
            Err(_) => make_below(std::env::temp_dir()),
            made => made,
        };
        let path = made.map_err(|(path, errno)| MountError::Staging { path, source: errno.into() })?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        match move_mount(mount, "", rustix::fs::CWD, &path, flags) {
            Ok(()) => Ok(Self { path }),
            Err(errno) => {
                remove(&path);
                Err(MountError::Staging { path, source: errno.into() })
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        match unmount(&self.path, UnmountFlags::DETACH) {
            Ok(()) => remove(&self.path),
            Err(errno) => tracing::warn!("cannot detach {}: {errno}, ignoring", self.path.display()),
        }
    }
}

fn make_below(base: PathBuf) -> Result<PathBuf, (PathBuf, Errno)> {
    let prefix = format!("{}/osupdate-mount-", base.display());
    match with_temporary_name(&prefix, |path| mkdir(path, MODE)) {
        Ok(((), path)) => Ok(path.into()),
        Err(errno) => Err((base, errno)),
    }
}

fn remove(path: &PathBuf) {
    if let Err(errno) = rmdir(path) {
        tracing::warn!("cannot remove {}: {errno}, ignoring", path.display());
    }
}
