//! Putting a deployment first: the one way in which the order changes.
//!
//! The steps and what a crash between them means are in the table of STATES.md; both change together.

use osupdate_core::oci::StoredImage;
use osupdate_core::repository::Namespace;
use osupdate_record::{Deployment as Record, DeploymentId, paths};
use thiserror::Error;

use crate::boot::BootError;
use crate::machine::{Machine, Step};
use crate::model::{Deployment, Entry, Model};
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
    #[error("its boot files cannot be read in its image")]
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
    record.boot_since = match record.boot == deployment.record.boot {
        true => deployment.record.boot_since,
        false => Some(record.sequence),
    };
    // What was shown to work is not counted again: on a machine without blessing it would count down to bad.
    let is_current = |entry: &&Entry| entry.deployment == *id && entry.sequence == deployment.record.sequence;
    let current = model.entries().iter().find(is_current);
    let works = record.boot == deployment.record.boot
        && current.map_or(deployment.booted_before, |entry| entry.tries_left.is_none());
    let counted = !works || etc == Etc::Anew;
    check_program(machine, id, &record)?;
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
    machine.boot.write_entry(id, &record, counted)?;
    machine.reached(Step::Entry);
    state::finish(root, id)?;
    machine.reached(Step::Finished);
    // With /etc anew, the same boot files in an earlier entry would fail in the same way. With its own, what was good stays good: the
    // record may be of a change that was not tried itself.
    let tried_anew = counted && (etc == Etc::Keep || record.boot != deployment.record.boot);
    for entry in model.superseded(id, record.sequence, tried_anew) {
        machine.boot.remove_entry(entry)?;
    }
    machine.reached(Step::Superseded);
    Ok(())
}

/// Checks that what becomes next is accepted by Secure Boot now: keys may have been revoked since it was put down.
fn check_program(machine: &Machine<'_>, id: &DeploymentId, record: &Record) -> Result<(), ChangeError> {
    if !machine.boot.checks_signatures() {
        return Ok(());
    }
    let prepared = Prepared::of_deployment(machine.repository, machine.sysroot.directory(), id, record)
        .map_err(|source| ChangeError::Lost(Box::new(source)))?;
    Ok(machine.boot.check_program(machine.repository, &prepared.program, machine.observer)?)
}
