//! Credentials from auth files, as container tools write them.
//!
//! ```json
//! {"auths": {"registry.example.com": {"auth": "<base64 of user:password>"},
//!            "registry.example.com/team": {"auth": "…"}}}
//! ```
//!
//! Of the entries for a registry, the one with the longest path that is a prefix of the repository is used. The first
//! file with a fitting entry decides.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

use super::super::reference::RegistryReference;

/// User name and password for a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
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
        if let Some(file) = env::var_os("REGISTRY_AUTH_FILE").filter(|file| !file.is_empty()) {
            return Self::only(file.into());
        }
        let mut files = Vec::new();
        if let Some(dir) = env::var_os("XDG_RUNTIME_DIR") {
            files.push(Path::new(&dir).join("containers/auth.json"));
        }
        for file in ["/run/containers/0/auth.json", "/etc/osupdate/auth.json", "/etc/ostree/auth.json"] {
            files.push(file.into());
        }
        if let Some(home) = env::var_os("HOME") {
            files.push(Path::new(&home).join(".docker/config.json"));
        }
        Self { files, must_exist: false }
    }

    /// One file, which must exist.
    pub fn only(file: PathBuf) -> Self {
        Self { files: vec![file], must_exist: true }
    }

    /// The credentials for a repository.
    pub(super) fn find(&self, reference: &RegistryReference) -> Result<Option<Credentials>, CredentialsError> {
        for path in &self.files {
            match fs::read(path) {
                Ok(json) => {
                    if let Some(credentials) = find_in(&json, path, reference)? {
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

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
}

#[derive(Deserialize)]
struct AuthEntry {
    #[serde(default)]
    auth: String,
}

fn find_in(json: &[u8], path: &Path, reference: &RegistryReference) -> Result<Option<Credentials>, CredentialsError> {
    let file: AuthFile =
        serde_json::from_slice(json).map_err(|source| CredentialsError::Json { path: path.to_owned(), source })?;
    let image = format!("{}/{}", reference.host, reference.repository);
    let fitting = file.auths.iter().filter(|(key, entry)| {
        let scope = scope(key);
        !entry.auth.is_empty()
            && image.strip_prefix(&scope).is_some_and(|rest| rest.starts_with('/') || rest.is_empty())
    });
    let Some((key, entry)) = fitting.max_by_key(|(key, _)| scope(key).len()) else { return Ok(None) };
    let text = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match text.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':')) {
        Some((user, password)) => Ok(Some(Credentials { user: user.to_owned(), password: password.to_owned() })),
        None => Err(CredentialsError::Entry { path: path.to_owned(), key: key.clone() }),
    }
}

/// What an entry is for: `host[:port][/path]`. Docker writes web addresses with an API version for keys, too.
fn scope(key: &str) -> String {
    let address = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let scope = match address {
        Some(address) => {
            let address = address.trim_end_matches('/');
            address.strip_suffix("/v1").or_else(|| address.strip_suffix("/v2")).unwrap_or(address)
        }
        None => key,
    };
    match scope {
        "index.docker.io" => "docker.io".to_owned(),
        scope => scope.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(json: &str, image: &str) -> Result<Option<String>, CredentialsError> {
        let reference = image.parse().unwrap();
        Ok(find_in(json.as_bytes(), Path::new("auth.json"), &reference)?.map(|credentials| credentials.user))
    }

    fn entry(user: &str) -> String {
        format!(r#"{{"auth": "{}"}}"#, STANDARD.encode(format!("{user}:secret:with:colons")))
    }

    #[test]
    fn the_longest_prefix_of_whole_parts_decides() {
        let json = format!(
            r#"{{"auths": {{"h.example": {}, "h.example/team": {}, "h.example/team/os": {}, "https://index.docker.io/v1/": {}}}}}"#,
            entry("host"),
            entry("team"),
            entry("os"),
            entry("hub")
        );
        let user = |image| user(&json, image).unwrap();
        assert_eq!(user("h.example/team/os:1").as_deref(), Some("os"));
        assert_eq!(user("h.example/team/osx").as_deref(), Some("team"));
        assert_eq!(user("h.example/teams/os").as_deref(), Some("host"));
        assert_eq!(user("docker.io/debian").as_deref(), Some("hub"));
        assert_eq!(user("h.example.com/os"), None);
        assert_eq!(user("h.example:5000/os"), None);
    }

    #[test]
    fn passwords_may_contain_colons_and_are_not_shown() {
        let json = format!(r#"{{"auths": {{"h.example": {}}}}}"#, entry("me"));
        let reference = "h.example/os".parse().unwrap();
        let credentials = find_in(json.as_bytes(), Path::new("a"), &reference).unwrap().unwrap();
        assert_eq!(credentials.password, "secret:with:colons");
        assert!(!format!("{credentials:?}").contains("secret"));
    }

    #[test]
    fn bad_files_are_named() {
        let error = user("{", "h.example/os").unwrap_err().to_string();
        assert_eq!(error, "auth file auth.json is not valid");
        let error = user(r#"{"auths": {"h.example": {"auth": "%"}}}"#, "h.example/os").unwrap_err().to_string();
        assert_eq!(error, r#"the entry "h.example" of auth file auth.json is not base64 of user:password"#);
        let missing = AuthFiles::only("/nonexistent/auth.json".into());
        assert!(missing.find(&"h.example/os".parse().unwrap()).is_err());
    }
}
