//! Where the signatures of an image are: `registries.d`, as containers-registries.d(5) describes it.
//!
//! ```yaml
//! default-docker:
//!   lookaside: file:///srv/signatures
//! docker:
//!   registry.example.com/team:
//!     lookaside: https://signatures.example.com
//!     use-sigstore-attachments: true
//! ```
//!
//! Each setting is taken from the most specific scope that has it. What is not for reading signatures is passed over, as
//! podman does.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::LoadError;
use super::policy::read_file;
use super::scope::registry_names;
use crate::transport::reference::RegistryReference;

/// Most files that a directory may have.
const FILES_MAX: usize = 1000;

/// The merged files of one directory.
#[derive(Debug, Default)]
pub(super) struct RegistriesD {
    /// The directory, for messages.
    pub(super) directory: PathBuf,
    default: Option<Section>,
    scopes: BTreeMap<String, Section>,
    /// The store, if none is configured.
    default_lookaside: Option<PathBuf>,
}

/// The settings of one scope.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Section {
    lookaside: Option<String>,
    /// An old name of it.
    sigstore: Option<String>,
    use_sigstore_attachments: Option<bool>,
}

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    default_docker: Option<Section>,
    docker: Option<BTreeMap<String, Option<Section>>>,
}

impl Section {
    fn lookaside(&self) -> Option<&str> {
        [&self.lookaside, &self.sigstore].into_iter().flatten().map(String::as_str).find(|url| !url.is_empty())
    }
}

impl RegistriesD {
    /// Reads the first of these directories that exists.
    pub(super) fn load(directories: &[PathBuf], default_lookaside: Option<&Path>) -> Result<Self, LoadError> {
        for directory in directories {
            if let Some(mut loaded) = Self::load_directory(directory)? {
                loaded.default_lookaside = default_lookaside.map(Path::to_owned);
                return Ok(loaded);
            }
        }
        let directory = directories.last().cloned().unwrap_or_default();
        Ok(Self { directory, default_lookaside: default_lookaside.map(Path::to_owned), ..Self::default() })
    }

    fn load_directory(directory: &Path) -> Result<Option<Self>, LoadError> {
        let failed = |source| LoadError::Read { path: directory.to_owned(), source };
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                paths.push(path);
            }
        }
        if paths.len() > FILES_MAX {
            let problem = format!("it has more than {FILES_MAX} files");
            return Err(LoadError::RegistriesD { path: directory.to_owned(), problem });
        }
        paths.sort();
        let mut merged = Self { directory: directory.to_owned(), ..Self::default() };
        for path in paths {
            merged.add(&path)?;
        }
        Ok(Some(merged))
    }

    fn add(&mut self, path: &Path) -> Result<(), LoadError> {
        let invalid = |problem: String| LoadError::RegistriesD { path: path.to_owned(), problem };
        let bytes = read_file(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
        let file: Option<File> = serde_saphyr::from_str(text).map_err(|error| invalid(first_line(&error)))?;
        let file = file.unwrap_or_default();
        if let Some(section) = file.default_docker
            && self.default.replace(section).is_some()
        {
            return Err(invalid("default-docker is in another file, too".to_owned()));
        }
        for (scope, section) in file.docker.unwrap_or_default() {
            if self.scopes.contains_key(&scope) {
                return Err(invalid(format!("docker scope {scope:?} is in another file, too")));
            }
            self.scopes.insert(scope, section.unwrap_or_default());
        }
        Ok(())
    }

    /// The sections for an image, the most specific one first.
    fn sections(&self, reference: &RegistryReference) -> impl Iterator<Item = &Section> {
        let scoped = registry_names(reference).into_iter().filter_map(|name| self.scopes.get(&name));
        scoped.chain(&self.default)
    }

    /// Address of the signature store for an image, as it is configured.
    pub(super) fn lookaside(&self, reference: &RegistryReference) -> Option<String> {
        let configured = self.sections(reference).find_map(Section::lookaside).map(str::to_owned);
        configured.or_else(|| {
            let url = reqwest::Url::from_file_path(self.default_lookaside.as_ref()?).ok()?;
            Some(url.into())
        })
    }

    /// Whether sigstore signatures are looked for in the image's repository.
    pub(super) fn use_attachments(&self, reference: &RegistryReference) -> bool {
        self.sections(reference).find_map(|section| section.use_sigstore_attachments).unwrap_or(false)
    }
}

/// What is wrong and where, without the lines around it.
fn first_line(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<RegistriesD, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        RegistriesD::load(&[dir.path().into()], Some(Path::new("/var/lib/signatures")))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_setting_is_that_of_the_most_specific_scope_that_has_it() {
        let text = "
default-docker:
  sigstore: file:///default
docker:
  h.example:
    lookaside: https://h.example/signatures
    use-sigstore-attachments: true
  h.example/team:
    use-sigstore-attachments: false
    lookaside-staging: file:///staging
  h.example/team/os:1:
    sigstore: https://old.example
  \"*.test\":
    lookaside: https://wildcard.test
  empty.example:
";
        let config = load(&[("a.yaml", text), ("b.txt", "not read: ["), ("empty.yaml", "# nothing\n")]).unwrap();
        let lookaside = |image: &str| config.lookaside(&image.parse().unwrap()).unwrap();
        let attachments = |image: &str| config.use_attachments(&image.parse().unwrap());
        assert_eq!(lookaside("h.example/team/os:1"), "https://old.example");
        assert_eq!(lookaside("h.example/team/os:2"), "https://h.example/signatures");
        assert_eq!(lookaside("a.test/os"), "https://wildcard.test");
        assert_eq!(lookaside("empty.example/os"), "file:///default");
        assert!(attachments("h.example/os"));
        assert!(!attachments("h.example/team/os:1"));
        assert!(!attachments("elsewhere.example/os"));
    }

    #[test]
    fn without_files_the_store_is_a_directory() {
        let config = load(&[]).unwrap();
        assert_eq!(config.lookaside(&"h.example/os".parse().unwrap()).unwrap(), "file:///var/lib/signatures");
    }

    #[test]
    fn files_that_contradict_each_other_are_refused() {
        let one = "docker: {h.example: {lookaside: 'file:///a'}}";
        let error = load(&[("a.yaml", one), ("b.yaml", one)]).unwrap_err();
        assert!(error.contains("b.yaml") && error.contains("h.example"), "{error}");
        let one = "default-docker: {lookaside: 'file:///a'}";
        let error = load(&[("a.yaml", one), ("b.yaml", one)]).unwrap_err();
        assert!(error.contains("default-docker"), "{error}");
        for bad in ["docker: [", "docker: {a: {lookaside: [1]}}", "docker: {a: {}, a: {}}", "docker: 5"] {
            let error = load(&[("bad.yaml", bad)]).unwrap_err();
            assert!(error.contains("bad.yaml") && error.contains("line 1") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn aliases_cannot_grow_without_end() {
        let mut text = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..10 {
            let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("b{i}: &a{i} [{aliases}]\n"));
        }
        // Refused or passed over, but at once.
        drop(load(&[("a.yaml", &text)]));
    }
}
