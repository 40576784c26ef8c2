//! composefs images through FUSE: for who may not mount, and for kernels without EROFS or overlayfs.
//!
//! A [`View`] is a whole image in memory, numbered; file contents stay in the repository. [`mount`] gives it a place, and
//! [`Served::serve`] answers the kernel, on several threads, until it is unmounted.
//!
//! What is served never changes, so the kernel may keep all that it is told: names, also those that are not there,
//! attributes, directories, symbolic links and file contents. An inode's number is its index in breadth-first order plus
//! one, so the root is 1, hard links share one, and nothing is counted or forgotten. Offsets in directories are indexes:
//! `.` is followed by 1, `..` by 2.
//!
//! Each object's digest is checked before its first byte is served, and again when the file is no longer the same: another
//! inode, size or change time. Where the repository has fs-verity the kernel is asked for the digest and checks what is read.
//! An object that is missing or damaged is an I/O error for who reads it, and named in the log.
//!
//! If the process may (`CAP_SYS_ADMIN`, linux 6.9) the kernel reads objects of more than 128 KiB itself: passthrough. That needs a
//! request for each file that is opened, so it ends when many small ones are. Otherwise objects are not opened when their file
//! is, only read, and read once: the kernel keeps the contents.
//!
//! Objects that a reader of a whole tree will come to are checked ahead of him, and large ones by threads of their own: who
//! waits for one of these does not make readers of small ones wait.
#![forbid(unsafe_code)]

mod ahead;
mod contents;
mod files;
mod server;
mod session;
mod view;
mod workers;

pub use contents::ContentError;
pub use session::{Access, Ender, MountError, MountOptions, Served, mount, unmount};
pub use view::View;
