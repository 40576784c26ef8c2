//! Going back: the deployment that ran before boots next.

use osupdate_record::{Deployment as Record, DeploymentId};
use thiserror::Error;

use crate::boot::BootError;
use crate::change::{self, ChangeError, Etc};
use crate::cleanup::{self, CleanupError};
use crate::machine::Machine;
use crate::plan::{Rollback, RollbackError};
use crate::prepare::{PrepareError, Prepared};

/// Why the rollback was not queued.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nowhere to go.
    #[error(transparent)]
    Nowhere(#[from] RollbackError),
    /// What earlier changes left could not be cleaned up, or what is not needed now not be removed.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// Its image is damaged.
    #[error("deployment {} cannot be gone back to", id.short(12))]
    Image {
        /// The deployment.
        id: DeploymentId,
        /// Why.
        #[source]
        source: Box<PrepareError>,
    },
    /// The machine would not start it, for its keys were changed since it ran.
    #[error("deployment {} cannot be gone back to", id.short(12))]
    Program {
        /// The deployment.
        id: DeploymentId,
        /// Why.
        #[source]
        source: Box<BootError>,
    },
    /// The deployment could not be put first.
    #[error("cannot make deployment {} boot next", id.short(12))]
    Change {
        /// The deployment.
        id: DeploymentId,
        /// Why.
        #[source]
        source: Box<ChangeError>,
    },
}

/// What was done.
#[derive(Clone, Debug)]
pub struct RolledBack {
    /// Where it went.
    pub plan: Rollback,
    /// The record of the deployment that boots next.
    pub record: Record,
    /// Deployments that were removed because nothing needs them any more.
    pub removed: Vec<DeploymentId>,
}

/// Queues the rollback deployment for the next boot, or takes a queued rollback back.
///
/// Durable on return. A staged deployment is given up and removed.
pub fn rollback(machine: &Machine<'_>) -> Result<RolledBack, Error> {
    let survey = cleanup::repair(machine)?;
    let plan = Rollback::of(&survey.model)?;
    let target = survey.model.get(&plan.target).ok_or(RollbackError::Nothing)?;
    // What boots next must be able to: the system that runs is about to lose its place.
    let prepared = Prepared::of_deployment(machine.repository, machine.sysroot.directory(), &target.id, &target.record)
        .map_err(|source| Error::Image { id: target.id.clone(), source: Box::new(source) })?;
    machine
        .boot
        .check_program(machine.repository, &prepared.program, machine.observer)
        .map_err(|source| Error::Program { id: target.id.clone(), source: Box::new(source) })?;
    change::put_first(machine, &survey.model, target, target.record.clone(), Etc::Keep)
        .map_err(|source| Error::Change { id: target.id.clone(), source: Box::new(source) })?;
    let removed = cleanup::remove_unneeded(machine)?;
    Ok(RolledBack { plan, record: target.record.clone(), removed })
}
