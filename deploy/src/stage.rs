//! Making an image boot next: what `upgrade` and `switch` do.
//!
//! Everything that can fail happens before the commit point, while the user looks: the offer is examined, space is
//! checked, the image is pulled and read, boot files are written and read back. Then one boot entry is written.

use osupdate_core::observer::Event;
use osupdate_core::oci::{Offer, PullError};
use osupdate_record::{Deployment as Record, DeploymentId, Signature};
use thiserror::Error;

use crate::boot::{self, BootError};
use crate::change::{self, ChangeError, Etc};
use crate::cleanup::{self, CleanupError};
use crate::kargs::allow::AllowList;
use crate::kargs::change::own_arguments;
use crate::machine::Machine;
use crate::model::{Deployment, Model};
use crate::plan::Staging;
use crate::preflight::{self, SpaceError};
use crate::prepare::{FetchError, PrepareError, Prepared, Source};
use crate::program::Program;
use crate::state::{self, StateError};
use crate::survey::Survey;
use crate::trust;

/// Why an image was not staged. The machine boots what it booted before.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StageError {
    /// The running system is not one of the deployments.
    #[error("this is not an osupdate system: what runs is not one of its deployments")]
    NotBooted,
    /// There is not enough space on the boot partition.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The image cannot be pulled.
    #[error("cannot pull {reference}")]
    Pull {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<PullError>,
    },
    /// The image cannot be deployed.
    #[error("cannot deploy {reference}")]
    Prepare {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<PrepareError>,
    },
    /// The machine has sealed images, and this one is not.
    #[error("{reference} is not sealed into a UKI, and what this machine follows was")]
    Unsealed {
        /// The image.
        reference: String,
    },
    /// The boot partition cannot be examined.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A record cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The deployment cannot be made or put first.
    #[error("cannot make deployment {} boot next", id.short(12))]
    Change {
        /// The deployment.
        id: DeploymentId,
        /// Why.
        #[source]
        source: Box<ChangeError>,
    },
    /// What earlier changes left could not be cleaned up, or what is not needed now not be removed.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
}

/// How to stage.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the image comes from; becomes the origin of the deployment. What it requires, the image fulfils.
    pub source: Source,
    /// The signatures of the offered manifest that were verified.
    pub signatures: Vec<Signature>,
    /// Stage an image too that failed to boot on this machine before.
    pub retry_failed: bool,
    /// Stage an image without a UKI, too, on a machine that has had one with.
    pub allow_unsealed: bool,
}

impl StageError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unsealed { .. } => Some(
                "ask who builds it for the UKI that belongs to it; to go on without, so that the boot partition decides what runs, \
                 give --allow-unsealed-image",
            ),
            _ => None,
        }
    }
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Staged {
    /// What staging meant here.
    pub staging: Staging,
    /// The deployment of the image.
    pub id: DeploymentId,
    /// Its record.
    pub record: Record,
    /// Deployments that were removed because nothing needs them any more.
    pub removed: Vec<DeploymentId>,
}

/// The deployment whose origin is followed: the staged one, else the running one.
///
/// After a `switch` without a reboot, `upgrade` goes on with what was switched to.
pub fn followed(model: &Model) -> Result<&Deployment, StageError> {
    model.staged().or_else(|| model.booted()).ok_or(StageError::NotBooted)
}

/// The image to follow: that of the deployment which is [`followed`].
pub fn origin(model: &Model) -> Result<Source, StageError> {
    let Record { image, origin, .. } = &followed(model)?.record;
    Ok(Source {
        reference: image.reference.clone(),
        plain_http: origin.plain_http,
        summary_key: origin.summary_key.clone(),
        requirement: origin.requirement.clone(),
    })
}

/// The deployment of the offered manifest, if there is one.
pub(crate) fn known<'a>(model: &'a Model, offer: &Offer<'_>) -> Option<&'a Deployment> {
    let digest = offer.manifest_digest().to_string();
    model.deployments().iter().find(|deployment| deployment.record.image.manifest_digest == digest)
}

/// Makes the offered image boot next; durable on return.
///
/// `survey` is what [`cleanup::repair`] returned.
pub fn stage(
    machine: &Machine<'_>,
    survey: &Survey,
    offer: &Offer<'_>,
    request: &Request,
) -> Result<Staged, StageError> {
    let model = &survey.model;
    let booted = model.booted().ok_or(StageError::NotBooted)?;
    warn_of_failed_change(machine, model)?;
    let reference = || request.source.reference.clone();
    if let Some(deployment) = known(model, offer) {
        let staging = Staging::of(model, &deployment.id);
        if settled(staging, request) {
            let expires = offer.release().expires.clone();
            let image = osupdate_record::Image { expires, ..deployment.record.image.clone() };
            return finish(machine, model, deployment, staging, image, request);
        }
    }
    let (image, mut prepared) =
        Prepared::fetch(machine.repository, offer, machine.observer).map_err(|err| match err {
            FetchError::Pull(source) => StageError::Pull { reference: reference(), source },
            FetchError::Prepare(source) => StageError::Prepare { reference: reference(), source },
        })?;
    let id = &prepared.id.clone();
    let failed = |source| StageError::Change { id: id.clone(), source: Box::new(source) };
    let staging = Staging::with_uki(model, id, prepared.program.uki());
    if let (true, Some(deployment)) = (settled(staging, request), model.get(id)) {
        // Another manifest with the same contents: from now on the deployment stands for it.
        change::keep_image(machine, id, &image).map_err(failed)?;
        let image = prepared.image_record(&image, &request.source, &request.signatures);
        return finish(machine, model, deployment, staging, image, request);
    }
    // A layer less must not be all that it takes to get around what is sealed.
    if followed(model)?.record.boot.uki.is_some() && prepared.program.uki().is_none() && !request.allow_unsealed {
        return Err(StageError::Unsealed { reference: reference() });
    }
    warn_of_unused_arguments(machine, booted, &prepared);
    // What the user has changed last.
    let own = model.get(id).filter(|_| staging == Staging::Resealed);
    let changed = own.map_or_else(|| followed(model), Ok)?;
    carry_addon(machine, changed, &mut prepared)
        .map_err(|source| StageError::Prepare { reference: reference(), source: Box::new(source) })?;
    machine.boot.check_program(machine.repository, &prepared.program, machine.observer)?;

    let dropped = make_room(machine, model, id, &prepared.program, &prepared.boot_digest)?;
    let survey = if dropped.is_empty() { None } else { Some(machine.survey().map_err(CleanupError::from)?) };
    let model = survey.as_ref().map_or(model, |survey| &survey.model);
    machine.observer.event(Event::Step("writing the boot files and the boot entry"));
    change::keep_image(machine, id, &image).map_err(failed)?;
    let arguments = changed.record.boot.arguments.clone();
    let (sequence, carry_from) = (model.next_sequence(), Some(booted.id.clone()));
    let mut record = prepared.record(&image, &request.source, &request.signatures, sequence, arguments, carry_from);
    match model.get(id) {
        None => change::put_new(machine, id, &record, &prepared).map_err(failed)?,
        Some(deployment) => {
            record.pinned = deployment.record.pinned;
            let etc = if staging == Staging::Resealed { Etc::Keep } else { Etc::Anew };
            if etc == Etc::Keep {
                record.etc = deployment.record.etc.clone();
            }
            if let (Some(local), Some(contents)) = (prepared.local(), prepared.program.local()) {
                state::write_addon(machine.sysroot.directory(), id, &local.file, contents)?;
            }
            change::put_first(machine, model, deployment, record.clone(), etc).map_err(failed)?;
        }
    }
    let mut removed = dropped;
    removed.extend(cleanup::remove_unneeded(machine)?);
    // It boots next now, whatever it did before.
    let staging = if staging == Staging::Failed { Staging::Again } else { staging };
    Ok(Staged { staging, id: id.clone(), record, removed })
}

/// Whether an image needs nothing more than what is there.
fn settled(staging: Staging, request: &Request) -> bool {
    match staging {
        Staging::Current | Staging::KeepBooted | Staging::Staged => true,
        Staging::Failed => !request.retry_failed,
        Staging::Again | Staging::Resealed | Staging::New => false,
    }
}

/// Says that kernel arguments with which the machine may not boot are carried on.
fn warn_of_failed_change(machine: &Machine<'_>, model: &Model) -> Result<(), StageError> {
    let Deployment { id, record, .. } = followed(model)?;
    let arguments = own_arguments(record);
    if model.change_failed(id) && !arguments.is_empty() {
        let text = format!(
            "the boot loader gave up on the last change of deployment {}, of its kernel arguments or its UKI. Later images get the \
             arguments, too, and may fail as it did: {}. Take back what is bad with osupdate kargs --delete ARGUMENT",
            id.short(12),
            arguments.join(" ")
        );
        machine.observer.event(Event::Warning(&text));
    }
    Ok(())
}

/// Says that the machine's own kernel arguments have no effect, when it gets its first UKI.
fn warn_of_unused_arguments(machine: &Machine<'_>, booted: &Deployment, prepared: &Prepared) {
    let boot = &booted.record.boot;
    let unused: Vec<&str> = boot
        .arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| *argument != "rw" && *argument != "ro" && !argument.starts_with("root="))
        .collect();
    if boot.uki.as_ref().is_some_and(|uki| uki.local.is_some()) && prepared.program.uki().is_none() {
        let text = "the kernel arguments of this machine that were in an addon have no effect with the new image: add them again";
        machine.observer.event(Event::Warning(text));
    }
    if boot.uki.is_none() && matches!(prepared.program, Program::Uki { .. }) && !unused.is_empty() {
        let text = format!(
            "the kernel arguments of the new image are sealed into its UKI: those of this machine ({}) have no effect with it",
            unused.join(" ")
        );
        machine.observer.event(Event::Warning(&text));
    }
}

/// Ends staging where the deployment can stay as it is: it is put first if it runs, and follows the reference.
fn finish(
    machine: &Machine<'_>,
    model: &Model,
    deployment: &Deployment,
    staging: Staging,
    image: osupdate_record::Image,
    request: &Request,
) -> Result<Staged, StageError> {
    let id = deployment.id.clone();
    let mut record = deployment.record.clone();
    if staging != Staging::Failed {
        let signatures = trust::recorded(&deployment.record.image.signatures, &request.signatures);
        record.image = osupdate_record::Image { reference: request.source.reference.clone(), signatures, ..image };
        record.origin = request.source.origin(record.origin);
    }
    if staging == Staging::KeepBooted {
        change::put_first(machine, model, deployment, record.clone(), Etc::Keep)
            .map_err(|source| StageError::Change { id: id.clone(), source: Box::new(source) })?;
    } else if record != deployment.record {
        state::update_record(machine.sysroot.directory(), &id, &record)?;
    }
    let removed = cleanup::remove_unneeded(machine)?;
    Ok(Staged { staging, id, record, removed })
}

/// Gives an image with a UKI the addon with the machine's kernel arguments that a deployment has.
fn carry_addon(machine: &Machine<'_>, from: &Deployment, prepared: &mut Prepared) -> Result<(), PrepareError> {
    let Some(local) = from.record.boot.uki.as_ref().and_then(|uki| uki.local.clone()) else { return Ok(()) };
    if prepared.program.uki().is_none() {
        return Ok(());
    }
    let allowed = AllowList::of_image(machine.repository, &prepared.tree)?;
    if let Some(refused) = local.arguments.iter().find_map(|argument| allowed.check(argument).err()) {
        let text = format!("the kernel arguments of this machine are not carried to the new image: {refused}");
        machine.observer.event(Event::Warning(&text));
        return Ok(());
    }
    let root = machine.sysroot.directory();
    prepared.add_local(machine.repository, root, &from.id, local)
}

/// Removes expendable deployments if the boot files do not fit otherwise; returns which.
pub(crate) fn make_room(
    machine: &Machine<'_>,
    model: &Model,
    id: &DeploymentId,
    program: &Program,
    boot_digest: &str,
) -> Result<Vec<DeploymentId>, StageError> {
    if machine.boot.has_kernel(boot_digest)? {
        return Ok(Vec::new());
    }
    let space = machine.boot.space()?;
    let sizes_bytes = program.sizes_bytes(machine.repository, &boot::image_of(id)?)?;
    let needed_bytes = sizes_bytes.into_iter().map(|size_bytes| boot::allocated(size_bytes, space)).sum();
    let victims = preflight::boot_partition(model, needed_bytes, space.free_bytes, |kernel| {
        machine.boot.kernel_bytes(kernel, space)
    })?;
    for id in &victims {
        machine.observer.event(Event::Warning(&format!(
            "removing deployment {}, which nothing needs, to make room on the boot partition",
            id.short(12)
        )));
        cleanup::remove(machine, id)?;
    }
    Ok(victims)
}
