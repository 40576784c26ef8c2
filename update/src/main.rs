//! The `osupdate` program; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    osupdate_sys::allocator::keep_little();
    osupdate::main(std::env::args_os())
}
