//! One auth file.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::super::super::reference::RegistryReference;
use super::{Credentials, CredentialsError, helper};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Deserialize)]
struct AuthEntry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

/// The credentials for a repository in the text of an auth file.
pub(super) fn find(
    json: &[u8],
    path: &Path,
    reference: &RegistryReference,
) -> Result<Option<Credentials>, CredentialsError> {
    let file: AuthFile =
        serde_json::from_slice(json).map_err(|source| CredentialsError::Json { path: path.to_owned(), source })?;
    let host = &reference.host;
    if let Some((_, name)) = file.cred_helpers.iter().find(|(key, _)| scope(key) == *host) {
        let failed = |source| CredentialsError::Helper { name: name.clone(), path: path.to_owned(), source };
        return helper::get(name, host).map_err(failed);
    }
    let image = format!("{host}/{}", reference.repository);
    let fitting = file.auths.iter().filter(|(key, entry)| {
        let scope = scope(key);
        !(entry.auth.is_empty() && entry.identitytoken.is_empty())
            && image.strip_prefix(&scope).is_some_and(|rest| rest.starts_with('/') || rest.is_empty())
    });
    if let Some((key, entry)) = fitting.max_by_key(|(key, _)| (scope(key).len(), scope(key) == **key)) {
        let credentials = decode(entry);
        return match credentials {
            Some(credentials) => Ok(Some(credentials)),
            None => Err(CredentialsError::Entry { path: path.to_owned(), key: key.clone() }),
        };
    }
    if !file.creds_store.is_empty() {
        // Docker gives its own registry's login to a store under another name.
        let host = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
        match helper::get(&file.creds_store, host) {
            Ok(found) => return Ok(found),
            // It is for every registry, and most images need no login.
            Err(error) => tracing::warn!(
                "the credential helper {:?}, which {} names, failed: {error}, ignoring",
                file.creds_store,
                path.display()
            ),
        }
    }
    Ok(None)
}

fn decode(entry: &AuthEntry) -> Option<Credentials> {
    if !entry.identitytoken.is_empty() {
        return Some(Credentials::IdentityToken(entry.identitytoken.clone()));
    }
    let text = String::from_utf8(STANDARD.decode(entry.auth.trim()).ok()?).ok()?;
    let (user, password) = text.trim_end_matches('\0').split_once(':')?;
    Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
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
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        scope => scope.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(json: &str, image: &str) -> Result<Option<Credentials>, CredentialsError> {
        super::find(json.as_bytes(), Path::new("auth.json"), &image.parse().unwrap())
    }

    fn user(json: &str, image: &str) -> Option<String> {
        find(json, image).unwrap().map(|credentials| match credentials {
            Credentials::Password { user, .. } => user,
            Credentials::IdentityToken(token) => format!("token {token}"),
        })
    }

    fn entry(user: &str) -> String {
        format!(r#"{{"auth": "{}"}}"#, STANDARD.encode(format!("{user}:secret:with:colons")))
    }

    #[test]
    fn the_longest_prefix_of_whole_parts_decides() {
        let json = format!(
            r#"{{"auths": {{"h.example": {}, "h.example/team": {}, "h.example/team/os": {}, "https://index.docker.io/v1/": {},
            "t.example": {{"auth": "eDp5", "identitytoken": "abc"}}, "empty.example": {{}}}}}}"#,
            entry("host"),
            entry("team"),
            entry("os"),
            entry("hub")
        );
        let user = |image| user(&json, image);
        assert_eq!(user("h.example/team/os:1").as_deref(), Some("os"));
        assert_eq!(user("h.example/team/osx").as_deref(), Some("team"));
        assert_eq!(user("h.example/teams/os").as_deref(), Some("host"));
        assert_eq!(user("docker.io/debian").as_deref(), Some("hub"));
        assert_eq!(user("t.example/os").as_deref(), Some("token abc"));
        assert_eq!(user("h.example.com/os"), None);
        assert_eq!(user("h.example:5000/os"), None);
        assert_eq!(user("empty.example/os"), None);
    }

    #[test]
    fn an_entry_by_name_comes_before_one_by_address() {
        for (name, address) in [("docker.io", "https://index.docker.io/v1/"), ("g.example", "https://g.example")] {
            let json = format!(r#"{{"auths": {{"{name}": {}, "{address}": {}}}}}"#, entry("new"), entry("stale"));
            assert_eq!(user(&json, &format!("{name}/os")).as_deref(), Some("new"));
        }
    }

    #[test]
    fn passwords_may_contain_colons_and_are_not_shown() {
        let json = format!(r#"{{"auths": {{"h.example": {}}}}}"#, entry("me"));
        let credentials = find(&json, "h.example/os").unwrap().unwrap();
        let Credentials::Password { password, .. } = &credentials else { panic!() };
        assert_eq!(password, "secret:with:colons");
        assert!(!format!("{credentials:?}").contains("secret"));
        assert!(!format!("{:?}", Credentials::IdentityToken("secret".into())).contains("secret"));
    }

    #[test]
    fn bad_files_are_named() {
        let error = find("{", "h.example/os").unwrap_err().to_string();
        assert_eq!(error, "auth file auth.json is not valid");
        let error = find(r#"{"auths": {"h.example": {"auth": "%"}}}"#, "h.example/os").unwrap_err().to_string();
        assert_eq!(error, r#"the entry "h.example" of auth file auth.json is not base64 of user:password"#);
        let error = find(r#"{"credHelpers": {"h.example": "no/such"}}"#, "h.example/os").unwrap_err().to_string();
        assert_eq!(error, r#"the credential helper "no/such", which auth.json names, failed"#);
        // A store for all registries must not stand in the way of images that need no login.
        assert_eq!(find(r#"{"credsStore": "no-such-helper"}"#, "h.example/os").unwrap(), None);
    }
}
