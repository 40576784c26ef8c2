//! Boot entries, boot files, the loader and its variables: all that osupdate has on the ESP.
//!
#![doc = include_str!("../LAYOUT.md")]
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod authenticode;
mod boot_digest;
pub mod boot_program;
pub mod entry;
pub mod esp;
pub mod gpt;
pub mod loader_install;
pub mod locate;
pub mod measure;
mod medium;
pub mod mounted;
pub mod name;
pub mod order;
pub mod paths;
pub mod pe;
pub mod secure_boot;
pub mod uki;
pub mod variables;
pub mod version;

pub use boot_digest::{BootDigest, ParseBootDigestError, Source};
pub use entry::{Entry, Program, UkiKey};
pub use esp::Esp;
pub use medium::AccessError;
pub use name::{BootTries, EntryName};
