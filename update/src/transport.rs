//! Where images come from: registries and OCI directories.

pub mod platform;
pub mod reference;
pub mod registry;

pub use reference::ImageReference;
