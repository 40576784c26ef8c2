//! Running the system's own programs: the partitioner and the makers of file systems.
//!
//! Each runs with a fixed locale and without input from the terminal. A failure carries the command as it was run and
//! what the program wrote to standard error.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::process::{Command, ExitStatus, Stdio};

use thiserror::Error;

/// Why a program did not do its work.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ToolError {
    /// It is not installed.
    #[error("the program {program} is not installed")]
    Missing {
        /// The program.
        program: String,
    },
    /// It could not be started or talked to.
    #[error("cannot run {command:?}")]
    Run {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{command:?} failed with {status}{}", detail(stderr))]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
    },
}

fn detail(stderr: &str) -> String {
    match stderr.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

/// One call of a program.
#[derive(Debug)]
pub(crate) struct Tool {
    program: String,
    arguments: Vec<OsString>,
    input: String,
}

impl Tool {
    /// A call of `program`, which is searched in PATH and in the directories of system programs.
    pub(crate) fn new(program: &str) -> Self {
        Self { program: program.to_owned(), arguments: Vec::new(), input: String::new() }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Sets what the program reads from standard input.
    pub(crate) fn input(mut self, text: &str) -> Self {
        text.clone_into(&mut self.input);
        self
    }

    /// Runs it to its end and returns its standard output.
    pub(crate) fn run(self) -> Result<String, ToolError> {
        let mut line = self.program.clone();
        for argument in &self.arguments {
            line.push(' ');
            line.push_str(&argument.to_string_lossy());
        }
        let run = |source| ToolError::Run { command: line.clone(), source };
        tracing::debug!("running {line}");
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env("LC_ALL", "C")
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|err| match err.kind() {
                io::ErrorKind::NotFound => ToolError::Missing { program: self.program.clone() },
                _ => run(err),
            })?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(self.input.as_bytes()) {
                // It ended without reading: its status says why.
                Err(err) if err.kind() != io::ErrorKind::BrokenPipe => return Err(run(err)),
                _ => {}
            }
        }
        let output = child.wait_with_output().map_err(run)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(ToolError::Failed { command: line, status: output.status, stderr: text(&output.stderr) }),
        }
    }
}

/// PATH with the directories of system programs, which an ordinary user's PATH may lack under sudo.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push("/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_shows_command_and_standard_error() {
        let err = Tool::new("sh").arg("-c").arg("cat >&2; exit 3").input("disk on fire\n").run().unwrap_err();
        let text = err.to_string();
        assert!(
            text.contains("sh -c cat") && text.contains("exit status: 3") && text.ends_with(": disk on fire"),
            "{text}"
        );
    }

    #[test]
    fn output_is_returned_and_a_missing_program_is_named() {
        assert_eq!(Tool::new("echo").arg("x").input("unread").run().unwrap(), "x\n");
        let err = Tool::new("mkfs.nonesuch").run().unwrap_err();
        assert_eq!(err.to_string(), "the program mkfs.nonesuch is not installed");
    }
}
