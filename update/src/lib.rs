//! The `osupdate` command: arguments, transports, progress, output.
//!
//! Results go to standard output, everything else to standard error. The library crates below never print: they return
//! values and report to an [`osupdate_core::Observer`], of which [`progress`] has the implementations.
//!
#![doc = include_str!("../CLI.md")]
#![forbid(unsafe_code)]

pub mod admission;
mod byte_size;
pub mod cli;
pub mod commands;
mod compat;
pub mod completion;
mod duration;
pub mod exit;
pub mod lint;
mod log;
pub mod man;
mod metered;
pub mod output;
mod pkcs11;
pub mod progress;
pub mod publish;
pub mod push;
pub mod seal;
mod space;
mod system;
pub mod transport;
pub mod trust;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

/// Runs the program with its arguments, the first of which is the name that it was called by.
///
/// Called as `mkcomposefs`, `composefs-info` or `mount.composefs`, or with one of these as the first argument, it is that
/// program.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    if let Some((tool, arguments)) = compat::tool(&arguments) {
        return tool.run(arguments);
    }
    match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => cli.run(),
        Err(error) => exit::usage(&error),
    }
}
