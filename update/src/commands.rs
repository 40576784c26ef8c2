//! The commands, one file each: arguments and what they do.

pub mod bootloader;
pub mod complete;
pub mod completion;
pub mod gc;
pub mod image;
pub mod install;
pub mod kargs;
pub mod list;
pub mod man_pages;
pub(crate) mod policy_options;
pub mod repo;
pub(crate) mod repository_path;
pub mod rollback;
pub(crate) mod signing_options;
pub mod status;
mod summary_key;
pub mod switch;
mod transfer;
pub(crate) mod trust_options;
pub mod uki;
pub mod upgrade;
