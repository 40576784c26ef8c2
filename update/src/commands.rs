//! The commands, one file each: arguments and what they do.

pub mod image;
pub mod repo;
mod repository_path;
