//! The `osupdate` program; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    osupdate::main(std::env::args_os())
}
