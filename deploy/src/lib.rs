#![doc = include_str!("../STATES.md")]
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod boot;
pub mod booted;
pub mod bootloader;
mod change;
pub mod check;
pub mod cleanup;
mod directory;
mod esps;
pub mod etc_conflict;
pub mod freshness;
pub mod install;
pub mod kargs;
pub mod list;
mod loader;
pub mod local_addon;
pub mod machine;
pub mod model;
pub mod plan;
pub mod preflight;
pub mod prepare;
pub mod program;
pub mod rollback;
pub mod roots;
#[cfg(test)]
mod scenarios;
pub mod stage;
pub mod state;
pub mod survey;
pub mod sysroot;
pub mod timestamp;
pub mod tool;
pub mod trust;
pub mod uki;

pub use osupdate_record as record;
