//! Where images come from: registries and OCI directories.

pub mod reference;

pub use reference::ImageReference;
