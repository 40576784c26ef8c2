//! Extended attributes of an open file.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{fgetxattr, flistxattr, getxattr, listxattr};
use rustix::io::{Errno, Result};

use super::ScanXattrs;
use crate::proc_fd;
use crate::tree::Xattrs;

/// Most bytes of a list of names, and of a value: `XATTR_LIST_MAX`, `XATTR_SIZE_MAX`.
const KERNEL_MAX: usize = 64 << 10;
/// What nearly all lists and values fit in.
const USUAL: usize = 512;

/// An open file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opened<'a> {
    /// For reading.
    Readable(BorrowedFd<'a>),
    /// As a place only, with `O_PATH`: the kernel wants to be asked through `/proc`.
    Place(BorrowedFd<'a>),
}

/// Reads the attributes that are wanted. File systems without attributes have none.
pub(super) fn read(file: Opened<'_>, wanted: ScanXattrs) -> Result<Xattrs> {
    let mut all = Xattrs::new();
    if wanted == ScanXattrs::None {
        return Ok(all);
    }
    let path = match file {
        Opened::Readable(_) => String::new(),
        Opened::Place(fd) => proc_fd::path(fd),
    };
    let names = with_room(|buffer| match file {
        Opened::Readable(fd) => flistxattr(fd, buffer),
        Opened::Place(_) => listxattr(path.as_str(), buffer),
    });
    let names = match names {
        Err(Errno::OPNOTSUPP) => return Ok(all),
        names => names?,
    };
    for name in names.split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if wanted == ScanXattrs::UserOnly && !name.to_bytes().starts_with(b"user.") {
            continue;
        }
        let value = with_room(|buffer| match file {
            Opened::Readable(fd) => fgetxattr(fd, name, buffer),
            Opened::Place(_) => getxattr(path.as_str(), name, buffer),
        })?;
        all.insert(name.to_bytes().into(), value.into());
    }
    Ok(all)
}

/// Calls `fill` with room for the usual, and again with room for the most if that was not enough.
fn with_room(mut fill: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut usual = [0; USUAL];
    match fill(&mut usual) {
        Err(Errno::RANGE) => {}
        len => return Ok(usual[..len?].to_vec()),
    }
    let mut buffer = vec![0; KERNEL_MAX];
    let len = fill(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}
