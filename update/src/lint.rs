//! What breaks or weakens an OS image, found before it is on a machine.
//!
//! A [`Lint`] is one kind of thing that can be wrong. Its name is stable: users silence it by that name. Errors are what
//! breaks an update, the boot or the trust in an image; warnings what is lost on a machine, or differs from build to build.

mod accounts;
mod allow;
mod digest;
mod files;
mod identity;
mod initramfs;
mod kernel;
mod places;
mod privileges;
mod secrets;
mod selinux;
mod system;
#[cfg(test)]
mod tests;
mod tmpfiles;
mod uki;
mod walk;

use osupdate_core::boot::BootError;
use osupdate_core::oci::LooseDirectory;
use osupdate_core::repository::OpenContent;
use osupdate_core::tree::Tree;
use osupdate_deploy::kargs::KargsError;
use thiserror::Error;

pub use allow::{Allow, AllowList, FILE as ALLOW_FILE, ParseAllowError};
pub use files::ReadError;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something will not work, or is not safe.
    Error,
    /// Something is lost or left to chance.
    Warning,
}

impl Severity {
    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One kind of thing that can be wrong with an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Lint {
    /// What it is called, in kebab case. Never changes.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Why it is bad: a sentence without its period.
    pub reason: &'static str,
    /// What to do, in the imperative.
    pub fix: &'static str,
}

/// All lints, in the order in which they are told.
pub const LINTS: &[&Lint] = &[
    &places::DIRECTORY_MISSING,
    &system::OS_RELEASE_MISSING,
    &kernel::KERNEL_MISSING,
    &kernel::KERNEL_SEVERAL,
    &kernel::INITRAMFS_MISSING,
    &initramfs::INITRAMFS_SETUP_ROOT,
    &kernel::KERNEL_ARGUMENTS,
    &uki::UKI_DAMAGED,
    &uki::UKI_UNSEALED,
    &uki::UKI_DIGEST,
    &uki::UKI_SEVERAL,
    &uki::UKI_STUB,
    &system::BOOT_LOADER_MISSING,
    &system::FSTAB_ROOT,
    &identity::MACHINE_ID_SET,
    &identity::MACHINE_ID_MISSING,
    &secrets::SSH_HOST_KEY,
    &secrets::SECRET,
    &accounts::EMPTY_PASSWORD,
    &accounts::ACCOUNT_NOT_DECLARED,
    &privileges::PRIVILEGED_WRITABLE,
    &privileges::SET_ID_UNUSUAL,
    &privileges::CAPABILITY_UNUSUAL,
    &privileges::WORLD_WRITABLE,
    &privileges::DEVICE_NODE,
    &selinux::SELINUX_POLICY,
    &selinux::SELINUX_UNLABELLED,
    &digest::DIRECTORY_WITHOUT_ENTRY,
    &digest::DIRECTORY_TIME_OPEN,
    &digest::NAME_NOT_UTF8,
    &places::BOOT_CONTENT,
    &places::RUN_CONTENT,
    &places::TMP_CONTENT,
    &places::VAR_CONTENT,
    &places::LOG_FILE,
    &identity::BUILDER_LEFTOVER,
];

/// The lint of this name.
pub fn by_name(name: &str) -> Option<&'static Lint> {
    LINTS.iter().copied().find(|lint| lint.name == name)
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of which kind.
    pub lint: &'static Lint,
    /// Absolute path in the image, with `\xNN` for bytes that are not UTF-8; `None` if it is about the whole image.
    pub path: Option<String>,
    /// What is found there.
    pub detail: String,
}

/// An image to be looked at.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "files have nothing to show")]
pub struct Image<'a> {
    /// Its files as the layers or the directory have them: not transformed, with all extended attributes.
    pub tree: &'a Tree,
    /// The contents of the files.
    pub files: &'a dyn OpenContent,
    /// Directories that its layers leave open; empty for a directory.
    pub loose: &'a [LooseDirectory],
}

/// Why an image could not be looked at to the end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LintError {
    /// A file of it cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The same, of one that decides on how it boots.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Kernel arguments cannot be read.
    #[error(transparent)]
    Kargs(#[from] KargsError),
}

/// Looks for everything that is known to break or weaken an image. Findings are in the order of [`LINTS`], those of one kind in
/// that of their paths.
///
/// # Errors
/// When a file of the image cannot be read; that it is not what it should be is a finding.
pub fn check(image: &Image<'_>) -> Result<Vec<Finding>, LintError> {
    let mut findings = Findings::default();
    places::check(image, &mut findings)?;
    system::check(image, &mut findings)?;
    kernel::check(image, &mut findings)?;
    identity::check(image, &mut findings)?;
    secrets::check(image, &mut findings)?;
    accounts::check(image, &mut findings)?;
    privileges::check(image, &mut findings);
    let booted = selinux::check(image, &mut findings)?;
    uki::check(image, booted.as_ref(), &mut findings)?;
    digest::check(image, &mut findings);
    let order = |lint: &Lint| LINTS.iter().position(|other| other.name == lint.name);
    findings.0.sort_by(|one, other| (order(one.lint), &one.path).cmp(&(order(other.lint), &other.path)));
    Ok(findings.0)
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Adds something that is wrong with a file.
    fn add(&mut self, lint: &'static Lint, path: &[u8], detail: impl Into<String>) {
        self.0.push(Finding { lint, path: Some(walk::text(path)), detail: detail.into() });
    }

    /// Adds something that is wrong with the image as a whole.
    fn add_for_all(&mut self, lint: &'static Lint, detail: impl Into<String>) {
        self.0.push(Finding { lint, path: None, detail: detail.into() });
    }
}
