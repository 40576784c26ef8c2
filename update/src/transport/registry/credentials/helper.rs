//! Credential helpers: programs `docker-credential-NAME` that know the credentials for registries.
//!
//! `docker-credential-NAME get` reads the registry from standard input and answers
//! `{"ServerURL": "…", "Username": "…", "Secret": "…"}`; a failure is told on standard output, too, with status 1. The user
//! name `<token>` says that the secret is an identity token.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use thiserror::Error;

use super::Credentials;
use crate::output::printable;

/// Longest run of a helper.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer of a helper.
const ANSWER_MAX: u64 = 64 << 10;

/// Why a helper has no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HelperError {
    /// The name cannot be part of a program's name.
    #[error("its name is not one, expected letters, digits and . _ -")]
    Name,
    /// It cannot be started.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It takes too long.
    #[error("{program} did not end within {} seconds", TIMEOUT.as_secs())]
    TimeOut {
        /// The program.
        program: String,
    },
    /// It answers without end.
    #[error("{program} answered more than {} KiB", ANSWER_MAX >> 10)]
    TooLong {
        /// The program.
        program: String,
    },
    /// It failed.
    #[error("{program} ended with {status}: {message}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it says.
        message: String,
    },
    /// It does not answer in the right form.
    #[error("{program} answered in a form that is not known")]
    Answer {
        /// The program.
        program: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a helper for the credentials for a registry; `None` if it has none.
pub(super) fn get(name: &str, registry: &str) -> Result<Option<Credentials>, HelperError> {
    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c)) {
        return Err(HelperError::Name);
    }
    ask(&format!("docker-credential-{name}"), registry, TIMEOUT)
}

fn ask(program: &str, registry: &str, timeout: Duration) -> Result<Option<Credentials>, HelperError> {
    let failed = |source| HelperError::Run { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + timeout;
    let answered = exchange(&mut child, registry, timeout);
    let status = match &answered {
        Some(Ok(answer)) if answer.len() as u64 <= ANSWER_MAX => wait(&mut child, deadline).map_err(failed)?,
        _ => None,
    };
    let Some(status) = status else {
        end(&mut child).map_err(failed)?;
        let program = program.to_owned();
        return Err(match answered {
            Some(Ok(answer)) if answer.len() as u64 > ANSWER_MAX => HelperError::TooLong { program },
            Some(Err(source)) => HelperError::Run { program, source },
            _ => HelperError::TimeOut { program },
        });
    };
    let answer = answered.and_then(Result::ok).unwrap_or_default();
    if !status.success() {
        let message = printable(String::from_utf8_lossy(&answer).trim());
        // These words are part of the protocol.
        return match message.contains("credentials not found") {
            true => Ok(None),
            false => Err(HelperError::Failed { program: program.to_owned(), status, message }),
        };
    }
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|source| HelperError::Answer { program: program.to_owned(), source })?;
    Ok(match answer {
        Answer { secret, .. } if secret.is_empty() => None,
        Answer { username, secret } if username == "<token>" => Some(Credentials::IdentityToken(secret)),
        Answer { username, secret } => Some(Credentials::Password { user: username, password: secret }),
    })
}

/// Writes the question and reads the answer; `None` if it does not end in time. An answer that is too long is cut one byte
/// after its longest form.
fn exchange(child: &mut Child, registry: &str, timeout: Duration) -> Option<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let question = registry.to_owned();
    // Neither end may make us wait for longer, so both are left to a thread that ends with the program.
    thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            match stdin.write_all(question.as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    tracing::debug!("a credential helper does not read its question: {error}, ignoring");
                }
                _ => {}
            }
        }
        let mut answer = Vec::new();
        let read = stdout.map_or(Ok(0), |stdout| stdout.take(ANSWER_MAX + 1).read_to_end(&mut answer));
        // Nobody listens any more after the time-out.
        drop(sender.send(read.map(|_| answer)));
    });
    receiver.recv_timeout(timeout).ok()
}

/// How a helper ended that has answered; `None` if it does not end in time.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a helper with all processes that it started.
fn end(child: &mut Child) -> io::Result<()> {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        match kill_process_group(group, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    child.wait().map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// What a helper with this shell script answers.
    fn run(script: &str, timeout: Duration) -> Result<Option<Credentials>, String> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-x");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let program = program.display().to_string();
        loop {
            match ask(&program, "h.example:5000", timeout) {
                // A process that another test starts at this moment may have the file open for a moment, too.
                Err(HelperError::Run { source, .. }) if source.kind() == io::ErrorKind::ExecutableFileBusy => {}
                result => return result.map_err(|error| error.to_string().replace(&program, "PROGRAM")),
            }
        }
    }

    #[test]
    fn a_helper_is_asked_for_the_registry() {
        let answer = r#"[ "$1" = get ] && echo "{\"ServerURL\":\"x\",\"Username\":\"me\",\"Secret\":\"for $(cat)\"}""#;
        let password = Credentials::Password { user: "me".into(), password: "for h.example:5000".into() };
        assert_eq!(run(answer, TIMEOUT), Ok(Some(password)));
        let token = r#"cat >/dev/null; echo '{"ServerURL":"x","Username":"<token>","Secret":"abc"}'"#;
        assert_eq!(run(token, TIMEOUT), Ok(Some(Credentials::IdentityToken("abc".into()))));
        assert_eq!(run("echo credentials not found in native keychain; exit 1", TIMEOUT), Ok(None));
    }

    #[test]
    fn a_helper_that_fails_is_told_of() {
        let failed = run(r"printf 'no \033[2Jkeychain'; exit 1", TIMEOUT).unwrap_err();
        assert_eq!(failed, "PROGRAM ended with exit status: 1: no [2Jkeychain");
        assert_eq!(run("echo x", TIMEOUT).unwrap_err(), "PROGRAM answered in a form that is not known");
        assert_eq!(run("yes", TIMEOUT).unwrap_err(), "PROGRAM answered more than 64 KiB");
        assert!(matches!(get("no-such-helper", "h.example"), Err(HelperError::Run { .. })));
        assert!(matches!(get("../x", "h.example"), Err(HelperError::Name)));
    }

    #[test]
    fn a_helper_that_hangs_is_ended_with_its_children() {
        let start = Instant::now();
        // The child keeps standard output open.
        let error = run("sleep 60 & sleep 60", Duration::from_millis(200)).unwrap_err();
        assert!(error.contains("did not end within"), "{error}");
        // It has answered, and goes on.
        let error = run("echo {}; exec >/dev/null; sleep 60", Duration::from_millis(200)).unwrap_err();
        assert!(error.contains("did not end within"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
