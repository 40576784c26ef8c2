//! Mount namespaces.

use std::io;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread, and threads that it starts later, mounts of its own: changes to them are seen by nobody else,
/// and new mounts of others are not seen here.
///
/// Needs `CAP_SYS_ADMIN`. It also stops the thread from sharing its working directory and umask with other threads.
pub fn private_mounts() -> io::Result<()> {
    // SAFETY: the function is unsafe because of `FILES`, which would give the thread a descriptor table of its own, in
    // which descriptors of other threads mean something else. With `NEWNS` alone descriptors stay as they are. There is
    // no safe call: rustix deprecated its safe one for the reason above.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    Ok(mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?)
}
