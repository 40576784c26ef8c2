//! Repositories on a real file system. They need neither root nor fs-verity; those that are sealed are tested on whole
//! machines.
#![allow(missing_docs, clippy::print_stderr, reason = "a test binary; skips are printed")]

#[path = "repository/fixture.rs"]
mod fixture;
#[path = "repository/fsck.rs"]
mod fsck;
#[path = "repository/gc.rs"]
mod gc;
#[path = "repository/names.rs"]
mod names;
#[path = "repository/objects.rs"]
mod objects;
#[path = "repository/open.rs"]
mod open;
#[path = "repository/peer.rs"]
mod peer;
