//! The program as `mkcomposefs`, `composefs-info` and `mount.composefs`, side by side with the C tools.
//!
//! These are found on `PATH`, or in a Debian tree which `OSUPDATE_C_TOOLS` names: one with the package `composefs`, of any
//! release; nothing is run in it but the three tools. Without them the tests say that they are skipped.
//!
//! What is different on purpose: what the C tools take or lose by accident, in [`vectors`]; and the wording of messages.

mod directories;
mod tools;
mod vectors;
