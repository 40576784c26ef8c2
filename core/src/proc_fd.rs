//! Names of open files.

use std::os::fd::{AsRawFd, BorrowedFd};

/// The path under which the kernel offers an open file of this process. `/proc` must be mounted.
pub(crate) fn path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
