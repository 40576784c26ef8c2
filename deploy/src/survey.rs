//! [`Survey`]: what is on disk and on the boot partition, and what it means.

use std::collections::BTreeSet;

use osupdate_record::{Boot, DeploymentId};
use thiserror::Error;

use crate::boot::{BootError, BootPartition, Listing};
use crate::list::{Found, ListError};
use crate::model::{Deployment, Model, Unfinished};
use crate::sysroot::Sysroot;

pub use crate::boot::Foreign;

/// Why it could not be found out what is there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SurveyError {
    /// The records could not be read.
    #[error(transparent)]
    List(#[from] ListError),
    /// The boot partition could not be read.
    #[error(transparent)]
    Boot(#[from] BootError),
}

/// What is on a machine.
#[derive(Debug)]
pub struct Survey {
    /// What it means.
    pub model: Model,
    /// Deployments as on disk, changes under way included.
    pub found: Vec<Deployment>,
    /// Remains of interrupted making and removal in `state/deploy`.
    pub leftovers: Vec<String>,
    /// What is on the boot partition; empty if it was not looked at.
    pub listing: Listing,
}

impl Survey {
    /// Reads everything. `boot` is `None` for unprivileged readers.
    pub fn read(
        sysroot: &Sysroot,
        boot: Option<&BootPartition>,
        booted: Option<DeploymentId>,
    ) -> Result<Self, SurveyError> {
        let Found { deployments: found, damaged, leftovers } = Found::read(sysroot.directory())?;
        let listing = boot.map(|boot| boot.read(&roots(&found))).transpose()?;
        let entries = listing.as_ref().map(|listing| listing.entries.clone());
        let model = Model::new(found.clone(), damaged, booted, entries);
        Ok(Self { model, found, leftovers, listing: listing.unwrap_or_default() })
    }
}

/// The `root=` arguments of all records: what tells entries for this physical root from those for others.
fn roots(found: &[Deployment]) -> BTreeSet<Option<String>> {
    let mut roots = BTreeSet::new();
    for deployment in found {
        // In the order in which an entry has them.
        let mut add = |boot: &Boot| {
            roots.insert(root_argument(boot.arguments.iter().chain(&boot.image_arguments).map(String::as_str)))
        };
        add(&deployment.record.boot);
        if let Some(Unfinished::Changed(before)) = &deployment.unfinished {
            add(&before.boot);
        }
    }
    roots
}

/// The `root=` argument among kernel arguments; the last one counts, as for the kernel.
pub(crate) fn root_argument<'a>(arguments: impl Iterator<Item = &'a str>) -> Option<String> {
    arguments
        .flat_map(osupdate_core::kernel_args::split)
        .filter(|word| word.starts_with("root="))
        .last()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::deployment;

    #[test]
    fn root_of_the_image_counts_as_ours() {
        let mut found = deployment('a', 1, true);
        found.record.boot.arguments = vec!["root=UUID=x".to_owned(), "rw".to_owned()];
        found.record.boot.image_arguments = vec!["root=LABEL=y".to_owned()];
        assert_eq!(roots(&[found]), BTreeSet::from([Some("root=LABEL=y".to_owned())]));
    }
}
