//! Options that say which tree an image is made of.

use clap::ValueEnum;
use osupdate_core::erofs::Format;
use osupdate_core::scan::{Mounts, ScanOptions};
use osupdate_core::transform::{TransformError, XattrFilter, transform_for_oci};
use osupdate_core::tree::Tree;

use crate::exit::ResultExt as _;

/// Options for directories and layers.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TreeOptions {
    /// Take directories and layers as they are. Without this, as in every OCI image: / takes its metadata from /usr, /run
    /// is emptied, and extended attributes are filtered
    #[arg(long)]
    pub(super) no_transform: bool,

    /// Which extended attributes stay: allowlist-only (security.capability) or keep-user-xattrs (user.* as well)
    #[arg(long, value_name = "WHICH", default_value = "allowlist-only", hide_possible_values = true)]
    pub(super) xattrs: Xattrs,

    /// Take directories where another file system is mounted as empty ones
    #[arg(long)]
    pub(super) one_file_system: bool,
}

/// `--xattrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Xattrs {
    AllowlistOnly,
    KeepUserXattrs,
}

impl TreeOptions {
    pub(super) fn scan_options(&self) -> ScanOptions {
        let mounts = if self.one_file_system { Mounts::LeaveEmpty } else { Mounts::Enter };
        ScanOptions { mounts, ..ScanOptions::default() }
    }

    /// Which extended attributes stay; `None`: all.
    pub(super) fn filter(&self) -> Option<XattrFilter> {
        match (self.no_transform, self.xattrs) {
            (true, _) => None,
            (false, Xattrs::AllowlistOnly) => Some(XattrFilter::AllowlistOnly),
            (false, Xattrs::KeepUserXattrs) => Some(XattrFilter::KeepUserXattrs),
        }
    }

    /// Applies the rules for OCI images, unless they are not wanted.
    pub(super) fn transform(&self, tree: &mut Tree) -> anyhow::Result<()> {
        let Some(filter) = self.filter() else { return Ok(()) };
        let result = transform_for_oci(tree, filter);
        match result {
            Err(TransformError::NoDirectory(_)) => result.hint("--no-transform takes it as it is"),
            _ => Ok(result?),
        }
    }
}

/// Parses a format: `v1`, or its number.
pub(super) fn parse_format(text: &str) -> Result<Format, String> {
    let number = text.strip_prefix('v').unwrap_or(text).parse().ok();
    number.and_then(Format::from_number).ok_or_else(|| "formats are v0, v1 and v2".to_owned())
}
