//! `osupdate complete`, which the completion scripts call. Between them and the program, not for users.

use std::ffi::OsString;
use std::io::Write as _;

use anyhow::Context as _;

use crate::completion;
use crate::exit::Outcome;

/// Print what the last word could become: one per line, with a tab and a description if there is one
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The words of a command line up to the cursor
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let mut text = Vec::new();
        for candidate in completion::candidates(self.words)? {
            text.extend(candidate);
            text.push(b'\n');
        }
        std::io::stdout().write_all(&text).context("cannot write to standard output")?;
        Ok(Outcome::Done)
    }
}
