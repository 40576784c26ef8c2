//! What is written on disk for a deployment, and read again when it boots for the first time.
//!
//! Types and names only: this crate opens no file. `osupdate-deploy` writes these records, `osupdate-setup-root` reads
//! them in the initramfs. A record may be read by a program older than the one that wrote it, because an older
//! deployment is always there to go back to; see [`Deployment`] for what that asks of both.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod deployment;
mod id;
pub mod paths;
mod trust;

pub use deployment::{
    Addon, Boot, Deployment, Etc, Image, LocalAddon, Origin, ParseError, RECORD_VERSION, Uki, WriteError,
};
pub use id::{DeploymentId, ParseDeploymentIdError};
pub use trust::{Needed, Requirement, Signature};
