//! fs-verity as the kernel sees it: sealing a file, and reading back the digest it is sealed with.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread::sleep;
use std::time::Duration;

use osupdate_sys::fsverity;
use rustix::io::Errno;

use crate::digest::{Algorithm, Digest};

/// A child process between fork and exec still has the writable descriptor that we closed. The pauses double, from one
/// millisecond to about half a second: one second altogether.
const ATTEMPTS: u32 = 10;

/// Seals a file. No writable descriptor of it may be left in this process. `EEXIST` counts as success: the caller
/// measures anyway.
pub fn enable(file: BorrowedFd<'_>, algorithm: Algorithm) -> io::Result<()> {
    let mut attempt = 0;
    loop {
        let error = match fsverity::enable(file, algorithm.kernel_id()) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::EXIST) => return Ok(()),
            Some(Errno::TXTBSY) if attempt < ATTEMPTS => {
                sleep(Duration::from_millis(1 << attempt));
                attempt += 1;
            }
            Some(Errno::INTR) => {}
            _ => return Err(error),
        }
    }
}

/// The digest that a file is sealed with; `None` if it is not.
pub fn measure(file: BorrowedFd<'_>) -> io::Result<Option<Digest>> {
    match fsverity::measure(file) {
        Ok((number, bytes)) => u8::try_from(number)
            .ok()
            .and_then(Algorithm::from_kernel_id)
            .and_then(|algorithm| Digest::new(algorithm, &bytes))
            .map(Some)
            .ok_or_else(|| io::Error::other(format!("fs-verity with unknown hash algorithm {number}"))),
        Err(error) if is_unsupported(&error) || Errno::from_io_error(&error) == Some(Errno::NODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// True if the error means that the file system or the kernel has no fs-verity.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS))
}
