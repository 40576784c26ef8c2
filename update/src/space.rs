//! Errors for lack of space: what to do about them, and the numbers that go with them.

use std::error::Error;
use std::io;
use std::path::Path;

use indicatif::BinaryBytes;
use osupdate_core::repository::{Repository, SpaceError};
use osupdate_deploy::preflight::SpaceError as BootSpaceError;
use osupdate_deploy::record::paths::{PHYSICAL_ROOT, REPOSITORY};
use osupdate_efi::esp::{PutBootFilesError, WriteEntryError};

/// What to do about a full boot partition or a full physical root.
const SYSTEM_HINT: &str = "osupdate list shows the deployments, osupdate gc removes those that nothing needs";

/// The next step if an error is for lack of space.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<SpaceError>() {
        return Some(repository_hint(error.path()));
    }
    let on_esp = error.is::<BootSpaceError>()
        || matches!(error.downcast_ref(), Some(PutBootFilesError::NoSpace(_)))
        || matches!(error.downcast_ref(), Some(WriteEntryError::NoSpace(_)));
    if on_esp {
        return Some(SYSTEM_HINT.to_owned());
    }
    is_full(error).then(|| {
        "osupdate repo gc removes what no image needs; on an osupdate system, osupdate gc does, with deployments that \
         nothing needs"
            .to_owned()
    })
}

fn is_full(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::StorageFull && error.get_ref().is_none())
}

/// Whether something failed for lack of space.
pub(crate) fn is_lacking(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| is_full(cause) || cause.is::<SpaceError>())
}

/// Adds the numbers to an error of the system that the file system is full.
pub(crate) fn explain(error: impl Into<anyhow::Error>, repository: &Repository) -> anyhow::Error {
    let error = error.into();
    if !error.chain().any(is_full) {
        return error;
    }
    match repository.space() {
        Ok(space) => error.context(format!(
            "the file system of {} is full: {} of {} are free",
            repository.path().display(),
            BinaryBytes(space.free_bytes),
            BinaryBytes(space.total_bytes)
        )),
        Err(unknown) => {
            tracing::debug!("{unknown}, ignoring");
            error
        }
    }
}

/// What to do about a repository without room.
fn repository_hint(path: &Path) -> String {
    // That of the system is opened from its physical root.
    if path == Path::new(REPOSITORY) || path.starts_with(PHYSICAL_ROOT) {
        return SYSTEM_HINT.to_owned();
    }
    format!(
        "osupdate repo gc --repo {0} removes what no image needs, also what was fetched just now; osupdate image untag \
         --repo {0} gives up an image",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_frees_space_is_that_for_the_repository() {
        assert!(repository_hint(Path::new("composefs")).contains("osupdate gc"));
        assert!(repository_hint(Path::new("/sysroot/composefs")).contains("osupdate gc"));
        assert!(repository_hint(Path::new("/srv/repo")).contains("osupdate repo gc --repo /srv/repo"));
    }
}
