//! Repair: what the check found damaged or missing is taken from another repository.
//!
//! Objects are proven by their digest before they take the place of the damaged ones, by a rename. Everything else is left
//! alone; what cannot be repaired stays as it is.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};

use thiserror::Error;

use super::copy::Copier;
use super::fsck::FsckReport;
use super::{CopyError, CopyOptions, NotWritable, Repository};
use crate::digest::{Algorithm, Digest};
use crate::observer::{Event, Observer};

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// Objects that were damaged or missing and are good now.
    pub objects_repaired: u64,
    /// Names that were missing and are there again.
    pub names_repaired: u64,
}

/// Why nothing was repaired.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The digests of the other repository are of another kind.
    #[error("a repository with {found} digests cannot repair one with {expected} digests")]
    Algorithm {
        /// Of the other one.
        found: Algorithm,
        /// Of this one.
        expected: Algorithm,
    },
    /// The repository may not be changed.
    #[error(transparent)]
    NotWritable(#[from] NotWritable),
    /// Something cannot be stored.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

impl Repository {
    /// Replaces objects that are damaged or missing, and names that are missing, by those of another repository. Durable
    /// on return. What the other one does not have, or has damaged too, is told to the observer and left.
    pub fn repair_from(
        &self,
        source: &Repository,
        found: &FsckReport,
        observer: &dyn Observer,
    ) -> Result<RepairReport, RepairError> {
        self.check_writable()?;
        if source.algorithm() != self.algorithm() {
            return Err(RepairError::Algorithm { found: source.algorithm(), expected: self.algorithm() });
        }
        self.distrust(found.bad_objects.iter().copied());
        let mut report = RepairReport::default();
        let options = CopyOptions::default();
        let mut copier = Copier::new(self, source, &options);
        for digest in &found.bad_objects {
            match copier.copy_object(digest) {
                Ok(_) => report.objects_repaired += 1,
                Err(error) if is_of_source(&error) => not_repaired(&format!("object {digest}"), &error, observer),
                Err(error) => return Err(error.into()),
            }
        }
        for (namespace, name) in &found.missing_names {
            let digest = match source.first_level(*namespace, name) {
                Ok(Some(digest)) => digest,
                Ok(None) => continue,
                Err(error) => {
                    not_repaired(&format!("{}/{name}", namespace.directory()), &error.into(), observer);
                    continue;
                }
            };
            let mut copier = Copier::new(self, source, &options);
            match copier.copy(digest) {
                Ok(_) => {
                    copier.publish()?;
                    report.names_repaired += 1;
                }
                Err(error) if is_of_source(&error) => {
                    not_repaired(&format!("{}/{name}", namespace.directory()), &error, observer);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.sync_files().map_err(CopyError::from)?;
        Ok(report)
    }

    /// Takes objects as damaged, whatever the kernel says of them: they are replaced when they are stored again.
    pub fn distrust(&self, objects: impl IntoIterator<Item = Digest>) {
        self.distrusted().extend(objects);
    }

    pub(super) fn trust(&self, object: &Digest) {
        self.distrusted().remove(object);
    }

    pub(super) fn is_distrusted(&self, object: &Digest) -> bool {
        self.distrusted().contains(object)
    }

    fn distrusted(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.distrusted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is the other repository that has not what is needed.
fn is_of_source(error: &CopyError) -> bool {
    matches!(
        error,
        CopyError::Source { .. } | CopyError::Parse { .. } | CopyError::NotFound { .. } | CopyError::Depth { .. }
    )
}

fn not_repaired(what: &str, error: &CopyError, observer: &dyn Observer) {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let text = causes.fold(format!("{what} is not repaired: {error}"), |text, cause| format!("{text}: {cause}"));
    observer.event(Event::Warning(&text));
}
