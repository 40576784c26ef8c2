//! One `registries.conf` file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RegistriesError;

/// What one file says, checked.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) tables: Vec<Registry>,
    pub(super) credential_helpers: Option<Vec<String>>,
}

/// One `[[registry]]`.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    /// The file that it is from.
    pub(super) path: PathBuf,
    pub(super) prefix: String,
    /// Empty if references are taken as they are, which only a prefix with a wildcard can have.
    pub(super) location: String,
    pub(super) insecure: bool,
    pub(super) blocked: bool,
    pub(super) mirrors: Vec<Mirror>,
}

/// One `[[registry.mirror]]`.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    pub(super) location: String,
    pub(super) insecure: bool,
    pub(super) used_for: MirrorUse,
}

/// Which references a mirror is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum MirrorUse {
    #[default]
    #[serde(rename = "all", alias = "")]
    All,
    #[serde(rename = "digest-only")]
    DigestOnly,
    #[serde(rename = "tag-only")]
    TagOnly,
}

/// The file as it is written. What is not here is for other tools, or about names without a host.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    #[serde(default)]
    registry: Vec<RegistryTable>,
    credential_helpers: Option<Vec<String>>,
    /// The form of version 1.
    registries: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RegistryTable {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    pull_from_mirror: Option<MirrorUse>,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<MirrorUse>,
}

/// Reads a file; `None` if it does not exist and need not.
pub(super) fn read(path: &Path, must_exist: bool) -> Result<Option<Contents>, RegistriesError> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text).map(Some),
        Err(error) if !must_exist && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RegistriesError::Read { path: path.to_owned(), source }),
    }
}

/// Parses and checks a file.
pub(super) fn parse(path: &Path, text: &str) -> Result<Contents, RegistriesError> {
    let document: Document = toml::from_str(text)
        .map_err(|source| RegistriesError::Toml { path: path.to_owned(), source: Box::new(source) })?;
    let failed = |problem| RegistriesError::Table { path: path.to_owned(), problem };
    if document.registries.is_some() {
        return Err(failed(
            "it has the form of version 1 ([registries.…]), write a [[registry]] table for each registry".to_owned(),
        ));
    }
    let mut tables: Vec<Registry> = Vec::with_capacity(document.registry.len());
    for table in document.registry {
        let table = check(path, table).map_err(failed)?;
        if let Some(other) = tables.iter().find(|other| other.location == table.location && !table.location.is_empty())
            && (other.insecure, other.blocked) != (table.insecure, table.blocked)
        {
            let problem = format!("{} is both insecure or blocked and not, in two tables", table.location);
            return Err(failed(problem));
        }
        tables.push(table);
    }
    Ok(Contents { tables, credential_helpers: document.credential_helpers })
}

fn check(path: &Path, table: RegistryTable) -> Result<Registry, String> {
    let location = location(&table.location)?;
    let prefix = if table.prefix.is_empty() { location.clone() } else { self::location(&table.prefix)? };
    let is_wildcard = prefix.starts_with("*.");
    if prefix.is_empty() {
        return Err("a [[registry]] has neither prefix nor location".to_owned());
    }
    if is_wildcard && prefix.contains(['/', ':', '@']) || prefix.trim_start_matches("*.").contains('*') {
        return Err(format!("the prefix {prefix:?} has a wildcard that is not *. before a host alone"));
    }
    if location.is_empty() && !is_wildcard {
        return Err(format!("the [[registry]] with prefix {prefix} has no location"));
    }
    if location.contains('*') {
        return Err(format!("the location {location:?} has a wildcard"));
    }
    if table.pull_from_mirror.is_some() {
        return Err(format!("pull-from-mirror is for mirrors, not for the [[registry]] with prefix {prefix}"));
    }
    let mut mirrors = Vec::with_capacity(table.mirror.len());
    for mirror in table.mirror {
        let location = self::location(&mirror.location)?;
        if location.is_empty() || location.contains('*') {
            return Err(format!("a mirror of {prefix} has no location, or one with a wildcard"));
        }
        if table.mirror_by_digest_only && mirror.pull_from_mirror.is_some() {
            return Err(format!(
                "the mirror {location} has pull-from-mirror, although {prefix} has mirror-by-digest-only"
            ));
        }
        let used_for = match table.mirror_by_digest_only {
            true => MirrorUse::DigestOnly,
            false => mirror.pull_from_mirror.unwrap_or_default(),
        };
        mirrors.push(Mirror { location, insecure: mirror.insecure, used_for });
    }
    let (insecure, blocked) = (table.insecure, table.blocked);
    Ok(Registry { path: path.to_owned(), prefix, location, insecure, blocked, mirrors })
}

/// A prefix or location without slashes at its end.
fn location(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        Some(_) => Err(format!("{text:?} is a web address, write HOST[:PORT][/NAME]")),
        None => Ok(text.trim_end_matches('/').to_owned()),
    }
}
