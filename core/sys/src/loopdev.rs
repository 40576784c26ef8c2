//! Loop devices: a block device whose contents are a file, for kernels whose EROFS cannot mount a file itself.
//!
//! Source: `linux/loop.h`; `LOOP_CONFIGURE` needs linux 5.8.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl};

/// `struct loop_info64`.
#[repr(C)]
#[derive(Debug)]
struct LoopInfo64 {
    lo_device: u64,
    lo_inode: u64,
    lo_rdevice: u64,
    lo_offset: u64,
    lo_sizelimit: u64,
    lo_number: u32,
    lo_encrypt_type: u32,
    lo_encrypt_key_size: u32,
    lo_flags: u32,
    lo_file_name: [u8; 64],
    lo_crypt_name: [u8; 64],
    lo_encrypt_key: [u8; 32],
    lo_init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);

/// `struct loop_config`.
#[repr(C)]
#[derive(Debug)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// `#define LOOP_CONFIGURE 0x4C0A`
const LOOP_CONFIGURE: Opcode = 0x4C0A;
/// `#define LOOP_CTL_GET_FREE 0x4C82`
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;

/// `LO_FLAGS_READ_ONLY`
const READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR`: the device goes with its last user.
const AUTOCLEAR: u32 = 4;
/// `LO_FLAGS_DIRECT_IO`: the pages are cached once, above the device. The kernel ignores it where the file cannot.
const DIRECT_IO: u32 = 16;

/// Block size of the device in bytes: that of EROFS.
const BLOCK_SIZE: u32 = 4096;

/// Another process may take the device between the question and the answer; so many times we ask again.
const ATTEMPTS: usize = 64;

/// Asks for the number of a free device: no argument, the number is the return value.
struct GetFree;

// SAFETY: the opcode takes no argument and touches no memory of ours; its return value is a number. None of rustix's
// patterns hands out the return value.
unsafe impl Ioctl for GetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(output)
    }
}

/// Attaches a file to a free loop device, read-only, and returns the device's descriptor and path.
///
/// The device is released when this descriptor and every mount of it are gone.
pub fn attach_read_only(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, PathBuf)> {
    let control = open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let file = u32::try_from(fd.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    for _ in 0..ATTEMPTS {
        // SAFETY: see the implementation of `Ioctl` above; the descriptor is that of loop-control.
        let number = unsafe { ioctl(&control, GetFree) }?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let config = LoopConfig {
            fd: file,
            block_size: BLOCK_SIZE,
            info: LoopInfo64 {
                lo_device: 0,
                lo_inode: 0,
                lo_rdevice: 0,
                lo_offset: 0,
                lo_sizelimit: 0,
                lo_number: 0,
                lo_encrypt_type: 0,
                lo_encrypt_key_size: 0,
                lo_flags: READ_ONLY | AUTOCLEAR | DIRECT_IO,
                lo_file_name: [0; 64],
                lo_crypt_name: [0; 64],
                lo_encrypt_key: [0; 32],
                lo_init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: the opcode and `LoopConfig` are those of the kernel header, with its size asserted above; it has no
        // pointers and the kernel only reads it. rustix has no call for loop devices.
        match unsafe { ioctl(&device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) } {
            Ok(()) => return Ok((device, path)),
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::BUSY.into())
}
