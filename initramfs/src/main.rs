#![doc = include_str!("../BOOT.md")]
#![forbid(unsafe_code)]

mod config;
mod copy;
mod etc;
mod image;
mod mounts;
mod options;
mod physical_root;
mod report;
mod setup;

use std::env;
use std::process::ExitCode;

use options::Request;

fn main() -> ExitCode {
    match options::parse(env::args_os().skip(1)) {
        Ok(Request::Run(options)) => setup::main(&options),
        Ok(Request::Help) => {
            print!("{}", options::HELP);
            ExitCode::SUCCESS
        }
        Ok(Request::Version) => {
            println!("osupdate-setup-root {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Err(err) => {
            eprintln!("error: {err}\n  hint: --help lists the options");
            ExitCode::from(2)
        }
    }
}
