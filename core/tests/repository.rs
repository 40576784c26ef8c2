//! Repositories on a real file system. They need no root; those in `sealed` are skipped where there is no fs-verity.
#![allow(missing_docs, clippy::print_stderr, reason = "a test binary; skips are printed")]

#[path = "repository/copy.rs"]
mod copy;
#[path = "repository/fixture.rs"]
mod fixture;
#[path = "repository/fsck.rs"]
mod fsck;
#[path = "repository/gc.rs"]
mod gc;
#[path = "repository/merged.rs"]
mod merged;
#[path = "repository/names.rs"]
mod names;
#[path = "repository/objects.rs"]
mod objects;
#[path = "repository/open.rs"]
mod open;
#[path = "repository/peer.rs"]
mod peer;
#[path = "repository/repair.rs"]
mod repair;
#[path = "repository/sealed.rs"]
mod sealed;
#[path = "repository/why.rs"]
mod why;
