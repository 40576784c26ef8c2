//! Which trust policy is meant.

use std::path::PathBuf;

use clap::ValueHint;

use crate::trust::{LoadError, Policy, PolicyPaths};

/// The options of commands that decide by a policy that the user may name.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct TrustOptions {
    /// Trust policy to heed instead of /etc/containers/policy.json
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    policy: Option<PathBuf>,

    /// Directory that says where signatures are, instead of /etc/containers/registries.d
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    registries_d: Option<PathBuf>,
}

impl TrustOptions {
    /// Reads the policy.
    pub(super) fn load(&self) -> Result<Policy, LoadError> {
        let mut paths = PolicyPaths::standard();
        if let Some(file) = &self.policy {
            paths = paths.with_policy(file.clone());
        }
        if let Some(directory) = &self.registries_d {
            paths = paths.with_registries_d(directory.clone());
        }
        Policy::load(&paths)
    }
}
