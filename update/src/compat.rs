//! The tools of the C composefs: `mkcomposefs`, `composefs-info`, `mount.composefs`.
//!
//! Options, output and exit statuses are those of version 1.0.8, so that software which runs these tools works unchanged:
//! results on standard output, a message after the name of the tool on standard error, status 1 for whatever is wrong.
//! What those tools take by accident is refused; `update/tests/c_tools` lists it.

mod info;
mod mkcomposefs;
mod mount;
mod options;
mod store;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Why a tool fails.
enum Failure {
    /// With the tool's name before it.
    Message(String),
    /// Wrong usage: the message, if there is one, then the usage.
    Usage(String),
    /// The usage was asked for.
    Help,
}

impl Failure {
    /// What was tried and what the kernel, or the library, said.
    fn because(what: impl std::fmt::Display, reason: impl std::fmt::Display) -> Self {
        Self::Message(format!("{what}: {reason}"))
    }
}

/// The text of an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {}", plain(error)));
        source = error.source();
    }
    text
}

/// An error as C programs print it: without the number.
fn plain(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// One of the tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    MkComposefs,
    Info,
    Mount,
}

impl Tool {
    const ALL: [Self; 3] = [Self::MkComposefs, Self::Info, Self::Mount];

    const fn name(self) -> &'static str {
        match self {
            Self::MkComposefs => "mkcomposefs",
            Self::Info => "composefs-info",
            Self::Mount => "mount.composefs",
        }
    }

    /// Runs the tool with the arguments behind its name.
    pub(crate) fn run(self, arguments: &[OsString]) -> ExitCode {
        let (usage, result) = match self {
            Self::MkComposefs => (mkcomposefs::USAGE, mkcomposefs::run(arguments)),
            Self::Info => (info::USAGE, info::run(arguments)),
            Self::Mount => (mount::USAGE, mount::run(arguments)),
        };
        let text = match result {
            Ok(()) => return ExitCode::SUCCESS,
            Err(Failure::Help) => {
                return match std::io::stdout().write_all(usage.as_bytes()) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(_) => ExitCode::FAILURE,
                };
            }
            Err(Failure::Message(message)) => format!("{}: {message}\n", self.name()),
            Err(Failure::Usage(message)) if message.is_empty() => usage.to_owned(),
            Err(Failure::Usage(message)) => format!("{message}\n{usage}"),
        };
        let text: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
        // Standard error is gone: the status must do.
        if std::io::stderr().write_all(text.as_bytes()).is_err() {
            return ExitCode::FAILURE;
        }
        ExitCode::FAILURE
    }
}

/// The tool that was called, and its arguments.
pub(crate) fn tool(arguments: &[OsString]) -> Option<(Tool, &[OsString])> {
    let named = |name: &OsStr| Tool::ALL.into_iter().find(|tool| name == tool.name());
    let (program, rest) = arguments.split_first()?;
    if let Some(tool) = Path::new(program).file_name().and_then(named) {
        return Some((tool, rest));
    }
    let (first, rest) = rest.split_first()?;
    named(first).map(|tool| (tool, rest))
}
