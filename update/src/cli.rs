//! The command line.
//!
//! A new command is a file in `commands/` with an `Args` struct and a `run` method, one variant of `Command` and one
//! arm of `Command::run`. Doc comments of arguments are the help.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use osupdate_core::Observer;

use crate::commands::{
    bootloader, complete, completion, gc, image, install, kargs, list, man_pages, repo, rollback, status, switch, uki,
    upgrade,
};
use crate::exit::{self, Outcome};
use crate::log;
use crate::output::Output;
use crate::progress::{self, Mode};

/// Keeps this machine on a versioned, verified operating-system image.
///
/// An image is an ordinary OCI container image with a kernel in it. It is stored once per distinct file in a
/// repository, mounted as a composefs image, and checked by the kernel, byte by byte, against one digest.
#[derive(Debug, Parser)]
#[command(
    name = "osupdate",
    version,
    infer_subcommands = false,
    subcommand_required = true,
    after_help = exit::statuses()
)]
pub struct Cli {
    /// Print data as JSON on standard output
    #[arg(long, global = true, display_order = 900)]
    json: bool,

    /// How progress is shown on standard error: auto, plain (lines), json (lines), none
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        default_value = "auto",
        hide_possible_values = true,
        display_order = 901
    )]
    progress: Mode,

    /// Show no progress; the same as --progress=none
    #[arg(long, short, global = true, conflicts_with = "progress", display_order = 902)]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

/// What every command gets besides its arguments.
pub struct Context {
    /// Where results go.
    pub output: Output,
    /// Where progress and warnings go; pass it to the libraries.
    pub observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("output", &self.output).finish_non_exhaustive()
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Args),
    List(list::Args),
    Upgrade(upgrade::Args),
    Switch(switch::Args),
    Rollback(rollback::Args),
    Kargs(kargs::Args),
    Install(install::Args),
    Gc(gc::Args),
    Bootloader(bootloader::Args),
    Image(image::Args),
    Repo(repo::Args),
    Uki(uki::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    Complete(complete::Args),
    #[command(hide = true)]
    ManPages(man_pages::Args),
}

impl Command {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self {
            Self::Status(args) => args.run(context),
            Self::List(args) => args.run(context),
            Self::Upgrade(args) => args.run(context),
            Self::Switch(args) => args.run(context),
            Self::Rollback(args) => args.run(context),
            Self::Kargs(args) => args.run(context),
            Self::Install(args) => args.run(context),
            Self::Gc(args) => args.run(context),
            Self::Bootloader(args) => args.run(context),
            Self::Image(args) => args.run(context),
            Self::Repo(args) => args.run(context),
            Self::Uki(args) => args.run(context),
            Self::Completion(args) => args.run(context),
            Self::Complete(args) => args.run(),
            Self::ManPages(args) => args.run(context),
        }
    }
}

impl Cli {
    /// Runs the command and reports its end.
    pub fn run(self) -> ExitCode {
        let mode = if self.quiet { Mode::None } else { self.progress };
        let context = Context { output: Output::new(self.json), observer: progress::observer(mode) };
        log::start(context.observer.clone());
        exit::report(self.command.run(&context))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
