//! Changing one deployment's directory, durably and so that an interrupted change can be told and taken back.
//!
//! A change is between [`create`] or [`begin`] and [`finish`]. In between, `before.toml` holds the record as it was, empty
//! if there was none; the boot entry with the new sequence number is written in between too and is the commit point.
//! [`revert`] takes a change back that did not get there.

use std::io;
use std::path::PathBuf;

use osupdate_core::oci::ContentDigest;
use osupdate_record::{Deployment as Record, DeploymentId, WriteError, paths};
use thiserror::Error;

use crate::directory::Directory;
use crate::list::{BEFORE, GONE_PREFIX};
use crate::model::{Deployment, Unfinished};

/// The directory of /etc, in a deployment's directory.
const ETC: &str = "etc";

/// Name of the overlay's upper layer in [`ETC`].
const UPPER: &str = "upper";

/// Name of the overlay's work directory in [`ETC`].
const WORK: &str = "work";

/// Begins and ends the names of local addons.
const ADDON_PREFIX: &str = "local-";
const ADDON_SUFFIX: &str = ".addon.efi";
/// Hex digits of the digest in the names of local addons.
const ADDON_DIGITS: usize = 32;

/// Mode of directories that anyone may look into, so that `status` needs no privileges.
const READABLE: u32 = 0o755;

/// Mode of the overlay's work directory.
const PRIVATE: u32 = 0o700;

/// Why a deployment's directory could not be changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The record has no written form.
    #[error("cannot write the record of deployment {}", id.short(12))]
    Record {
        /// The deployment.
        id: DeploymentId,
        /// Why.
        #[source]
        source: WriteError,
    },
}

/// Names a failed operation.
fn failed(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StateError {
    let path = path.into();
    move |source| StateError::Io { action, path, source }
}

fn text(id: &DeploymentId, record: &Record) -> Result<String, StateError> {
    record.to_toml().map_err(|source| StateError::Record { id: id.clone(), source })
}

fn deployments(root: &Directory) -> Result<Directory, StateError> {
    root.directory(paths::DEPLOYMENTS).map_err(failed("open", paths::DEPLOYMENTS))
}

fn open(root: &Directory, id: &DeploymentId) -> Result<Directory, StateError> {
    let path = paths::deployment(id);
    root.directory(&path).map_err(failed("open", path))
}

/// Makes the directories that all deployments share; those that are there stay as they are.
pub fn prepare(root: &Directory) -> Result<(), StateError> {
    for path in [paths::DEPLOYMENTS, paths::VAR] {
        root.create_directories(path, READABLE).map_err(failed("create", path))?;
    }
    Ok(())
}

/// Makes the directory of a new deployment. It appears complete or not at all, as a change that is not finished. `addon` are the
/// contents of the file that the record names as its local addon.
pub fn create(root: &Directory, id: &DeploymentId, record: &Record, addon: Option<&[u8]>) -> Result<(), StateError> {
    let path = paths::new_deployment(id);
    let text = text(id, record)?;
    let deployments = deployments(root)?;
    let new = format!("{}{id}", paths::NEW_PREFIX);
    let make = || {
        if deployments.exists(&new)? {
            deployments.remove_tree(&new)?;
        }
        let directory = deployments.create_directories(&new, READABLE)?;
        let etc = directory.create_directories(ETC, READABLE)?;
        etc.create_directory(WORK, PRIVATE)?;
        rustix::fs::symlinkat(paths::VAR_LINK_TARGET, &directory, paths::VAR_LINK)?;
        if let (Some(name), Some(addon)) = (addon_of(record), addon) {
            directory.write_file(name, addon)?;
        }
        directory.write_file(BEFORE, b"")?;
        directory.write_file(paths::RECORD, text.as_bytes())?;
        directory.sync()?;
        deployments.rename(&new, id.as_str())?;
        deployments.sync()
    };
    make().map_err(failed("create", path))
}

/// Name of a local addon in a deployment's directory. It is that of its contents: one that is in use is never overwritten.
pub fn addon_name(contents: &[u8]) -> String {
    let digest = ContentDigest::sha256(contents).to_string();
    let hex: String = digest.trim_start_matches("sha256:").chars().take(ADDON_DIGITS).collect();
    format!("{ADDON_PREFIX}{hex}{ADDON_SUFFIX}")
}

/// The local addon that a record names.
fn addon_of(record: &Record) -> Option<&str> {
    Some(record.boot.uki.as_ref()?.local.as_ref()?.file.as_str())
}

/// Writes a local addon of an existing deployment. It counts when the record names it; until then it is a left-over.
pub fn write_addon(root: &Directory, id: &DeploymentId, name: &str, contents: &[u8]) -> Result<(), StateError> {
    let path = paths::deployment(id) + "/" + name;
    open(root, id)?.write_file(name, contents).map_err(failed("write", path))
}

/// Begins a change of an existing deployment: its record becomes `record`.
pub fn begin(root: &Directory, deployment: &Deployment, record: &Record) -> Result<(), StateError> {
    let id = &deployment.id;
    let (before, after) = (text(id, &deployment.record)?, text(id, record)?);
    let directory = open(root, id)?;
    let write = |name: &str, text: &str| {
        directory.write_file(name, text.as_bytes()).map_err(failed("write", paths::deployment(id) + "/" + name))
    };
    write(BEFORE, &before)?;
    write(paths::RECORD, &after)
}

/// Writes a record that changes neither the order nor /etc; needs no commit point.
pub fn update_record(root: &Directory, id: &DeploymentId, record: &Record) -> Result<(), StateError> {
    let text = text(id, record)?;
    open(root, id)?.write_file(paths::RECORD, text.as_bytes()).map_err(failed("write", paths::record(id)))
}

/// Puts a deployment's local /etc aside, so that its next boot carries it anew from another deployment.
///
/// It stays as `etc/upper.<sequence number it was used under>` until the deployment is removed.
pub fn set_etc_aside(root: &Directory, deployment: &Deployment) -> Result<(), StateError> {
    let path = paths::deployment(&deployment.id) + "/" + ETC;
    let etc = root.directory(&path).map_err(failed("open", &path))?;
    let aside = aside(&deployment.record);
    let rename = || {
        if etc.exists(UPPER)? {
            etc.rename(UPPER, &aside)?;
            etc.sync()?;
        }
        Ok(())
    };
    rename().map_err(failed("put aside the local changes in", path))
}

/// Name under which the /etc of a deployment is put aside that had this record.
fn aside(record: &Record) -> String {
    format!("{UPPER}.{}", record.sequence)
}

/// Ends a change: it counts.
pub fn finish(root: &Directory, id: &DeploymentId) -> Result<(), StateError> {
    let path = paths::deployment(id) + "/" + BEFORE;
    open(root, id)?.remove_file(BEFORE).map_err(failed("remove", path))
}

/// Takes back a change that did not reach its commit point; `deployment` is as it was read from disk.
pub fn revert(root: &Directory, deployment: &Deployment) -> Result<(), StateError> {
    let id = &deployment.id;
    match &deployment.unfinished {
        None => Ok(()),
        Some(Unfinished::New) => remove(root, id),
        Some(Unfinished::Changed(before)) => {
            let directory = open(root, id)?;
            let restore = || {
                let etc = directory.directory(ETC)?;
                let aside = aside(before);
                // If it was booted in the meantime it has an /etc again, carried from a newer one; both are kept.
                if etc.exists(&aside)? && !etc.exists(UPPER)? {
                    etc.rename(&aside, UPPER)?;
                    etc.sync()?;
                }
                directory.rename(BEFORE, paths::RECORD)?;
                directory.sync()
            };
            restore().map_err(failed("restore", paths::deployment(id)))
        }
    }
}

/// Removes a deployment's directory; it is gone from the list at once.
pub fn remove(root: &Directory, id: &DeploymentId) -> Result<(), StateError> {
    let deployments = deployments(root)?;
    let gone = format!("{GONE_PREFIX}{id}");
    let remove = || {
        if deployments.exists(&gone)? {
            deployments.remove_tree(&gone)?;
        }
        deployments.rename(id.as_str(), &gone)?;
        deployments.sync()?;
        deployments.remove_tree(&gone)?;
        deployments.sync()
    };
    remove().map_err(failed("remove", paths::deployment(id)))
}

/// Removes what interrupted making and removing left behind; `name` is one of [`crate::list::Found::leftovers`].
pub fn remove_leftover(root: &Directory, name: &str) -> Result<(), StateError> {
    let deployments = deployments(root)?;
    let remove = || deployments.remove_tree(name).and_then(|()| deployments.sync());
    remove().map_err(failed("remove", PathBuf::from(paths::DEPLOYMENTS).join(name)))
}

/// Removes temporary files that interrupted writes left behind, and local addons that no record names.
pub fn remove_temporaries(root: &Directory, deployment: &Deployment) -> Result<(), StateError> {
    let id = &deployment.id;
    let directory = open(root, id)?;
    let before = match &deployment.unfinished {
        Some(Unfinished::Changed(before)) => addon_of(before),
        _ => None,
    };
    let needed = [addon_of(&deployment.record), before];
    let is_temporary = |name: &&String| {
        let is_addon = name.starts_with(ADDON_PREFIX) && name.ends_with(ADDON_SUFFIX);
        let files = [paths::RECORD, BEFORE, ADDON_PREFIX];
        is_addon && !needed.contains(&Some(name.as_str()))
            || files.iter().any(|file| name.starts_with(&format!(".{file}")) && name.contains(".tmp-"))
    };
    let remove = || {
        for name in directory.names()?.iter().filter(is_temporary) {
            directory.remove_file(name)?;
        }
        Ok(())
    };
    remove().map_err(failed("remove temporary files from", paths::deployment(id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Found;
    use crate::model::fixtures::{deployment, id};

    fn root() -> (tempfile::TempDir, Directory) {
        let temp = tempfile::tempdir().unwrap();
        let root = Directory::open(temp.path()).unwrap();
        prepare(&root).unwrap();
        (temp, root)
    }

    fn only(root: &Directory) -> Deployment {
        Found::read(root).unwrap().deployments.pop().unwrap()
    }

    #[test]
    fn new_deployment_is_unfinished_until_declared_finished() {
        let (temp, root) = root();
        let made = deployment('a', 1, false);
        create(&root, &made.id, &made.record, None).unwrap();
        assert_eq!(only(&root).unfinished, Some(Unfinished::New));
        let var = temp.path().join(paths::deployment(&made.id)).join("var");
        assert_eq!(var.canonicalize().unwrap(), temp.path().join(paths::VAR).canonicalize().unwrap());
        finish(&root, &made.id).unwrap();
        finish(&root, &made.id).unwrap();
        assert_eq!(only(&root), made);
    }

    #[test]
    fn reverting_brings_record_and_etc_back() {
        let (temp, root) = root();
        let old = deployment('a', 1, true);
        create(&root, &old.id, &old.record, None).unwrap();
        finish(&root, &old.id).unwrap();
        let etc = temp.path().join(paths::deployment(&old.id)).join("etc");
        std::fs::create_dir(etc.join("upper")).unwrap();
        std::fs::write(etc.join("upper/file"), "mine").unwrap();
        let mut record = old.record.clone();
        record.sequence = 9;
        begin(&root, &old, &record).unwrap();
        set_etc_aside(&root, &old).unwrap();
        let begun = only(&root);
        assert!(!begun.booted_before);
        assert_eq!(begun.record.sequence, 9);
        assert_eq!(std::fs::read_to_string(etc.join("upper.1/file")).unwrap(), "mine");
        revert(&root, &begun).unwrap();
        assert_eq!(only(&root), old);
        assert_eq!(std::fs::read_to_string(etc.join("upper/file")).unwrap(), "mine");
    }

    #[test]
    fn reverting_loses_no_etc_if_it_was_booted_in_between() {
        let (temp, root) = root();
        let old = deployment('a', 1, true);
        create(&root, &old.id, &old.record, None).unwrap();
        finish(&root, &old.id).unwrap();
        let etc = temp.path().join(paths::deployment(&old.id)).join("etc");
        std::fs::create_dir(etc.join("upper")).unwrap();
        begin(&root, &old, &old.record).unwrap();
        set_etc_aside(&root, &old).unwrap();
        std::fs::create_dir(etc.join("upper")).unwrap();
        std::fs::write(etc.join("upper/new"), "x").unwrap();
        revert(&root, &only(&root)).unwrap();
        assert!(etc.join("upper/new").exists() && etc.join("upper.1").exists());
    }

    #[test]
    fn reverting_a_new_one_removes_it() {
        let (_temp, root) = root();
        let made = deployment('a', 1, false);
        create(&root, &made.id, &made.record, None).unwrap();
        revert(&root, &only(&root)).unwrap();
        let found = Found::read(&root).unwrap();
        assert!(found.deployments.is_empty() && found.leftovers.is_empty() && found.damaged.is_empty());
        create(&root, &id('a'), &made.record, None).unwrap();
    }
}
