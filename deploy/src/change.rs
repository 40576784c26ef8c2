//! Putting a deployment first: the one way in which the order changes.
//!
//! The steps and what a crash between them means are in the table of STATES.md; both change together.

use osupdate_core::oci::StoredImage;
use osupdate_core::repository::Namespace;
use osupdate_record::{Deployment as Record, DeploymentId, paths};
use thiserror::Error;

use crate::boot::BootError;
use crate::machine::{Machine, Step};
use crate::model::{Deployment, Model};
use crate::prepare::{PrepareError, Prepared};
use crate::state::{self, StateError};

/// What becomes of a deployment's /etc when it is put first again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Etc {
    /// It keeps its own.
    Keep,
    /// It is put aside and carried anew at the next boot.
    Anew,
}

/// Why a deployment was not put first. Before the commit point the machine boots what it booted before.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The repository could not be told to keep the image.
    #[error("cannot make the repository keep the image")]
    Reference(#[source] osupdate_core::repository::RefError),
    /// The deployment's directory could not be changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The boot partition could not be changed.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Its boot files were lost and its image cannot be read.
    #[error("its boot files were lost and cannot be made again from its image")]
    Lost(#[source] Box<PrepareError>),
}

/// Makes the repository keep a deployment's image.
///
/// By two references: one to the manifest, for layers and what they say, and one to the image itself. The digest on
/// the kernel command line must stay good even if another program makes the manifest's name lead to another image.
pub(crate) fn keep_image(machine: &Machine<'_>, id: &DeploymentId, image: &StoredImage) -> Result<(), ChangeError> {
    let name = paths::repository_ref(id);
    for (namespace, target) in [(Namespace::Images, id.as_str()), (Namespace::Streams, &image.stream_name())] {
        machine.repository.set_ref(namespace, &name, target).map_err(ChangeError::Reference)?;
    }
    machine.reached(Step::Reference);
    Ok(())
}

/// Makes a deployment that did not exist, and puts it first. Its sequence number is in the record.
pub(crate) fn put_new(
    machine: &Machine<'_>,
    id: &DeploymentId,
    record: &Record,
    prepared: &Prepared,
) -> Result<(), ChangeError> {
    let root = machine.sysroot.directory();
    state::create(root, id, record, prepared.program.local())?;
    machine.reached(Step::Record);
    machine.boot.write_kernel(machine.repository, id, &prepared.program, &record.boot.digest)?;
    machine.reached(Step::Kernel);
    machine.boot.write_entry(id, record, true)?;
    machine.reached(Step::Entry);
    state::finish(root, id)?;
    machine.reached(Step::Finished);
    Ok(())
}

/// Puts a deployment first that exists; `record` is what its record becomes, with a new sequence number.
pub(crate) fn put_first(
    machine: &Machine<'_>,
    model: &Model,
    deployment: &Deployment,
    mut record: Record,
    etc: Etc,
) -> Result<(), ChangeError> {
    let (root, id) = (machine.sysroot.directory(), &deployment.id);
    record.sequence = model.next_sequence();
    // What was shown to work is not counted again: on a machine without blessing it would count down to bad.
    let works = record.boot == deployment.record.boot
        && model.entry(id).map_or(deployment.booted_before, |entry| entry.tries_left.is_none());
    state::begin(root, deployment, &record)?;
    machine.reached(Step::Record);
    if etc == Etc::Anew {
        state::set_etc_aside(root, deployment)?;
        machine.reached(Step::EtcAside);
    }
    if !machine.boot.has_kernel(&record.boot.digest)? {
        let prepared = Prepared::of_deployment(machine.repository, root, id, &record)
            .map_err(|source| ChangeError::Lost(Box::new(source)))?;
        machine.boot.write_kernel(machine.repository, id, &prepared.program, &record.boot.digest)?;
    }
    machine.reached(Step::Kernel);
    machine.boot.write_entry(id, &record, !works || etc == Etc::Anew)?;
    machine.reached(Step::Entry);
    state::finish(root, id)?;
    machine.reached(Step::Finished);
    for entry in model.entries().iter().filter(|entry| entry.deployment == *id) {
        machine.boot.remove_entry(entry)?;
    }
    machine.reached(Step::Superseded);
    Ok(())
}
