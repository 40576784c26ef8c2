//! Changing the machine's own kernel arguments: what `osupdate kargs` does.
//!
//! It is a change of the deployment that boots next, like any other: new boot files if they are in an addon, a new entry with a
//! counter, removal of the earlier one. Arguments with which the machine does not come up are given up by the loader, together with
//! the deployment; the one before has its own.

use osupdate_core::observer::Event;
use osupdate_record::{Deployment as Record, DeploymentId, LocalAddon};
use thiserror::Error;

use super::allow::{AllowList, AllowListError, NotAllowed};
use super::edit::{Edit, EditError};
use super::is_usable;
use crate::boot::BootError;
use crate::change::{self, ChangeError, Etc};
use crate::cleanup::{self, CleanupError};
use crate::local_addon::{LocalAddonError, LocalSigner};
use crate::machine::Machine;
use crate::prepare::{PrepareError, read_tree};
use crate::program::Program;
use crate::stage::{self, StageError};
use crate::state::{self, StateError};

/// Why the arguments were not changed. The machine boots what it booted before.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChangeKargsError {
    /// No deployment boots next.
    #[error("this is not an osupdate system: there is no deployment that boots next")]
    NoDeployment,
    /// The list cannot be changed so.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// An argument would break the boot entry or select another image.
    #[error("{argument:?} cannot be a kernel argument here")]
    Argument {
        /// The argument.
        argument: String,
    },
    /// The list of allowed arguments cannot be read.
    #[error("it is not known which kernel arguments the image allows")]
    AllowList(#[from] AllowListError),
    /// An argument is not allowed.
    #[error("cannot add to the kernel arguments that are sealed into the UKI")]
    NotAllowed(#[from] NotAllowed),
    /// No addon could be made.
    #[error("cannot make an addon for the UKI")]
    Addon(#[from] LocalAddonError),
    /// The image cannot be read.
    #[error("cannot read the image of deployment {}", id.short(12))]
    Image {
        /// The deployment.
        id: DeploymentId,
        /// Why.
        #[source]
        source: Box<PrepareError>,
    },
    /// The boot files cannot be read.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// There is no room for the boot files, or none could be made.
    #[error(transparent)]
    Room(#[from] Box<StageError>),
    /// The addon could not be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// What earlier changes left could not be cleaned up, or what is not needed now not be removed.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// The deployment could not be put first.
    #[error("cannot make deployment {} boot with other kernel arguments", id.short(12))]
    Change {
        /// The deployment.
        id: DeploymentId,
        /// Why.
        #[source]
        source: Box<ChangeError>,
    },
}

/// What was changed.
#[derive(Clone, Debug)]
pub struct ChangedKargs {
    /// The deployment.
    pub id: DeploymentId,
    /// Its record.
    pub record: Record,
    /// The machine's own arguments before.
    pub before: Vec<String>,
    /// And now.
    pub after: Vec<String>,
    /// Deployments that were removed because nothing needs them any more.
    pub removed: Vec<DeploymentId>,
}

/// The machine's own arguments that are in effect with a deployment.
pub fn own_arguments(record: &Record) -> Vec<String> {
    match &record.boot.uki {
        None => record.boot.arguments.clone(),
        Some(uki) => uki.local.as_ref().map(|local| local.arguments.clone()).unwrap_or_default(),
    }
}

/// Changes the machine's own arguments of the deployment that boots next; durable on return.
///
/// `signer` is asked for if they are in an addon.
pub fn change(
    machine: &Machine<'_>,
    edit: &Edit,
    signer: impl FnOnce() -> Result<LocalSigner, LocalAddonError>,
) -> Result<ChangedKargs, ChangeKargsError> {
    let survey = cleanup::repair(machine)?;
    let model = &survey.model;
    let target = model.next().or_else(|| model.booted()).ok_or(ChangeKargsError::NoDeployment)?;
    let id = target.id.clone();
    let before = own_arguments(&target.record);
    let after = edit.apply(&before)?;
    if let Some(argument) = after.iter().find(|argument| !is_usable(argument)) {
        return Err(ChangeKargsError::Argument { argument: argument.clone() });
    }
    if after == before {
        return Ok(ChangedKargs { id, record: target.record.clone(), before, after, removed: Vec::new() });
    }
    let mut record = target.record.clone();
    let mut removed = Vec::new();
    if record.boot.uki.is_none() {
        record.boot.arguments.clone_from(&after);
    } else {
        let program = seal_into_addon(machine, &id, &mut record, &after, signer)?;
        removed = stage::make_room(machine, model, &id, &program, &record.boot.digest).map_err(Box::new)?;
    }
    machine.observer.event(Event::Step("writing the boot entry"));
    let survey = machine.survey().map_err(CleanupError::from)?;
    let target = survey.model.get(&id).ok_or(ChangeKargsError::NoDeployment)?;
    change::put_first(machine, &survey.model, target, record.clone(), Etc::Keep)
        .map_err(|source| ChangeKargsError::Change { id: id.clone(), source: Box::new(source) })?;
    removed.extend(cleanup::remove_unneeded(machine)?);
    Ok(ChangedKargs { id, record, before, after, removed })
}

/// Makes the addon with the arguments, keeps it with the deployment, and names it in the record.
fn seal_into_addon(
    machine: &Machine<'_>,
    id: &DeploymentId,
    record: &mut Record,
    arguments: &[String],
    signer: impl FnOnce() -> Result<LocalSigner, LocalAddonError>,
) -> Result<Program, ChangeKargsError> {
    let (repository, root) = (machine.repository, machine.sysroot.directory());
    let image = crate::boot::image_of(id)?;
    let tree = read_tree(repository, image)
        .map_err(|source| ChangeKargsError::Image { id: id.clone(), source: Box::new(source) })?;
    let allowed = AllowList::of_image(repository, &tree)?;
    for argument in arguments {
        allowed.check(argument)?;
    }
    let local = match arguments {
        [] => None,
        _ => {
            let signer = signer()?;
            if !signer.is_checked() {
                let text = "Secure Boot is off: whether this machine would accept the key was not looked at";
                machine.observer.event(Event::Warning(text));
            }
            let contents = signer.addon(repository, &tree, arguments)?;
            let file = state::addon_name(&contents);
            state::write_addon(root, id, &file, &contents)?;
            Some(LocalAddon { file, arguments: arguments.to_vec(), ..LocalAddon::default() })
        }
    };
    if let Some(uki) = &mut record.boot.uki {
        uki.local = local;
    }
    let program = Program::of_deployment(root, id, record, &tree)?;
    record.boot.digest = program.boot_digest(repository, &image)?.to_string();
    Ok(program)
}
