//! `osupdate repo hold`

use std::ffi::OsString;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, bail};
use osupdate_core::observer::Event;

use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::Outcome;

/// Hold off the collection of garbage while a command runs
///
/// The repository is locked as by a reader: everybody can read and add, nobody can remove. Without a command, until this
/// one is interrupted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate repo hold --repo /srv/composefs rsync --archive /srv/composefs/ backup:/srv/composefs/")]
pub(super) struct Args {
    /// What to run, with its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND", value_hint = clap::ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        // Held until the end of this function, or of the process.
        let repository = repository.open()?;
        let Some((program, arguments)) = self.command.split_first() else {
            let text = format!("holding the repository {} until this is interrupted", repository.path().display());
            context.observer.event(Event::Step(&text));
            loop {
                thread::park();
            }
        };
        let name = program.to_string_lossy();
        let status = Command::new(program).args(arguments).status().with_context(|| format!("cannot run {name}"))?;
        if !status.success() {
            bail!("{name} failed with {status}");
        }
        Ok(Outcome::Done)
    }
}
