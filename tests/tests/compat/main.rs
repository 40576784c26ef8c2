//! osupdate and cfsctl 0.9 in the same repositories, by turns.
//!
//! They run where cfsctl is on PATH or named by `CFSCTL`, and say that they were skipped where it is not: it is no part of
//! what `make deps` installs.
#![allow(missing_docs, clippy::print_stderr, reason = "a test binary; skips are printed")]

mod cfsctl;
mod collection;
mod fixture;
mod in_turns;
mod old_format;
mod ours;
mod ours_to_theirs;
mod same_ids;
mod theirs_to_ours;
