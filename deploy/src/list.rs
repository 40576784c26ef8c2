//! Reading the deployments from disk.
//!
//! ```text
//! state/deploy/<id>/deployment.toml   the record
//! state/deploy/<id>/before.toml       while it is being changed: its record before, empty if it is new
//! state/deploy/<id>/etc/upper         present once it ran
//! ```
//! A directory that cannot be used is reported as damaged and left alone. All of it is readable without privileges.

use std::io;
use std::path::PathBuf;

use osupdate_record::{Deployment as Record, DeploymentId, paths};
use thiserror::Error;

use crate::directory::Directory;
use crate::model::{Damaged, Deployment, Unfinished};

/// Name of the write-ahead copy of the record, in a deployment's directory.
pub(crate) const BEFORE: &str = "before.toml";

/// Begins the name of a deployment's directory while it is being removed.
pub(crate) const GONE_PREFIX: &str = ".gone-";

/// Why the deployments could not be listed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListError {
    /// The directory of all deployments could not be read.
    #[error("cannot read the deployments in {}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is in `state/deploy`.
#[derive(Debug, Default)]
pub struct Found {
    /// The usable ones, in no particular order.
    pub deployments: Vec<Deployment>,
    /// The others.
    pub damaged: Vec<Damaged>,
    /// Remains of interrupted making and removal.
    pub leftovers: Vec<String>,
}

impl Found {
    /// Reads all deployments below a physical root.
    pub fn read(root: &Directory) -> Result<Self, ListError> {
        let error = |source| ListError::Read { path: paths::DEPLOYMENTS.into(), source };
        let mut found = Self::default();
        let directory = root.directory(paths::DEPLOYMENTS).map_err(error)?;
        for name in directory.names().map_err(error)? {
            if name.starts_with(paths::NEW_PREFIX) || name.starts_with(GONE_PREFIX) {
                found.leftovers.push(name);
                continue;
            }
            match read_one(&directory, &name) {
                Ok(Some(deployment)) => found.deployments.push(deployment),
                // Removed meanwhile: readers take no lock.
                Ok(None) => {}
                Err(reason) => found.damaged.push(Damaged { name, reason }),
            }
        }
        Ok(found)
    }
}

/// One deployment, or what is wrong with it for people.
fn read_one(deployments: &Directory, name: &str) -> Result<Option<Deployment>, String> {
    let id: DeploymentId = name.parse().map_err(|_| "its name is not that of a deployment".to_owned())?;
    let directory = match deployments.directory(name) {
        Ok(directory) => directory,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(format!("cannot be opened: {err}")),
    };
    let text = match directory.read_text(paths::RECORD) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(format!("has no {}", paths::RECORD)),
        Err(err) => return Err(format!("its {} cannot be read: {err}", paths::RECORD)),
    };
    let record = parse(&text, paths::RECORD)?;
    let unfinished = match directory.read_text(BEFORE) {
        Ok(text) if text.is_empty() => Some(Unfinished::New),
        Ok(text) => Some(Unfinished::Changed(Box::new(parse(&text, BEFORE)?))),
        Err(err) if err.kind() == io::ErrorKind::NotFound => None,
        Err(err) => return Err(format!("its {BEFORE} cannot be read: {err}")),
    };
    let booted_before =
        directory.exists(paths::ETC_UPPER).map_err(|err| format!("its {} cannot be read: {err}", paths::ETC_UPPER))?;
    Ok(Some(Deployment { id, record, booted_before, unfinished }))
}

fn parse(text: &str, file: &str) -> Result<Record, String> {
    Record::parse(text).map_err(|err| {
        let detail = std::error::Error::source(&err).map(|source| format!(": {}", source.to_string().trim_end()));
        format!("its {file} is damaged: {err}{}", detail.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_directories_are_reported_and_the_rest_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let root = Directory::open(temp.path()).unwrap();
        assert!(Found::read(&root).is_err(), "no state directory");
        let good = "a".repeat(128);
        let deploy = temp.path().join(paths::DEPLOYMENTS);
        for name in [good.as_str(), &"b".repeat(128), &"c".repeat(128), "notes", ".new-x", ".gone-x"] {
            std::fs::create_dir_all(deploy.join(name)).unwrap();
        }
        let record = "version = 1\nsequence = 7\ncreated = \"\"\n[image]\nreference = \"r\"\nmanifest_digest = \"m\"\n\
                      config_digest = \"c\"\n[boot]\ndigest = \"d\"\nkernel = \"6\"\n";
        std::fs::write(deploy.join(&good).join(paths::RECORD), record).unwrap();
        std::fs::write(deploy.join("b".repeat(128)).join(paths::RECORD), "version = 99\n").unwrap();
        std::fs::create_dir_all(deploy.join(&good).join(paths::ETC_UPPER)).unwrap();
        std::fs::write(deploy.join(&good).join(BEFORE), "").unwrap();
        let found = Found::read(&root).unwrap();
        assert_eq!(found.deployments.len(), 1);
        assert_eq!(found.deployments[0].record.sequence, 7);
        assert!(found.deployments[0].booted_before);
        assert_eq!(found.deployments[0].unfinished, Some(Unfinished::New));
        let reasons: Vec<_> = found.damaged.iter().map(|damaged| damaged.reason.as_str()).collect();
        assert!(reasons[0].contains("version 99"), "{reasons:?}");
        assert_eq!(reasons[1], "has no deployment.toml");
        assert_eq!(reasons[2], "its name is not that of a deployment");
        assert_eq!(found.leftovers, [".gone-x", ".new-x"]);
    }
}
