//! Id-mapped mounts: owners and groups as another user namespace sees them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes a mount show the owners and groups of its files through the map of a user namespace, which an open `/proc/PID/ns/user`
/// stands for. The mount must be detached and not have been mapped before.
///
/// # Errors
/// What `mount_setattr(2)` says: `EINVAL` if the file system does not allow it (EROFS: linux 5.19) or the namespace is
/// not one that can be used, `ENOSYS` before linux 5.12.
pub fn set(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd().cast_unsigned().into(),
    };
    // SAFETY: the path is a string with an end, and the size is that of the structure, which the kernel only reads. Both
    // descriptors are open as long as they are borrowed. There is no safe call: rustix has none for `mount_setattr`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
