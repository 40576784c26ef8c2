//! Secure Boot keys that come with the image, for systemd-boot to enrol: `/usr/lib/bootc/install/secureboot-keys/<set>/*.auth`.
//!
//! The directory is the one that bootc takes them from, so an image needs them only once. A set has the signed variables PK, KEK
//! and db, and perhaps dbx. They go to `loader/keys/<set>/` on the ESP. systemd-boot enrols the set `auto` by itself in virtual
//! machines, and offers every set in its menu elsewhere; only while the firmware is in setup mode.

use std::io::{self, Read as _};

use osupdate_core::repository::{ObjectError, Repository};
use osupdate_core::tree::{Entry, Tree};
use osupdate_efi::Esp;
use osupdate_efi::loader_install::{EnrolmentKeys, InstallLoaderError};
use osupdate_efi::secure_boot::{Refused, SecureBoot, SignedVariableError};
use thiserror::Error;

use crate::boot::BootError;
use crate::loader::LoaderFile;
use crate::program::Program;

/// Where images have the keys, from their root.
const DIRECTORY: &str = "usr/lib/bootc/install/secureboot-keys";

/// The variables that systemd-boot writes, in the order in which it does; the last may be missing.
const VARIABLES: [&str; 4] = ["db", "dbx", "KEK", "PK"];
const OPTIONAL: &str = "dbx";

/// Largest file that is read. Firmware has less room than this for variables.
const SIZE_MAX: u64 = 1 << 20;

/// Why the keys of an image were not put on the ESP.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EnrolmentError {
    /// A set cannot be enrolled.
    #[error("the set of Secure Boot keys /{DIRECTORY}/{set} of the image has no {variable}.auth")]
    Incomplete {
        /// Name of the set.
        set: String,
        /// What is missing.
        variable: &'static str,
    },
    /// The name of a set cannot be that of a directory on the ESP.
    #[error("the set of Secure Boot keys {set:?} of the image has a name that an ESP cannot have")]
    Name {
        /// Name of the set.
        set: String,
    },
    /// A file is too large.
    #[error("/{path} of the image has {size_bytes} bytes, which is no Secure Boot variable")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        size_bytes: u64,
    },
    /// A file cannot be opened in the repository.
    #[error("cannot open /{path} of the image")]
    Open {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: ObjectError,
    },
    /// A file cannot be read.
    #[error("cannot read /{path} of the image")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A variable is not what it must be.
    #[error("/{path} of the image cannot be enrolled")]
    Variable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: SignedVariableError,
    },
    /// Once the keys were enrolled, the machine would not boot.
    #[error(
        "the set of Secure Boot keys /{DIRECTORY}/{set} of the image would keep the machine from booting: {path} would be refused"
    )]
    LocksOut {
        /// Name of the set.
        set: String,
        /// What would not be started.
        path: String,
        /// Why.
        #[source]
        source: Refused,
    },
    /// What boots cannot be read.
    #[error("cannot read what the image boots with")]
    Program(#[source] Box<BootError>),
    /// It cannot be written.
    #[error(transparent)]
    Install(#[from] InstallLoaderError),
}

/// Reads the sets of keys of an image; none if it has none.
pub(crate) fn find(repository: &Repository, tree: &Tree) -> Result<Vec<EnrolmentKeys>, EnrolmentError> {
    let mut sets = Vec::new();
    let Some(directory) = tree.directory(DIRECTORY) else { return Ok(sets) };
    for (name, entry) in &directory.entries {
        if !matches!(entry, Entry::Directory(_)) {
            continue;
        }
        let set = String::from_utf8_lossy(name).into_owned();
        if !set.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-_.".contains(&byte)) || set.starts_with('.') {
            return Err(EnrolmentError::Name { set });
        }
        let mut variables = Vec::new();
        for variable in VARIABLES {
            let path = format!("{DIRECTORY}/{set}/{variable}.auth");
            match tree.follow_to_file(&path) {
                None if variable == OPTIONAL => {}
                None => return Err(EnrolmentError::Incomplete { set, variable }),
                Some(content) if content.size() > SIZE_MAX => {
                    return Err(EnrolmentError::TooLarge { path, size_bytes: content.size() });
                }
                Some(content) => {
                    let mut contents = Vec::new();
                    let mut reader = repository
                        .open_content(content)
                        .map_err(|source| EnrolmentError::Open { path: path.clone(), source })?;
                    reader.read_to_end(&mut contents).map_err(|source| EnrolmentError::Read { path, source })?;
                    variables.push((variable.to_owned(), contents));
                }
            }
        }
        sets.push(EnrolmentKeys { set, variables });
    }
    Ok(sets)
}

/// The loader with which the machine will boot, also once one of the sets is enrolled; the first one if there are none.
pub(crate) fn choose(
    repository: &Repository,
    program: &Program,
    loaders: Vec<LoaderFile>,
    sets: &[EnrolmentKeys],
) -> Result<Option<LoaderFile>, EnrolmentError> {
    let mut refused = None;
    for loader in loaders {
        match check(repository, program, &loader, sets) {
            Ok(()) => return Ok(Some(loader)),
            Err(err) => refused = Some(err),
        }
    }
    refused.map_or(Ok(None), Err)
}

/// Checks that the machine will still boot once one of the sets is enrolled: the loader, and what it starts.
fn check(
    repository: &Repository,
    program: &Program,
    loader: &LoaderFile,
    sets: &[EnrolmentKeys],
) -> Result<(), EnrolmentError> {
    for EnrolmentKeys { set, variables } in sets {
        let variable =
            |name: &str| variables.iter().find(|(variable, _)| variable == name).map(|(_, contents)| &contents[..]);
        let path = format!("{DIRECTORY}/{set}/db.auth");
        let secure_boot = SecureBoot::after_enrolment(variable("db").unwrap_or_default(), variable(OPTIONAL))
            .map_err(|source| EnrolmentError::Variable { path, source })?;
        let locks_out =
            |path: &str, source| EnrolmentError::LocksOut { set: set.clone(), path: path.to_owned(), source };
        secure_boot.check(&loader.program).map_err(|refused| locks_out(&loader.path, refused))?;
        program
            .each_signed(repository, |path, contents| {
                secure_boot.check(contents).map_err(|source| BootError::Refused { path: path.to_owned(), source })
            })
            .map_err(|err| match err {
                BootError::Refused { path, source } => locks_out(&path, source),
                err => EnrolmentError::Program(Box::new(err)),
            })?;
    }
    Ok(())
}

/// Puts sets of keys on the ESP, and returns their names.
pub(crate) fn install(esp: &Esp, sets: &[EnrolmentKeys]) -> Result<Vec<String>, EnrolmentError> {
    for keys in sets {
        esp.install_enrolment_keys(keys)?;
    }
    Ok(sets.iter().map(|keys| keys.set.clone()).collect())
}
