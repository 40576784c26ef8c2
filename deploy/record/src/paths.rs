//! Where things are on the physical root. Paths without a leading slash are relative to it.
//!
//! ```text
//! composefs/                       the repository
//! state/deploy/<deployment>/       deployment.toml, etc/{upper,work}, var -> ../../os/default/var, local-*.addon.efi
//! state/deploy/.new-<deployment>/  one being made; never read, removed by the next run
//! state/os/default/var/            /var, shared by all deployments
//! state/journal/                   the step in hand and the history
//! ```

use crate::DeploymentId;

/// Where the physical root is mounted in a running system.
pub const PHYSICAL_ROOT: &str = "/sysroot";

/// The repository.
pub const REPOSITORY: &str = "composefs";

/// The directory of all deployments.
pub const DEPLOYMENTS: &str = "state/deploy";

/// Begins the name of a deployment's directory while it is being made.
pub const NEW_PREFIX: &str = ".new-";

/// The shared /var.
pub const VAR: &str = "state/os/default/var";

/// Write-ahead record of the step in hand, and the history log.
pub const JOURNAL: &str = "state/journal";

/// The record, in a deployment's directory.
pub const RECORD: &str = "deployment.toml";

/// What was changed in /etc on this machine: upper layer of the overlay, in a deployment's directory.
///
/// Made at the deployment's first boot, so its presence means that the deployment was booted before.
pub const ETC_UPPER: &str = "etc/upper";

/// The upper layer while it is being made, renamed to [`ETC_UPPER`] when complete.
pub const ETC_UPPER_NEW: &str = "etc/upper.tmp";

/// Work directory of the /etc overlay, in a deployment's directory.
pub const ETC_WORK: &str = "etc/work";

/// Link to the shared /var, in a deployment's directory.
pub const VAR_LINK: &str = "var";

/// What [`VAR_LINK`] points to.
pub const VAR_LINK_TARGET: &str = "../../os/default/var";

/// The directory of one deployment: `state/deploy/<id>`.
pub fn deployment(id: &DeploymentId) -> String {
    format!("{DEPLOYMENTS}/{id}")
}

/// The record of one deployment: `state/deploy/<id>/deployment.toml`.
pub fn record(id: &DeploymentId) -> String {
    format!("{DEPLOYMENTS}/{id}/{RECORD}")
}

/// The directory of a deployment that is being made: `state/deploy/.new-<id>`.
pub fn new_deployment(id: &DeploymentId) -> String {
    format!("{DEPLOYMENTS}/{NEW_PREFIX}{id}")
}

/// Name of a deployment's root in the repository: `osupdate/deploy/<id>`, below `streams/refs/` and
/// below `images/refs/`.
pub fn repository_ref(id: &DeploymentId) -> String {
    format!("{REPOSITORY_REF_PREFIX}{id}")
}

/// Begins the names of all deployments' roots in the repository.
pub const REPOSITORY_REF_PREFIX: &str = "osupdate/deploy/";
