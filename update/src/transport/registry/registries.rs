//! Where images are really fetched from: `registries.conf`, version 2, as container tools read it
//! (containers-registries.conf(5)).
//!
//! ```toml
//! [[registry]]
//! prefix = "example.com/os"                # the images that this is about; `*.example.com` for all below a domain
//! location = "registry.example.net/os"     # where they really are; the prefix if it is left out
//! insecure = false                         # true: TLS with whomever, or HTTP
//! blocked = false                          # true: not at all
//! mirror-by-digest-only = false            # true: mirrors only for references with a digest
//! [[registry.mirror]]                      # tried first, in this order
//! location = "mirror.example.org/os"
//! insecure = false
//! pull-from-mirror = "all"                 # or digest-only, tag-only
//! ```
//!
//! Of several tables for an image the one with the longest prefix counts, alone. The main file comes first, then
//! drop-ins by name; a table replaces an earlier one with the same prefix.

mod file;

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::super::reference::{ParseReferenceError, RegistryReference};
use file::{MirrorUse, Registry};

const SYSTEM_FILE: &str = "/etc/containers/registries.conf";
const SYSTEM_DROP_INS: &str = "/etc/containers/registries.conf.d";
/// Names another main file, as for podman.
const FILE_VARIABLE: &str = "CONTAINERS_REGISTRIES_CONF";

/// Why the configuration of registries cannot be followed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistriesError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML of the right form.
    #[error("{} is not valid", .path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A table contradicts itself or another one.
    #[error("{} is not valid: {problem}", .path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A rewritten reference is not one.
    #[error("{} makes {rewritten:?} of {reference}, which is not a reference", .path.display())]
    Location {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        reference: String,
        /// What came out.
        rewritten: String,
        /// Why it is none.
        #[source]
        source: ParseReferenceError,
    },
    /// The administrator does not want images from there.
    #[error("{reference} is blocked by {} (prefix {prefix})", .path.display())]
    Blocked {
        /// What was asked for.
        reference: String,
        /// The prefix of the table.
        prefix: String,
        /// The file.
        path: PathBuf,
    },
}

/// The directory for containers below the user's configuration; none for root, whose images and trust must not depend
/// on whose environment it runs in.
pub(super) fn user_directory() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".config/containers"))
}

/// The files that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistriesFiles {
    main: Option<PathBuf>,
    must_exist: bool,
    drop_ins: Vec<PathBuf>,
}

impl RegistriesFiles {
    /// `$CONTAINERS_REGISTRIES_CONF`, else the user's file, else the system's; and the drop-ins of the system and of the
    /// user, only the latter if the user has a file.
    pub fn standard() -> Self {
        let user = user_directory();
        let user_drop_ins = user.as_ref().map(|directory| directory.join("registries.conf.d"));
        if let Some(file) = env::var_os(FILE_VARIABLE).filter(|file| !file.is_empty()) {
            let drop_ins = [Some(SYSTEM_DROP_INS.into()), user_drop_ins].into_iter().flatten().collect();
            return Self { main: Some(file.into()), must_exist: true, drop_ins };
        }
        match user.map(|directory| directory.join("registries.conf")).filter(|file| file.exists()) {
            Some(file) => Self { main: Some(file), must_exist: false, drop_ins: user_drop_ins.into_iter().collect() },
            None => {
                let drop_ins = [Some(SYSTEM_DROP_INS.into()), user_drop_ins].into_iter().flatten().collect();
                Self { main: Some(SYSTEM_FILE.into()), must_exist: false, drop_ins }
            }
        }
    }

    /// This file, which must exist, and these directories with drop-ins; or nothing at all.
    pub fn only(main: Option<PathBuf>, drop_ins: Vec<PathBuf>) -> Self {
        Self { main, must_exist: true, drop_ins }
    }

    /// Reads all of them.
    pub(super) fn load(&self) -> Result<Registries, RegistriesError> {
        let mut registries = Registries::default();
        if let Some(main) = &self.main {
            registries.add(main, self.must_exist)?;
        }
        for directory in &self.drop_ins {
            for path in drop_ins(directory)? {
                registries.add(&path, true)?;
            }
        }
        Ok(registries)
    }
}

/// The files of a directory that are read, in order.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, RegistriesError> {
    let failed = |source| RegistriesError::Read { path: directory.to_owned(), source };
    let entries = match directory.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// What all files together say.
#[derive(Debug, Default)]
pub(super) struct Registries {
    tables: Vec<Registry>,
    /// Where credentials are looked for, in order; empty if no file says.
    pub(super) credential_helpers: Vec<String>,
}

/// A place that has an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// What it is called there.
    pub(super) reference: RegistryReference,
    /// The file that says that no one is to be trusted there, and it is to be used all the same.
    pub(super) insecure: Option<PathBuf>,
    /// It has copies only.
    pub(super) is_mirror: bool,
}

impl Registries {
    /// Reads one more file.
    fn add(&mut self, path: &Path, must_exist: bool) -> Result<(), RegistriesError> {
        let Some(contents) = file::read(path, must_exist)? else { return Ok(()) };
        self.tables.retain(|table| contents.tables.iter().all(|new| new.prefix != table.prefix));
        self.tables.extend(contents.tables);
        if let Some(helpers) = contents.credential_helpers {
            self.credential_helpers = helpers;
        }
        Ok(())
    }

    /// The table for a reference, and how much of it its prefix covers: the longest prefix decides; of several that are equally
    /// long one with a wildcard, as in other tools, then the first.
    fn table(&self, reference: &str) -> Option<(usize, &Registry)> {
        let fitting = self.tables.iter().filter_map(|table| Some((match_length(&table.prefix, reference)?, table)));
        fitting.rev().max_by_key(|(_, table)| (table.prefix.len(), table.prefix.starts_with('*')))
    }

    fn check_blocked(&self, reference: &RegistryReference) -> Result<(), RegistriesError> {
        let reference = reference.to_string();
        match self.table(&reference) {
            Some((_, table)) if table.blocked => {
                let (prefix, path) = (table.prefix.clone(), table.path.clone());
                Err(RegistriesError::Blocked { reference, prefix, path })
            }
            _ => Ok(()),
        }
    }

    /// Where to look for an image, in order. The last place is the one that it comes from, the others are mirrors. What is
    /// blocked is so under every name: a mirror is passed over then.
    pub(super) fn places(&self, reference: &RegistryReference) -> Result<Vec<Place>, RegistriesError> {
        self.check_blocked(reference)?;
        let text = reference.to_string();
        let Some((length, table)) = self.table(&text) else {
            return Ok(vec![Place { reference: reference.clone(), insecure: None, is_mirror: false }]);
        };
        let place = |location: &str, insecure: bool, is_mirror| {
            let reference = match location {
                "" => reference.clone(),
                location => rewrite(table, location, reference, &text[length..])?,
            };
            Ok(Place { reference, insecure: insecure.then(|| table.path.clone()), is_mirror })
        };
        let by_digest = reference.digest.is_some();
        let mirrors = table.mirrors.iter().filter(|mirror| match mirror.used_for {
            MirrorUse::All => true,
            MirrorUse::DigestOnly => by_digest,
            MirrorUse::TagOnly => !by_digest,
        });
        let mut places = Vec::new();
        for mirror in mirrors {
            let place = place(&mirror.location, mirror.insecure, true)?;
            match self.check_blocked(&place.reference) {
                Ok(()) => places.push(place),
                Err(error) => tracing::warn!("passing over a mirror: {error}"),
            }
        }
        let original = place(&table.location, table.insecure, false)?;
        self.check_blocked(&original.reference)?;
        places.push(original);
        Ok(places)
    }
}

/// Puts a location in the place of the prefix.
fn rewrite(
    table: &Registry,
    location: &str,
    reference: &RegistryReference,
    rest: &str,
) -> Result<RegistryReference, RegistriesError> {
    let rewritten = format!("{location}{rest}");
    rewritten.parse().map_err(|source| RegistriesError::Location {
        path: table.path.clone(),
        reference: reference.to_string(),
        rewritten,
        source,
    })
}

/// How much of a reference a prefix covers. What follows must begin a new part; `host` covers `host:port`, too.
fn match_length(prefix: &str, reference: &str) -> Option<usize> {
    let length = match prefix.strip_prefix('*') {
        Some(domain) => {
            let host = &reference[..reference.find(['/', ':', '@']).unwrap_or(reference.len())];
            host.ends_with(domain).then_some(host.len())?
        }
        None => reference.starts_with(prefix).then_some(prefix.len())?,
    };
    reference[length..].chars().next().is_none_or(|next| [':', '/', '@'].contains(&next)).then_some(length)
}

#[cfg(test)]
mod tests;
