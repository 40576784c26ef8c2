//! Repairing what interrupted changes left behind, and removing what nothing needs any more.
//!
//! [`repair`] comes at the start of every change: it brings disk and boot partition to a state in which all deployments
//! are whole. [`remove_unneeded`] comes at its end. Both first read everything and decide without touching anything
//! (`Repairs::plan`, [`Model::unneeded`]); if something could not be read, nothing is removed.

use std::collections::BTreeSet;

use osupdate_core::observer::Event;
use osupdate_core::repository::{Namespace, Repository};
use osupdate_record::{DeploymentId, paths};
use thiserror::Error;

use crate::boot::{BootError, Listing};
use crate::machine::{Machine, Step};
use crate::model::{Deployment, Entry, Model};
use crate::prepare::{PrepareError, Prepared};
use crate::state::{self, StateError};
use crate::survey::{Survey, SurveyError};

/// Why cleaning up failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CleanupError {
    /// What is there could not be found out.
    #[error(transparent)]
    Survey(#[from] SurveyError),
    /// A deployment's directory could not be changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The boot partition could not be changed.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The boot files of a deployment could not be found in its image.
    #[error("cannot make the lost boot files of deployment {} again", id.short(12))]
    Lost {
        /// The deployment.
        id: DeploymentId,
        /// Why.
        #[source]
        source: Box<PrepareError>,
    },
    /// The repository's references could not be read or changed.
    #[error("cannot change the references of deployments in the repository")]
    Refs(#[source] osupdate_core::repository::RefError),
}

/// What has to be repaired. Empty on a machine on which nothing was interrupted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Repairs {
    /// Changes that reached their commit point.
    finish: Vec<DeploymentId>,
    /// Changes that did not.
    revert: Vec<DeploymentId>,
    /// Entries that cannot boot because their files are missing; removed before lost ones are made.
    incomplete: Vec<Entry>,
    /// Deployments that are kept and have no entry that can boot.
    lost: Vec<DeploymentId>,
    /// Entries that were replaced, or that boot nothing; removed after lost ones are made.
    stale: Vec<Entry>,
    /// References of deployments that do not exist.
    refs: Vec<String>,
}

impl Repairs {
    /// Decides what to repair.
    ///
    /// `found` are the deployments as on disk, `model` the same settled; `refs` the names of our references in the
    /// repository.
    fn plan(found: &[Deployment], model: &Model, listing: &Listing, refs: &[String]) -> Self {
        let mut repairs = Self::default();
        for deployment in found.iter().filter(|deployment| deployment.unfinished.is_some()) {
            let id = &deployment.id;
            let counts = model.get(id).is_some_and(|settled| settled.record == deployment.record);
            if counts { repairs.finish.push(id.clone()) } else { repairs.revert.push(id.clone()) }
        }
        // A damaged record may be repaired by hand, and what runs is never taken for nothing.
        let damaged = |id: &DeploymentId| model.damaged.iter().any(|damaged| damaged.name == id.as_str());
        let unknown = |id: &DeploymentId| model.get(id).is_none() && !damaged(id) && !model.is_booted(id);
        let judged = |entry: &&Entry| !damaged(&entry.deployment);
        repairs.incomplete.extend(listing.incomplete.iter().filter(judged).cloned());
        for deployment in model.deployments() {
            let mut own = listing.entries.iter().filter(|entry| entry.deployment == deployment.id);
            let has_entry = own.any(|entry| entry.sequence == deployment.record.sequence);
            if !has_entry && model.kept(&deployment.id).is_some() {
                repairs.lost.push(deployment.id.clone());
            }
        }
        for deployment in model.deployments() {
            let sequence = deployment.record.sequence;
            let is_current = |entry: &&Entry| entry.deployment == deployment.id && entry.sequence == sequence;
            let counted = match model.entries().iter().find(is_current) {
                Some(entry) => entry.tries_left.is_some(),
                None => is_counted_again(model, deployment),
            };
            repairs.stale.extend(model.superseded(&deployment.id, sequence, counted).into_iter().cloned());
        }
        repairs.stale.extend(listing.entries.iter().filter(|entry| unknown(&entry.deployment)).cloned());
        let orphan = |name: &&String| {
            let id = name.strip_prefix(paths::REPOSITORY_REF_PREFIX).and_then(|hex| hex.parse().ok());
            // A name that is no deployment's is not ours to judge.
            id.is_some_and(|id: DeploymentId| unknown(&id))
        };
        repairs.refs.extend(refs.iter().filter(orphan).cloned());
        repairs
    }
}

/// Brings disk and boot partition to a state in which all deployments are whole, and tells what is there then.
pub fn repair(machine: &Machine<'_>) -> Result<Survey, CleanupError> {
    let root = machine.sysroot.directory();
    let survey = machine.survey()?;
    for name in &survey.leftovers {
        state::remove_leftover(root, name)?;
    }
    for deployment in &survey.found {
        state::remove_temporaries(root, deployment)?;
    }
    machine.boot.remove_temporaries()?;
    let refs = deployment_refs(machine.repository)?;
    let repairs = Repairs::plan(&survey.found, &survey.model, &survey.listing, &refs);
    if repairs != Repairs::default() || !survey.leftovers.is_empty() {
        machine.observer.event(Event::Step("cleaning up after an interrupted change"));
    }
    for id in &repairs.finish {
        state::finish(root, id)?;
    }
    for deployment in survey.found.iter().filter(|deployment| repairs.revert.contains(&deployment.id)) {
        state::revert(root, deployment)?;
    }
    for entry in &repairs.incomplete {
        machine.boot.remove_entry(entry)?;
    }
    for deployment in repairs.lost.iter().filter_map(|id| survey.model.get(id)) {
        match make_entry_again(machine, deployment, is_counted_again(&survey.model, deployment)) {
            Err(err) if !survey.model.is_booted(&deployment.id) => {
                // The system that runs must stay changeable, and this one can be had again.
                let text = format!("deployment {} cannot boot: {}", deployment.id.short(12), chain(&err));
                machine.observer.event(Event::Warning(&text));
            }
            result => result?,
        }
    }
    for entry in &repairs.stale {
        machine.boot.remove_entry(entry)?;
    }
    machine.boot.correct_keys(machine.observer)?;
    remove_kernels(machine, &survey.model, None)?;
    for name in &repairs.refs {
        remove_refs(machine.repository, name)?;
    }
    Ok(machine.survey()?)
}

/// Whether a lost entry is made again with a counter. It is not for what runs; of all else it is not known whether it was good.
fn is_counted_again(model: &Model, deployment: &Deployment) -> bool {
    !model.runs_as_recorded(deployment)
}

/// Makes a deployment's entry, and its boot files if they are missing, from its record and its image.
fn make_entry_again(machine: &Machine<'_>, deployment: &Deployment, counted: bool) -> Result<(), CleanupError> {
    let id = &deployment.id;
    let text = format!("deployment {} has no boot entry that can boot, making it again", id.short(12));
    machine.observer.event(Event::Warning(&text));
    let kernel = &deployment.record.boot.digest;
    if !machine.boot.has_kernel(kernel)? {
        let root = machine.sysroot.directory();
        let prepared = Prepared::of_deployment(machine.repository, root, id, &deployment.record)
            .map_err(|source| CleanupError::Lost { id: id.clone(), source: Box::new(source) })?;
        machine.boot.write_kernel(machine.repository, id, &prepared.program, kernel)?;
    }
    Ok(machine.boot.write_entry(id, &deployment.record, counted)?)
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Removes boot files that no entry and no deployment names, not counting `except`.
///
/// Not while a record is damaged: it may be the one that needs them.
fn remove_kernels(machine: &Machine<'_>, model: &Model, except: Option<&DeploymentId>) -> Result<(), CleanupError> {
    if !model.damaged.is_empty() {
        return Ok(());
    }
    let staying = model.deployments().iter().filter(|deployment| Some(&deployment.id) != except);
    Ok(machine.boot.remove_unneeded_kernels(staying.map(|deployment| &deployment.record))?)
}

/// Removes all deployments that nothing needs, and returns their names; and boot files that were replaced by others.
pub fn remove_unneeded(machine: &Machine<'_>) -> Result<Vec<DeploymentId>, CleanupError> {
    let survey = machine.survey()?;
    remove_kernels(machine, &survey.model, None)?;
    let unneeded: Vec<_> = survey.model.unneeded().map(|deployment| deployment.id.clone()).collect();
    for id in &unneeded {
        machine.observer.event(Event::Step(&format!("removing deployment {}, which nothing needs", id.short(12))));
        remove(machine, id)?;
    }
    Ok(unneeded)
}

/// Removes one deployment: its entries, its boot files unless others have them, its directory, its reference.
///
/// The caller made sure that nothing needs it. Its objects stay until the repository is collected.
pub(crate) fn remove(machine: &Machine<'_>, id: &DeploymentId) -> Result<(), CleanupError> {
    let Survey { model, listing, .. } = machine.survey()?;
    for entry in listing.entries.iter().chain(&listing.incomplete).filter(|entry| entry.deployment == *id) {
        machine.boot.remove_entry(entry)?;
    }
    machine.reached(Step::EntryRemoved);
    remove_kernels(machine, &model, Some(id))?;
    machine.reached(Step::KernelRemoved);
    state::remove(machine.sysroot.directory(), id)?;
    machine.reached(Step::RecordRemoved);
    remove_refs(machine.repository, &paths::repository_ref(id))
}

/// Lets go of a deployment's image.
fn remove_refs(repository: &Repository, name: &str) -> Result<(), CleanupError> {
    for namespace in [Namespace::Streams, Namespace::Images] {
        repository.remove_ref(namespace, name).map_err(CleanupError::Refs)?;
    }
    Ok(())
}

/// Names of our references in the repository.
fn deployment_refs(repository: &Repository) -> Result<Vec<String>, CleanupError> {
    let mut names = BTreeSet::new();
    for namespace in [Namespace::Streams, Namespace::Images] {
        let refs = repository.refs(namespace).map_err(CleanupError::Refs)?;
        names.extend(
            refs.into_iter().map(|(name, _)| name).filter(|name| name.starts_with(paths::REPOSITORY_REF_PREFIX)),
        );
    }
    Ok(names.into_iter().collect())
}
