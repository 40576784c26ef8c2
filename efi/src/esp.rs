//! The partition with boot entries and boot files: $BOOT, that is XBOOTLDR if there is one, else the ESP.
//!
//! [`Esp`] works on the root of a mounted partition and knows nothing of how it was found or mounted; in tests the root
//! is a plain directory. All changes follow the order in `LAYOUT.md`: at every instant there is a complete entry.

mod boot_files;
mod command_lines;
mod entries;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

use thiserror::Error;

pub use boot_files::{BootFiles, PutBootFilesError, RemovedBootFiles, StoredBootFiles, VerifyBootFilesError};
pub use command_lines::CommandLines;
pub use entries::{Cleaned, Listing, RemoveEntryError, UnreadableEntry, WriteEntryError};

use crate::medium::{AccessError, Medium};

/// Clusters that are asked for beyond the contents of files: a directory for them, the entry, and growth of the
/// directories above.
const SPARE_CLUSTERS: u64 = 4;

/// A mounted $BOOT.
#[derive(Debug)]
pub struct Esp {
    pub(crate) medium: Medium,
}

/// There is not enough room for what is to be written.
#[derive(Debug, Error)]
#[error("{place} is too small: {needed_bytes} bytes are needed, {free_bytes} bytes are free")]
pub struct NoSpace {
    /// The partition.
    pub place: String,
    /// What is to be written, in whole clusters.
    pub needed_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

/// Room on the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What is free.
    pub free_bytes: u64,
    /// Files take up room in multiples of this.
    pub cluster_bytes: u64,
}

impl Space {
    /// What files of these sizes take up, with their directory and entry.
    fn needed_bytes(self, sizes_bytes: &[u64]) -> u64 {
        let clusters = |size: &u64| size.div_ceil(self.cluster_bytes);
        (sizes_bytes.iter().map(clusters).sum::<u64>() + SPARE_CLUSTERS) * self.cluster_bytes
    }
}

impl Esp {
    /// Takes the root directory of the mounted partition. `place` names the partition in errors: "the ESP (/dev/vda1)".
    pub fn new(root: OwnedFd, place: impl Into<String>) -> Self {
        Self { medium: Medium::new(root, place.into()) }
    }

    /// The name of the partition in errors.
    pub fn place(&self) -> &str {
        &self.medium.place
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.medium.root()
    }

    /// How much room there is.
    pub fn space(&self) -> Result<Space, AccessError> {
        let stat = rustix::fs::fstatvfs(self.root()).map_err(|err| self.medium.error("examine", "/", err))?;
        let cluster_bytes = stat.f_frsize.max(1);
        Ok(Space { free_bytes: stat.f_bavail.saturating_mul(cluster_bytes), cluster_bytes })
    }

    /// Checks that boot files of these sizes and an entry for them have room. Does not look for files that are there
    /// already.
    pub fn check_space(&self, sizes_bytes: &[u64]) -> Result<(), SpaceError> {
        let space = self.space()?;
        let needed_bytes = space.needed_bytes(sizes_bytes);
        if needed_bytes <= space.free_bytes {
            return Ok(());
        }
        Err(NoSpace { place: self.place().to_owned(), needed_bytes, free_bytes: space.free_bytes }.into())
    }
}

/// Why it is not certain that there is enough room.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// There is not.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// The partition cannot be examined.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl fmt::Display for Esp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.place())
    }
}
