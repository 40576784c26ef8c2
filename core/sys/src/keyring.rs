//! Keys that the kernel keeps for a session.

use std::io;
use std::ptr;

/// `linux/keyctl.h`.
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Gives the thread, and what it starts, a session keyring of its own, in which there is nothing.
///
/// # Errors
/// `ENOSYS` if the kernel keeps no keys, `EPERM` if a filter of system calls forbids to ask for them.
pub fn own_session() -> io::Result<()> {
    // SAFETY: the name is the null pointer, which is allowed, and no memory is changed. There is no safe call: rustix has none.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
