//! fs-verity: makes a file read-only for ever and lets the kernel check every byte that is read from it.
//!
//! Source: `linux/fsverity.h` and the kernel's `Documentation/filesystems/fsverity.rst`. Always 4096-byte blocks, no
//! salt and no signature, as composefs demands.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

/// Block size of the Merkle tree in bytes. Every digest changes with it.
const BLOCK_SIZE: u32 = 4096;

/// Longest digest of the algorithms that the kernel knows (SHA-512), in bytes.
const DIGEST_MAX: u16 = 64;

/// `struct fsverity_enable_arg`.
#[repr(C)]
#[derive(Debug)]
struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

const _: () = assert!(size_of::<EnableArg>() == 128);

/// `struct fsverity_digest` without its flexible array: what the opcode encodes.
#[repr(C)]
struct DigestHeader {
    algorithm: u16,
    size: u16,
}

const _: () = assert!(size_of::<DigestHeader>() == 4);

/// `struct fsverity_digest` with room for the longest digest.
#[repr(C)]
struct DigestBuffer {
    header: DigestHeader,
    bytes: [u8; DIGEST_MAX as usize],
}

const _: () = assert!(size_of::<DigestBuffer>() == 4 + DIGEST_MAX as usize);

/// `#define FS_IOC_ENABLE_VERITY _IOW('f', 133, struct fsverity_enable_arg)`
const FS_IOC_ENABLE_VERITY: Opcode = opcode::write::<EnableArg>(b'f', 133);

/// `#define FS_IOC_MEASURE_VERITY _IOWR('f', 134, struct fsverity_digest)`
const FS_IOC_MEASURE_VERITY: Opcode = opcode::read_write::<DigestHeader>(b'f', 134);

/// Enables fs-verity on a regular file with the hash algorithm of this kernel number (1 SHA-256, 2 SHA-512).
///
/// The descriptor must be read-only and no writable one may be open anywhere (`ETXTBSY`). Once it returns, the data
/// and its Merkle tree are on disk. `EEXIST`: enabled before, perhaps with another algorithm. `ENOTTY`, `EOPNOTSUPP`:
/// the file system has no fs-verity. Source: linux 5.4.
pub fn enable(fd: BorrowedFd<'_>, kernel_id: u8) -> io::Result<()> {
    let arg = EnableArg {
        version: 1,
        hash_algorithm: kernel_id.into(),
        block_size: BLOCK_SIZE,
        salt_size: 0,
        salt_ptr: 0,
        sig_size: 0,
        reserved1: 0,
        sig_ptr: 0,
        reserved2: [0; 11],
    };
    // SAFETY: the opcode and `EnableArg` are those of the kernel header, with its size asserted above; the two pointers
    // in it are null with length 0. The kernel only reads it. rustix has no call for fs-verity.
    Ok(unsafe { ioctl(fd, Setter::<FS_IOC_ENABLE_VERITY, EnableArg>::new(arg)) }?)
}

/// The kernel number of the hash algorithm and the digest of a file with fs-verity.
///
/// `ENODATA`: the file has none. `ENOTTY`, `EOPNOTSUPP`: neither has the file system.
pub fn measure(fd: BorrowedFd<'_>) -> io::Result<(u16, Vec<u8>)> {
    let mut buffer =
        DigestBuffer { header: DigestHeader { algorithm: 0, size: DIGEST_MAX }, bytes: [0; DIGEST_MAX as usize] };
    // SAFETY: the kernel reads `size`, writes at most that many bytes after the header and updates the header; the
    // buffer has room for them, and any bytes are valid for its integer fields. rustix has no call for fs-verity.
    unsafe { ioctl(fd, Updater::<FS_IOC_MEASURE_VERITY, DigestBuffer>::new(&mut buffer)) }?;
    let digest = buffer.bytes.get(..buffer.header.size.into()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((buffer.header.algorithm, digest.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::io::Errno;

    use super::*;

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
    #[test]
    fn opcodes_are_those_of_the_kernel_header() {
        assert_eq!(u64::from(FS_IOC_ENABLE_VERITY), 0x4080_6685);
        assert_eq!(u64::from(FS_IOC_MEASURE_VERITY), 0xc004_6686);
    }

    #[test]
    fn a_file_without_verity_says_so() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let error = measure(file.as_fd()).unwrap_err();
        let errno = Errno::from_io_error(&error).unwrap();
        assert!([Errno::NOTTY, Errno::OPNOTSUPP, Errno::NODATA].contains(&errno), "{error}");
    }
}
