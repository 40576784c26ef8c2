//! How the program ends: exit statuses and the form of error messages.
//!
//! ```text
//! error: cannot pull docker://registry.example.com/os:latest
//!   caused by: the registry has no tag latest of os
//!   hint: tags that it has: 1, 2
//! ```
//!
//! Callers must read any status that they do not know as failure.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use indicatif::BinaryBytes;
use osupdate_core::oci::SourceError;
use osupdate_deploy::bootloader::BootloaderError;
use osupdate_deploy::kargs::allow::NotAllowed;
use osupdate_deploy::local_addon::LocalAddonError;
use osupdate_deploy::stage::StageError;
use osupdate_deploy::uki::Mismatch;
use osupdate_efi::authenticode::{KeyError, SignError};
use osupdate_efi::boot_program::ReplaceError;
use osupdate_efi::esp::PutBootFilesError;
use osupdate_efi::secure_boot::Refused;

use crate::admission::AdmissionError;
use crate::commands::image::NotRun;
use crate::output::for_terminal;
use crate::pkcs11::TokenError;
use crate::publish::{PublishError, SummaryKeyError};
use crate::push::PushError;
use crate::space;
use crate::transport::proxy::ProxyError;
use crate::transport::registry::{LimitReached, RegistryError};
use crate::transport::{TargetError, TransportError};
use crate::trust::TrustError;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was done: status 0.
    Done,
    /// The command finished and found something wrong, which it printed: status 3.
    Findings,
    /// The program that it was to run has ended, with this status.
    Program(u8),
}

/// The exit statuses and what they mean; a contract. The help and the manual pages say it in these words.
pub const STATUSES: [(u8, &str); 4] = [
    (0, "done"),
    (STATUS_FAILED, "failed"),
    (STATUS_USAGE, "wrong usage"),
    (STATUS_FINDINGS, "finished with findings, or stopped at --max-bytes"),
];

/// [`STATUSES`] in one line, for the help.
pub fn statuses() -> String {
    let meanings: Vec<_> = STATUSES.iter().map(|(status, meaning)| format!("{status} {meaning}")).collect();
    format!("Exit status: {}.", meanings.join(", "))
}

/// Most characters of one cause that are shown.
const CAUSE_MAX: usize = 4000;

const STATUS_FAILED: u8 = 1;
const STATUS_USAGE: u8 = 2;
const STATUS_FINDINGS: u8 = 3;

/// An error with advice for the user. Shows as the error itself; the advice is printed on a line of its own.
pub struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl fmt::Debug for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Attaches advice to errors.
pub trait ResultExt<T> {
    /// Adds the next step for the user, in the imperative, to an error.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> ResultExt<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::new(Hinted { error: error.into(), hint: hint.into() }))
    }
}

/// Prints what clap has to say (help, version, or a wrong usage) and gives the exit status for it.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to be told if the help cannot be printed.
    if error.print().is_err() {
        return ExitCode::from(STATUS_FAILED);
    }
    if error.use_stderr() { ExitCode::from(STATUS_USAGE) } else { ExitCode::SUCCESS }
}

/// Prints the error, if there is one, and gives the exit status.
pub fn report(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(STATUS_FINDINGS),
        Ok(Outcome::Program(status)) => ExitCode::from(status),
        Err(error) => {
            let (text, status) = match error.chain().find_map(limit_reached) {
                Some(limit) => (stopped(limit), STATUS_FINDINGS),
                None => (message(&error), error.chain().find_map(not_run).unwrap_or(STATUS_FAILED)),
            };
            if std::io::stderr().write_all(text.as_bytes()).is_err() {
                tracing::debug!("standard error is gone, ignoring: the status must do");
            }
            ExitCode::from(status)
        }
    }
}

/// The status that tells that a program could not be run.
fn not_run(error: &(dyn Error + 'static)) -> Option<u8> {
    Some(error.downcast_ref::<NotRun>()?.status())
}

/// Whether an error is the end that the user has asked for.
fn limit_reached<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a LimitReached> {
    // These hide what they carry from the chain.
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return limit_reached(error.get_ref()?);
    }
    if let Some(error) = error.downcast_ref::<SourceError>() {
        return limit_reached(error.get_ref());
    }
    error.downcast_ref()
}

/// What is said when [`LimitReached`] ended the command.
fn stopped(limit: &LimitReached) -> String {
    format!(
        "stopped: {} were fetched, as much as --max-bytes allows\n  \
         hint: run the command again to go on; what has arrived is not fetched again\n",
        BinaryBytes(limit.max_bytes)
    )
}

/// The whole message: the error, its causes without repetitions, the hints.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut shown: Vec<String> = Vec::new();
    let mut hints = Vec::new();
    for cause in error.chain() {
        if let Some(hint) = hint(cause) {
            hints.push(hint);
        }
        // Parts of it may come from a stranger, who must not write to the terminal as he likes, or as much.
        let mut line = for_terminal(&cause.to_string());
        if let Some((end, _)) = line.char_indices().nth(CAUSE_MAX) {
            line.truncate(end);
            line.push('…');
        }
        // Other people's errors print their source as well as returning it.
        if shown.iter().any(|earlier| earlier.contains(&line)) {
            continue;
        }
        let label = if shown.is_empty() { "error: " } else { "  caused by: " };
        text.push_str(label);
        text.push_str(&line.replace('\n', "\n    "));
        text.push('\n');
        shown.push(line);
    }
    for hint in hints {
        text.push_str(&format!("  hint: {hint}\n"));
    }
    text
}

/// An error with its causes in one line, for reports.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The advice that belongs to one error of a chain.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(hinted) = error.downcast_ref::<Hinted>() {
        return Some(hinted.hint.clone());
    }
    if let Some(error) = error.downcast_ref::<RegistryError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<TrustError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<SignError>() {
        return error.hint().map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<KeyError>() {
        return error.hint().map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<TokenError>() {
        return error.hint().map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<Refused>() {
        return Some(error.hint().to_owned());
    }
    // These show as what they carry and hide it from the chain.
    if let Some(error) = error.downcast_ref::<SourceError>() {
        return hint(error.get_ref());
    }
    match error.downcast_ref() {
        Some(TransportError::Registry(error)) => return error.hint(),
        Some(TransportError::Proxy(error)) => return error.hint(),
        _ => {}
    }
    if let Some(PushError::Target(error)) = error.downcast_ref() {
        return hint(error);
    }
    if let Some(TargetError::Registry(error)) = error.downcast_ref() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<ProxyError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<AdmissionError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<BootloaderError>() {
        return error.hint().map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<ReplaceError>() {
        return error.hint().map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<PublishError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<SummaryKeyError>() {
        return error.hint().map(str::to_owned);
    }
    if let Some(hint) = space::hint(error) {
        return Some(hint);
    }
    if let Some(PutBootFilesError::DamagedInUse { directory, .. }) = error.downcast_ref() {
        return Some(format!(
            "what osupdate did not put there counts as damage, too: see what is in {directory}. Addons for all UKIs belong into \
             loader/addons"
        ));
    }
    if let Some(hint) = error.downcast_ref().and_then(StageError::hint) {
        return Some(hint.to_owned());
    }
    if let Some(not_allowed) = error.downcast_ref::<NotAllowed>() {
        return Some(not_allowed.hint().to_owned());
    }
    if let Some(hint) = error.downcast_ref().and_then(LocalAddonError::hint) {
        return Some(hint);
    }
    if let Some(mismatch) = error.downcast_ref::<Box<Mismatch>>() {
        return Some(mismatch.hint());
    }
    let error = error.downcast_ref::<io::Error>()?;
    match error.get_ref() {
        Some(inner) => hint(inner),
        None if error.kind() == io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() => {
            Some("run it as root".to_owned())
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn a_limit_is_found_wherever_it_is_and_is_no_error() {
        let limit = LimitReached { max_bytes: 2 << 20 };
        let hidden = io::Error::other(SourceError::new(io::Error::other(limit)));
        let error = anyhow::Error::new(hidden).context("cannot pull x");
        assert_eq!(error.chain().find_map(limit_reached), Some(&limit));
        assert!(stopped(&limit).starts_with("stopped: 2.00 MiB were fetched"), "{}", stopped(&limit));
        assert_eq!(anyhow!("another").chain().find_map(limit_reached), None);
    }

    #[test]
    fn a_cause_without_end_is_cut() {
        let text = message(&anyhow!("{}", "é".repeat(10 * CAUSE_MAX)));
        assert!(text.ends_with("é…\n") && text.chars().count() < CAUSE_MAX + 20);
    }

    #[test]
    fn causes_are_not_repeated_and_hints_come_last() {
        let result: anyhow::Result<()> = Err(anyhow!("connection refused"))
            .context("cannot reach host: connection refused")
            .hint("start it")
            .context("cannot pull x");
        assert_eq!(
            message(&result.unwrap_err()),
            "error: cannot pull x\n  caused by: cannot reach host: connection refused\n  hint: start it\n"
        );
    }
}
