//! Whether the boot files of a change fit, before anything is changed. The repository looks after its room itself.

use osupdate_record::DeploymentId;
use thiserror::Error;

use crate::model::Model;

/// Left on the boot partition: an entry, its temporary form, directories, and what the loader itself writes.
const BOOT_MARGIN_BYTES: u64 = 1 << 20;

/// Why there is not enough space.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// The boot partition.
    #[error(
        "not enough space on the boot partition: the boot files need {}, {} are free and {} more could be freed",
        mib(*needed_bytes), mib(*free_bytes), mib(*freeable_bytes)
    )]
    Boot {
        /// Size of the boot files in whole clusters, and a margin.
        needed_bytes: u64,
        /// What is free.
        free_bytes: u64,
        /// What removing all deployments that are not needed would free.
        freeable_bytes: u64,
    },
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Which deployments must go so that boot files of this size fit; none if they fit as it is.
///
/// `freed_by` tells what removing the boot files of one name frees.
pub(crate) fn boot_partition(
    model: &Model,
    needed_bytes: u64,
    free_bytes: u64,
    freed_by: impl Fn(&str) -> u64,
) -> Result<Vec<DeploymentId>, SpaceError> {
    let needed_bytes = needed_bytes.saturating_add(BOOT_MARGIN_BYTES);
    let expendable: Vec<_> = model.expendable().collect();
    let mut victims = Vec::new();
    let mut available = free_bytes;
    for candidate in &expendable {
        if available >= needed_bytes {
            break;
        }
        victims.push(candidate.id.clone());
        // Boot files are shared: they go with the last deployment that has them.
        let kernel = &candidate.record.boot.digest;
        let stays =
            model.deployments().iter().any(|other| other.record.boot.digest == *kernel && !victims.contains(&other.id));
        if !stays {
            available = available.saturating_add(freed_by(kernel));
        }
    }
    if available < needed_bytes {
        let freeable_bytes = available - free_bytes;
        return Err(SpaceError::Boot { needed_bytes, free_bytes, freeable_bytes });
    }
    Ok(victims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Deployment;
    use crate::model::fixtures::{deployment, entry, id, model};

    const MIB: u64 = 1 << 20;

    fn with_kernel(mut deployment: Deployment, kernel: &str) -> Deployment {
        deployment.record.boot.digest = kernel.to_owned();
        deployment
    }

    #[test]
    fn unneeded_deployments_make_room_oldest_first_and_only_if_it_helps() {
        let found = vec![
            with_kernel(deployment('a', 1, true), "k1"),
            with_kernel(deployment('b', 2, true), "k2"),
            with_kernel(deployment('c', 3, true), "k3"),
            with_kernel(deployment('d', 4, true), "k4"),
        ];
        let entries = [entry('a', 1, None), entry('b', 2, None), entry('c', 3, None), entry('d', 4, None)];
        let model = model(found, 'd', &entries);
        let room = |free| boot_partition(&model, 80 * MIB, free, |_| 50 * MIB);
        assert_eq!(room(81 * MIB).unwrap(), []);
        assert_eq!(room(40 * MIB).unwrap(), [id('a')]);
        assert_eq!(room(0).unwrap(), [id('a'), id('b')], "c is the rollback");
        let tight = boot_partition(&model, 120 * MIB, 10 * MIB, |_| 50 * MIB).unwrap_err();
        assert_eq!(
            tight.to_string(),
            "not enough space on the boot partition: the boot files need 121 MiB, 10 MiB are free and 100 MiB \
             more could be freed"
        );
    }

    #[test]
    fn shared_boot_files_free_nothing_while_somebody_has_them() {
        let found = vec![
            with_kernel(deployment('a', 1, true), "k"),
            with_kernel(deployment('b', 2, true), "k"),
            with_kernel(deployment('c', 3, true), "k3"),
            with_kernel(deployment('d', 4, true), "k"),
        ];
        let entries = [entry('a', 1, None), entry('b', 2, None), entry('c', 3, None), entry('d', 4, None)];
        let err = boot_partition(&model(found, 'd', &entries), 80 * MIB, 40 * MIB, |_| 50 * MIB).unwrap_err();
        assert!(matches!(err, SpaceError::Boot { freeable_bytes: 0, .. }), "{err}");
    }
}
