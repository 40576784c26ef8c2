//! Namespaces: mounts, users, processes.

use std::fs;
use std::io;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread, and threads that it starts later, mounts of its own: changes to them are seen by nobody else,
/// and new mounts of others are not seen here.
///
/// Needs `CAP_SYS_ADMIN`. It also stops the thread from sharing its working directory and umask with other threads.
pub fn private_mounts() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    Ok(mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?)
}

/// Makes the process root of a user namespace of its own, in which no other user exists, with its own mounts, host name and
/// IPC, and without `network` its own network, in which there is nothing. Outside it remains the user that it was.
///
/// # Errors
/// `EINVAL` if the process has several threads, `EPERM` or `ENOSPC` if users may not have user namespaces.
pub fn own_users(network: bool) -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    let mut flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !network {
        flags |= UnshareFlags::NEWNET;
    }
    unshare(flags)?;
    // Who has given up changing his groups may map one of them.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    Ok(mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?)
}

/// Puts the next process that the calling thread starts, and what that one starts, into a process namespace. It ends with
/// its first process. The thread can start no threads any more.
pub fn own_processes_of_children() -> io::Result<()> {
    unshare(UnshareFlags::NEWPID)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the function is unsafe because of `FILES`, which would give the thread a descriptor table of its own, in
    // which descriptors of other threads mean something else. Without it descriptors stay as they are. There is no safe
    // call: rustix deprecated its safe one for the reason above.
    unsafe { unshare_unsafe(flags) }.map_err(Into::into)
}
