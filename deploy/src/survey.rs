//! [`Survey`]: what is on disk and on the boot partition, and what it means.

use std::collections::BTreeSet;

use osupdate_record::{Boot, DeploymentId};
use thiserror::Error;

use crate::boot::{BootError, BootPartition, Listing};
use crate::booted::Booted;
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
    pub fn read(sysroot: &Sysroot, boot: Option<&BootPartition>, booted: Option<Booted>) -> Result<Self, SurveyError> {
        let Found { deployments: found, damaged, leftovers } = Found::read(sysroot.directory())?;
        let ours = Ours::new(
            &found,
            damaged.iter().map(|damaged| damaged.name.clone()),
            booted.as_ref().map(|booted| &booted.id),
        );
        let listing = boot.map(|boot| boot.read(&ours)).transpose()?;
        let entries = listing.as_ref().map(|listing| listing.entries.clone());
        let model = Model::new(found.clone(), damaged, booted, entries);
        Ok(Self { model, found, leftovers, listing: listing.unwrap_or_default() })
    }
}

/// What tells entries for this physical root from those for others that use the same partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ours {
    /// The `root=` arguments of all records.
    roots: BTreeSet<Option<String>>,
    /// Names of all deployments. An entry for a UKI has no arguments: the UKI itself says where the root is.
    deployments: BTreeSet<String>,
}

impl Ours {
    fn new(found: &[Deployment], damaged: impl Iterator<Item = String>, booted: Option<&DeploymentId>) -> Self {
        let mut ours = Self::default();
        ours.deployments.extend(damaged.chain(booted.map(ToString::to_string)));
        for deployment in found {
            ours.deployments.insert(deployment.id.to_string());
            // In the order in which an entry has them. What is sealed into a UKI is not the machine's.
            let mut add = |boot: &Boot| {
                let of_image = boot.image_arguments.iter().filter(|_| boot.uki.is_none());
                ours.roots.insert(root_argument(boot.arguments.iter().chain(of_image).map(String::as_str)));
            };
            add(&deployment.record.boot);
            if let Some(Unfinished::Changed(before)) = &deployment.unfinished {
                add(&before.boot);
            }
        }
        ours
    }

    /// Whether an entry for this deployment is for this physical root.
    pub(crate) fn has(&self, entry: &osupdate_efi::Entry, deployment: &DeploymentId) -> bool {
        if entry.options.is_empty() && entry.sealed_image().is_some() {
            return self.deployments.contains(deployment.as_str());
        }
        self.roots.contains(&root_argument(entry.options.iter().map(String::as_str)))
    }
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
    use crate::model::fixtures::{deployment, id};

    #[test]
    fn root_of_the_image_counts_as_ours() {
        let mut found = deployment('a', 1, true);
        found.record.boot.arguments = vec!["root=UUID=x".to_owned(), "rw".to_owned()];
        found.record.boot.image_arguments = vec!["root=LABEL=y".to_owned()];
        let ours = Ours::new(&[found], std::iter::empty(), None);
        assert_eq!(ours.roots, BTreeSet::from([Some("root=LABEL=y".to_owned())]));
    }

    #[test]
    fn uki_is_ours_if_its_image_is_deployed_here() {
        let mut found = deployment('a', 1, true);
        found.record.boot.arguments = vec!["root=UUID=x".to_owned()];
        found.record.boot.image_arguments = vec!["root=LABEL=y".to_owned()];
        found.record.boot.uki = Some(Default::default());
        let ours = Ours::new(&[found], [id('b').to_string()].into_iter(), Some(&id('c')));
        let has = |digit: char| {
            let path = format!("/EFI/osupdate/{}/{}.efi", "f".repeat(64), id(digit));
            ours.has(&osupdate_efi::Entry { uki: Some(path), ..Default::default() }, &id(digit))
        };
        assert!(has('a') && has('b') && has('c') && !has('d'));
        let plain = |root: &str| osupdate_efi::Entry { options: vec![root.to_owned()], ..Default::default() };
        assert!(ours.has(&plain("root=UUID=x"), &id('d')), "from before the machine had UKIs");
        assert!(!ours.has(&plain("root=LABEL=y"), &id('d')));
    }
}
