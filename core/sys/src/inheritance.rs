//! What a program inherits that this process starts.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use rustix::process::Signal;

/// Makes programs that are started from now on inherit standard input, output and error, and no other descriptor. Linux 5.11.
pub fn standard_streams_only() -> io::Result<()> {
    // SAFETY: no descriptor is closed or becomes another; which of them an `exec` closes is not something that Rust code
    // relies on for soundness. There is no safe call: rustix has none.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ignores a signal from now on, as do the programs that are started.
pub fn ignore(signal: Signal) -> io::Result<()> {
    // SAFETY: `SIG_IGN` is no function that could run. There is no safe call: rustix has none.
    let before = unsafe { libc::signal(signal.as_raw(), libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes signals wait that come for this thread, for threads that it starts, and for the programs that become of them.
pub fn block(signals: &[Signal]) -> io::Result<()> {
    change_mask(libc::SIG_BLOCK, signals)
}

/// Takes signals that were made to wait, now and from now on.
pub fn unblock(signals: &[Signal]) -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK, signals)
}

fn change_mask(how: libc::c_int, signals: &[Signal]) -> io::Result<()> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `set` is memory for a set, which `sigemptyset` makes one before it is used as one; the old mask is not asked for. A
    // handler that runs when signals are unblocked is as sound as it is at any other time. There is no safe call: rustix has none.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}
