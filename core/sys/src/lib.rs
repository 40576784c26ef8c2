//! Kernel interfaces that rustix lacks: the fs-verity ioctls, loop devices, namespaces and id-mapped mounts, what programs
//! inherit and may not do; keyrings; hashing with vector instructions; and the allocator's settings.
//!
//! The only crate of the project with `unsafe` code; each block says why it is sound. One file per kernel interface.
//! Errors are plain [`std::io::Error`] values with the kernel's errno: what an errno means depends on the caller.

pub mod allocator;
pub mod block_hash;
pub mod forged_input;
pub mod fsverity;
pub mod id_map;
pub mod inheritance;
pub mod keyring;
pub mod loopdev;
pub mod namespace;
