//! Room on the file system of a repository.

use std::path::PathBuf;

use rustix::fs::fstatvfs;
use thiserror::Error;

use super::{FileError, Repository, Verity};
use crate::digest::Algorithm;

/// Most bytes that are left alone on the file system, whatever is stored.
const RESERVE_MAX_BYTES: u64 = 64 << 20;
/// On a small file system, the part of it that is left alone.
const RESERVE_PART: u64 = 20;

/// Most bytes that are stored between two looks at what is free.
const STEP_MAX_BYTES: u64 = 4 << 20;
/// The part of the reserve that is stored between two looks.
const STEP_PART: u64 = 8;

/// Why nothing more is stored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// It is known beforehand that there is not enough.
    #[error(
        "not enough space in {path}: {} are missing, {} are free, and {} of these are left alone",
        mib(*missing_bytes), mib(*free_bytes), mib(*reserve_bytes), path = path.display()
    )]
    Missing {
        /// The repository.
        path: PathBuf,
        /// What is to come.
        missing_bytes: u64,
        /// What is free.
        free_bytes: u64,
        /// What is left alone of it.
        reserve_bytes: u64,
    },
    /// There was not enough.
    #[error(
        "no space left in {path}: {} are free, and the last {} are left alone",
        mib(*free_bytes), mib(*reserve_bytes), path = path.display()
    )]
    Used {
        /// The repository.
        path: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What is left alone.
        reserve_bytes: u64,
    },
    /// The file system cannot be asked.
    #[error(transparent)]
    File(#[from] FileError),
}

impl SpaceError {
    /// The repository that has too little room.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Missing { path, .. } | Self::Used { path, .. } => path,
            Self::File(error) => &error.path,
        }
    }
}

/// Whole MiB, rounded up, for messages.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Watches over the reserve while much is stored.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    repository: &'a Repository,
    until_look_bytes: u64,
}

impl<'a> Guard<'a> {
    pub(crate) fn new(repository: &'a Repository) -> Self {
        Self { repository, until_look_bytes: 0 }
    }

    /// Is told of everything that is about to be stored; fails when the reserve is reached. What has arrived of blobs and is
    /// kept is given up before that.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), SpaceError> {
        if let Some(left) = self.until_look_bytes.checked_sub(bytes) {
            self.until_look_bytes = left;
            return Ok(());
        }
        let mut space = self.repository.space()?;
        if space.usable_bytes() == 0 {
            self.repository.give_up_partial_blobs();
            space = self.repository.space()?;
        }
        if space.usable_bytes() == 0 {
            // btrfs counts what was given up as free only now.
            self.repository.sync_files()?;
            space = self.repository.space()?;
        }
        self.until_look_bytes = STEP_MAX_BYTES.min(space.reserve_bytes() / STEP_PART);
        if space.usable_bytes() == 0 {
            let (free_bytes, reserve_bytes) = (space.free_bytes, space.reserve_bytes());
            return Err(SpaceError::Used { path: self.repository.path.clone(), free_bytes, reserve_bytes });
        }
        Ok(())
    }
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What an ordinary user can still write.
    pub free_bytes: u64,
    /// Size of the file system.
    pub total_bytes: u64,
    /// Files take up room in multiples of this.
    pub block_bytes: u64,
}

impl Space {
    /// What is left alone, because it must not be filled to the brim: logs, /var and the next change need some, too.
    pub fn reserve_bytes(&self) -> u64 {
        RESERVE_MAX_BYTES.min(self.total_bytes / RESERVE_PART)
    }

    /// What can be written without touching the reserve.
    pub fn usable_bytes(&self) -> u64 {
        self.free_bytes.saturating_sub(self.reserve_bytes())
    }

    /// What a file of this size takes up.
    pub fn allocated(&self, size_bytes: u64) -> u64 {
        size_bytes.div_ceil(self.block_bytes).saturating_mul(self.block_bytes)
    }
}

impl Repository {
    /// Room on the file system.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn space(&self) -> Result<Space, FileError> {
        let stat = fstatvfs(&self.dir).map_err(|errno| self.file_error("examine", "", errno))?;
        let block_bytes = stat.f_frsize.max(1);
        Ok(Space {
            free_bytes: stat.f_bavail.saturating_mul(block_bytes),
            total_bytes: stat.f_blocks.saturating_mul(block_bytes),
            block_bytes,
        })
    }

    /// Fails if there is not room for that many bytes besides the reserve. For nothing there always is.
    ///
    /// # Errors
    /// [`SpaceError::Missing`], or when the file system cannot be asked.
    pub fn check_space(&self, missing_bytes: u64) -> Result<(), SpaceError> {
        let space = self.space()?;
        if missing_bytes > 0 && missing_bytes > space.usable_bytes() {
            let (free_bytes, reserve_bytes) = (space.free_bytes, space.reserve_bytes());
            return Err(SpaceError::Missing { path: self.path.clone(), missing_bytes, free_bytes, reserve_bytes });
        }
        Ok(())
    }

    /// What an object of this size takes up, with the Merkle tree and the descriptor where objects have fs-verity, as
    /// ext4 stores them.
    pub fn object_bytes(&self, space: &Space, size_bytes: u64) -> u64 {
        let sealed = match self.verity {
            Verity::Required => verity_bytes(self.algorithm(), size_bytes),
            Verity::Unverified => 0,
        };
        space.allocated(size_bytes).saturating_add(space.allocated(sealed))
    }
}

/// Blocks of hashes over blocks of 4096 bytes, up to a single one, and a block for the descriptor.
fn verity_bytes(algorithm: Algorithm, size_bytes: u64) -> u64 {
    const BLOCK: u64 = 4096;
    let per_block = BLOCK / algorithm.digest_len() as u64;
    let mut level = size_bytes.div_ceil(BLOCK);
    let mut blocks = 1;
    while level > 1 {
        level = level.div_ceil(per_block);
        blocks += level;
    }
    blocks * BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_hashes_have_their_size() {
        assert_eq!(verity_bytes(Algorithm::Sha512, 0), 4096);
        assert_eq!(verity_bytes(Algorithm::Sha512, 4096), 4096);
        assert_eq!(verity_bytes(Algorithm::Sha512, 4097), 2 * 4096);
        assert_eq!(verity_bytes(Algorithm::Sha512, 64 * 4096), 2 * 4096);
        assert_eq!(verity_bytes(Algorithm::Sha512, 65 * 4096), 4 * 4096);
        assert_eq!(verity_bytes(Algorithm::Sha256, 128 * 4096), 2 * 4096);
    }

    #[test]
    fn missing_bytes_must_fit_besides_the_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo");
        Repository::init(&path, Algorithm::Sha256, Verity::Unverified).unwrap();
        let repository = Repository::open(&path).unwrap();
        let space = repository.space().unwrap();
        assert!(repository.check_space(0).is_ok());
        assert!(repository.check_space(1).is_ok());
        let error = repository.check_space(space.total_bytes).unwrap_err();
        assert!(matches!(error, SpaceError::Missing { missing_bytes, .. } if missing_bytes == space.total_bytes));
        assert!(error.to_string().starts_with("not enough space in "), "{error}");
    }

    #[test]
    fn reserve_is_small_on_a_small_file_system() {
        let space = |total_bytes| Space { free_bytes: 3 << 20, total_bytes, block_bytes: 4096 };
        assert_eq!(space(40 << 20).reserve_bytes(), 2 << 20);
        assert_eq!(space(40 << 20).usable_bytes(), 1 << 20);
        assert_eq!(space(1 << 40).reserve_bytes(), 64 << 20);
        assert_eq!(space(1 << 40).usable_bytes(), 0);
        assert_eq!(space(1 << 40).allocated(4097), 8192);
    }
}
