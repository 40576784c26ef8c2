//! The repository core of osupdate: fs-verity objects, EROFS images, split streams, OCI layers.
//!
//! Knows nothing of boot entries, deployments or the network.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod boot;
pub mod diff;
pub mod digest;
pub mod dumpfile;
pub mod durable;
pub mod erofs;
pub mod fsverity;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod kernel_args;
pub mod mount;
pub mod observer;
pub mod oci;
mod proc_fd;
pub mod published;
pub mod repository;
pub mod scan;
pub mod selinux;
pub mod splitstream;
pub mod tar;
pub mod transform;
pub mod tree;

pub use digest::{Algorithm, Digest};
pub use observer::{Event, Observer};
