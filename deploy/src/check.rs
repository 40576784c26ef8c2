//! [`Check`]: whether there is an update, and what it would cost; nothing is written.
//!
//! What the layers decide is known when they are here, and else said not to be known: how much of them the repository has
//! under other names, which kernel is in them, what they change in /etc.

use std::io;
use std::path::PathBuf;

use osupdate_core::boot::find_kernel;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{Amount, ContentDigest, Offer, PullError};
use osupdate_core::repository::{FileError, ImageError, Repository};
use osupdate_core::tree::Tree;
use osupdate_core::{Digest, erofs};
use osupdate_record::DeploymentId;
use osupdate_record::paths;
use thiserror::Error;

use crate::boot::{self, BootError, BootPartition};
use crate::etc_conflict;
use crate::kargs::{KargsError, image_arguments};
use crate::model::{Deployment, Model};
use crate::plan::Staging;
use crate::program::Program;
use crate::stage;
use crate::sysroot::Sysroot;
use crate::uki::{self, SealedUki, UkiError};

/// What a deployment takes up besides its image: two names in the repository, three directories, the record.
const DEPLOYMENT_BLOCKS: u64 = 6;

/// Why it cannot be told what an update would cost.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The running system is not one of the deployments.
    #[error("this is not an osupdate system: what runs is not one of its deployments")]
    NotBooted,
    /// What is there of the image cannot be found out, or it can never be booted.
    #[error("cannot compare the image with the repository")]
    Forecast(#[source] Box<PullError>),
    /// The repository cannot be read.
    #[error("cannot examine the repository")]
    Repository(#[from] FileError),
    /// The image cannot be booted.
    #[error("the image cannot be booted")]
    Kernel(#[source] osupdate_core::boot::BootError),
    /// Its kernel arguments cannot be used.
    #[error("the kernel arguments of the image cannot be used")]
    Kargs(#[from] KargsError),
    /// It has no UKI that can be deployed, or it is not clear which one.
    #[error(transparent)]
    Uki(#[from] UkiError),
    /// The boot partition, or the kernel in the repository, cannot be read.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The running image cannot be opened.
    #[error("cannot open the running image {digest}")]
    Open {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// The running image cannot be read.
    #[error("cannot read the running image {digest}")]
    Read {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: erofs::ReadError,
    },
    /// The local changes in /etc cannot be looked through.
    #[error("cannot look through {}", path.display())]
    Etc {
        /// The directory of the changes.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A machine that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The physical root.
    pub sysroot: &'a Sysroot,
    /// Its repository.
    pub repository: &'a Repository,
    /// Where boot files are; `None` for those who may not read it.
    pub boot: Option<&'a BootPartition>,
    /// Its deployments.
    pub model: &'a Model,
}

/// What an origin offers, compared with the machine.
#[derive(Clone, Debug)]
pub struct Check {
    /// Digest of the manifest that is offered.
    pub manifest_digest: ContentDigest,
    /// Version that the image is labelled with.
    pub version: Option<String>,
    /// What staging it would mean, as far as it is known without pulling it.
    pub staging: Staging,
    /// What staging and booting it would cost.
    pub cost: Cost,
    /// Whether it has a UKI that names it. `None`: not known before the download.
    pub sealed: Option<bool>,
}

/// What an update would cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Layers, as they are transferred.
    pub fetch_bytes: Amount,
    /// On the physical root, in whole blocks, after deduplication.
    pub root_bytes: Amount,
    /// For the copy of the local changes in /etc that the first boot makes; also on the physical root.
    pub etc_bytes: Amount,
    /// On the boot partition, in whole clusters. Deployments that nothing needs are not yet removed.
    pub esp_bytes: Amount,
    /// Local changes in /etc of files that the update changes, too: the local ones will hide those of the image. `None`: not
    /// known before the download.
    pub etc_conflicts: Option<Vec<String>>,
    /// How the image's kernel arguments change. `None`: not known before the download.
    pub arguments: Option<ArgumentChange>,
    /// The machine must be restarted to use it.
    pub reboot: bool,
    /// What is free on the physical root.
    pub root_free_bytes: u64,
    /// What is free on the boot partition, for those who may read it.
    pub esp_free_bytes: Option<u64>,
}

/// How kernel arguments change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArgumentChange {
    /// New ones.
    pub added: Vec<String>,
    /// Those that are not there any more.
    pub removed: Vec<String>,
}

impl ArgumentChange {
    fn of(old: &[String], new: &[String]) -> Self {
        let missing = |from: &[String], other: &[String]| -> Vec<String> {
            other.iter().filter(|argument| !from.contains(argument)).cloned().collect()
        };
        Self { added: missing(old, new), removed: missing(new, old) }
    }
}

/// Compares an offer with what is there.
pub fn check(scene: &Scene<'_>, offer: &Offer<'_>) -> Result<Check, CheckError> {
    let forecast = offer.forecast(scene.repository).map_err(|source| CheckError::Forecast(Box::new(source)))?;
    let known = stage::known(scene.model, offer).map(|deployment| deployment.id.clone());
    let uki = forecast.files.as_ref().map_or(Ok(None), |files| uki::find(scene.repository, files))?;
    let staging = match (known, &forecast.boot_image) {
        (Some(id), _) => Staging::of(scene.model, &id),
        (None, Some((digest, _))) => {
            let image = uki.as_ref().map_or(*digest, |uki| uki.image);
            let record = uki.as_ref().and_then(SealedUki::record);
            let staging = |id: DeploymentId| Staging::with_uki(scene.model, &id, record.as_ref());
            image.to_string().parse().map_or(Staging::New, staging)
        }
        (None, None) => Staging::New,
    };
    let booted = scene.model.booted().ok_or(CheckError::NotBooted)?;
    let mut cost = Cost {
        fetch_bytes: Amount::NOTHING,
        root_bytes: Amount::NOTHING,
        etc_bytes: Amount::NOTHING,
        esp_bytes: Amount::NOTHING,
        etc_conflicts: Some(Vec::new()),
        arguments: Some(ArgumentChange::default()),
        reboot: matches!(staging, Staging::New | Staging::Again | Staging::Resealed | Staging::Staged),
        root_free_bytes: scene.repository.space()?.free_bytes,
        esp_free_bytes: scene.boot.map(|boot| boot.space().map(|space| space.free_bytes)).transpose()?,
    };
    if matches!(staging, Staging::New | Staging::Again | Staging::Resealed) {
        cost.fetch_bytes = forecast.fetch_bytes;
        cost.root_bytes = forecast.stored_bytes;
        if staging == Staging::New {
            cost.root_bytes = cost.root_bytes.plus(scene.repository.space()?.allocated(1) * DEPLOYMENT_BLOCKS);
        }
        cost.etc_bytes = etc_bytes(scene, booted)?;
        match &forecast.boot_image {
            Some((digest, tree)) => of_tree(scene, booted, digest, tree, uki.as_ref(), &mut cost)?,
            None => {
                cost.esp_bytes = Amount::UNKNOWN;
                cost.etc_conflicts = None;
                cost.arguments = None;
            }
        }
    }
    let version = offer.version().map(str::to_owned);
    let sealed = forecast.files.is_some().then_some(uki.is_some());
    Ok(Check { manifest_digest: *offer.manifest_digest(), version, staging, cost, sealed })
}

/// What the loader would start, and the digest of the image with it: a UKI may be sealed by other rules than today's.
fn program(digest: &Digest, tree: &Tree, uki: Option<&SealedUki>) -> Result<(Program, Digest), CheckError> {
    match uki.and_then(|uki| Some((uki.record()?, uki.image))) {
        Some((uki, image)) => Ok((Program::Uki { uki, local: None }, image)),
        None => Ok((Program::Kernel(find_kernel(tree).map_err(CheckError::Kernel)?), *digest)),
    }
}

/// What the files of the image tell.
fn of_tree(
    scene: &Scene<'_>,
    booted: &Deployment,
    digest: &Digest,
    tree: &Tree,
    uki: Option<&SealedUki>,
    cost: &mut Cost,
) -> Result<(), CheckError> {
    let (program, image) = program(digest, tree, uki)?;
    cost.esp_bytes = match scene.boot {
        None => Amount::UNKNOWN,
        Some(partition) => {
            // What would be refused is no update.
            partition.check_program(scene.repository, &program, &Silent)?;
            let space = partition.space()?;
            let boot_digest = program.boot_digest(scene.repository, &image)?.to_string();
            // The entry, and the directory of new boot files.
            let mut bytes = space.cluster_bytes;
            if !partition.has_kernel(&boot_digest)? {
                let sizes_bytes = program.sizes_bytes(scene.repository, &image)?;
                let files = sizes_bytes.into_iter().map(|size_bytes| boot::allocated(size_bytes, space));
                bytes += space.cluster_bytes + files.sum::<u64>();
            }
            Amount::exactly(bytes)
        }
    };
    let arguments = match uki {
        Some(uki) => uki.arguments.clone(),
        None => image_arguments(scene.repository, tree)?,
    };
    cost.arguments = Some(ArgumentChange::of(&booted.record.boot.image_arguments, &arguments));
    let upper = upper(scene, booted);
    if upper.is_dir() {
        let running = running_tree(scene.repository, booted)?;
        let found = etc_conflict::find(&upper, &running, tree);
        cost.etc_conflicts = Some(found.map_err(|source| CheckError::Etc { path: upper, source })?);
    }
    Ok(())
}

/// The files of the running image.
fn running_tree(repository: &Repository, booted: &Deployment) -> Result<Tree, CheckError> {
    let digest: Digest = booted.id.as_str().parse().map_err(|_| CheckError::NotBooted)?;
    let image = repository.read_image(&digest).map_err(|source| CheckError::Open { digest, source })?;
    let (tree, _) = erofs::read(&image).map_err(|source| CheckError::Read { digest, source })?;
    Ok(tree)
}

/// The local changes in /etc of the running deployment.
fn upper(scene: &Scene<'_>, booted: &Deployment) -> PathBuf {
    scene.sysroot.path().join(paths::deployment(&booted.id)).join(paths::ETC_UPPER)
}

/// What a copy of the local changes takes up.
fn etc_bytes(scene: &Scene<'_>, booted: &Deployment) -> Result<Amount, CheckError> {
    let path = upper(scene, booted);
    match etc_conflict::allocated_bytes(&path) {
        Ok(bytes) => Ok(Amount::exactly(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => Ok(Amount::NOTHING),
        // Some of it is for root's eyes only.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Amount::UNKNOWN),
        Err(source) => Err(CheckError::Etc { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_stay_are_no_change() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let change = ArgumentChange::of(&list(&["quiet", "a=1"]), &list(&["a=2", "quiet"]));
        assert_eq!(change, ArgumentChange { added: list(&["a=2"]), removed: list(&["a=1"]) });
    }
}
