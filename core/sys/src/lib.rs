//! Kernel interfaces that rustix lacks: the fs-verity ioctls, loop devices, mount namespaces and id-mapped mounts; hashing
//! with vector instructions; and the allocator's settings.
//!
//! The only crate of the project with `unsafe` code; each block says why it is sound. One file per kernel interface.
//! Errors are plain [`std::io::Error`] values with the kernel's errno: what an errno means depends on the caller.

pub mod allocator;
pub mod block_hash;
pub mod fsverity;
pub mod id_map;
pub mod loopdev;
pub mod namespace;
