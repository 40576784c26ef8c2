//! The harness of the tests that need a whole machine.
//!
//! A test takes the [`images`] it needs (built once, kept in a cache that is keyed by what they are made of), serves them
//! from a [`registry`] on loopback, boots a [`machine`] through real firmware, talks to the [`guest`] in it, and may change
//! its [`disk`] while it is off. The guest is reached through a virtio serial port, so that it works before and without any
//! network; what it prints on its console is shown when a test fails.
#![forbid(unsafe_code)]

pub mod disk;
pub mod examples;
pub mod guest;
pub mod images;
pub mod initrd;
pub mod journey;
pub mod lab;
pub mod layout;
pub mod machine;
pub mod next_release;
pub mod protocol;
pub mod registry;
pub mod sealed;
pub mod secure_boot;
pub mod signatures;
pub mod signing;
pub mod tool;
pub(crate) mod tpm;
pub mod tree;
pub mod uki;
pub mod web_server;
