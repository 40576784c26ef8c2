//! Credentials: from auth files, as container tools write them (containers-auth.json(5)), and from credential helpers.
//!
//! ```json
//! {"auths": {"registry.example.com": {"auth": "<base64 of user:password>"},
//!            "registry.example.com/team": {"auth": "…", "identitytoken": "…"}},
//!  "credHelpers": {"registry.example.org": "NAME"},
//!  "credsStore": "NAME"}
//! ```
//!
//! The first file with a fitting entry decides. In a file, a helper for the registry comes first, then the entry with the
//! longest path that is a prefix of the repository, then the store for all registries.

mod file;
mod helper;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::super::reference::RegistryReference;
pub use helper::HelperError;

/// The name in `credential-helpers` that stands for the auth files.
const AUTH_FILES: &str = "containers-auth.json";

/// What a registry knows us by.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// User name and password.
    Password { user: String, password: String },
    /// What a token service gives tokens for (OAuth2: a refresh token).
    IdentityToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => f.debug_struct("Password").field("user", user).finish_non_exhaustive(),
            Self::IdentityToken(_) => f.debug_struct("IdentityToken").finish_non_exhaustive(),
        }
    }
}

/// Why credentials could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read auth file {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not an auth file.
    #[error("auth file {} is not valid", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An entry is not base64 of `user:password`.
    #[error("the entry {key:?} of auth file {} is not base64 of user:password", .path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
    },
    /// A helper does not help.
    #[error("the credential helper {name:?}, which {} names, failed", .path.display())]
    Helper {
        /// Its name, without `docker-credential-`.
        name: String,
        /// The file with its name.
        path: PathBuf,
        /// Why.
        #[source]
        source: HelperError,
    },
}

/// The auth files to look into, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthFiles {
    files: Vec<PathBuf>,
    must_exist: bool,
}

impl AuthFiles {
    /// `$REGISTRY_AUTH_FILE` alone, if it is set; otherwise the files of the user, of the system and of the tools that
    /// machines are set up with.
    pub fn standard() -> Self {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        match variable("REGISTRY_AUTH_FILE") {
            Some(file) => Self::only(file.into()),
            None => Self { files: standard_files(variable), must_exist: false },
        }
    }

    /// One file, which must exist.
    pub fn only(file: PathBuf) -> Self {
        Self { files: vec![file], must_exist: true }
    }

    /// The credentials for a repository, from the files and, if `registries.conf` names some, from helpers.
    pub(super) fn find(
        &self,
        reference: &RegistryReference,
        helpers: &[String],
        helpers_from: &Path,
    ) -> Result<Option<Credentials>, CredentialsError> {
        if helpers.is_empty() {
            return self.find_in_files(reference);
        }
        // One that fails is fatal only if no other knows the registry.
        let mut failed = None;
        for name in helpers {
            let found = match name.as_str() {
                AUTH_FILES => self.find_in_files(reference),
                name => helper::get(name, &reference.host).map_err(|source| CredentialsError::Helper {
                    name: name.to_owned(),
                    path: helpers_from.to_owned(),
                    source,
                }),
            };
            match found {
                Ok(Some(credentials)) => return Ok(Some(credentials)),
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    fn find_in_files(&self, reference: &RegistryReference) -> Result<Option<Credentials>, CredentialsError> {
        for path in &self.files {
            match fs::read(path) {
                Ok(json) => {
                    if let Some(credentials) = file::find(&json, path, reference)? {
                        return Ok(Some(credentials));
                    }
                }
                Err(error) if !self.must_exist && error.kind() == io::ErrorKind::NotFound => {}
                // Images that need no login are for every user, auth files of the system for root only.
                Err(error) if !self.must_exist && error.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::info!("no permission to read auth file {}, ignoring", path.display());
                }
                Err(source) => return Err(CredentialsError::Read { path: path.clone(), source }),
            }
        }
        Ok(None)
    }
}

fn standard_files(variable: impl Fn(&'static str) -> Option<OsString>) -> Vec<PathBuf> {
    let directory = |name| variable(name).map(PathBuf::from);
    let home = directory("HOME");
    let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let uid = rustix::process::geteuid().as_raw();
    let files = [
        directory("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
        Some(format!("/run/containers/{uid}/auth.json").into()),
        Some("/etc/osupdate/auth.json".into()),
        Some("/etc/ostree/auth.json".into()),
        directory("XDG_CONFIG_HOME")
            .or_else(|| below_home(".config"))
            .map(|config| config.join("containers/auth.json")),
        directory("DOCKER_CONFIG").or_else(|| below_home(".docker")).map(|docker| docker.join("config.json")),
    ];
    files.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_of_other_tools() {
        let files = |variables: &[(&str, &str)]| -> Vec<String> {
            let find =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(*value));
            let uid = format!("/{}/", rustix::process::geteuid().as_raw());
            standard_files(find).iter().map(|path| path.display().to_string().replace(&uid, "/UID/")).collect()
        };
        let system = ["/run/containers/UID/auth.json", "/etc/osupdate/auth.json", "/etc/ostree/auth.json"];
        // A service has no home.
        assert_eq!(files(&[]), system);
        let all = files(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/x")]);
        assert_eq!(all[0], "/x/containers/auth.json");
        assert_eq!(all[4..], ["/h/.config/containers/auth.json", "/h/.docker/config.json"]);
        let moved = files(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")]);
        assert_eq!(moved[3..], ["/c/containers/auth.json", "/d/config.json"]);
    }

    #[test]
    fn a_file_that_is_named_must_exist() {
        let missing = AuthFiles::only("/nonexistent/auth.json".into());
        assert!(missing.find(&"h.example/os".parse().unwrap(), &[], Path::new("registries.conf")).is_err());
    }
}
