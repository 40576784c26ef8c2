//! A digest store: files at `xx/rest` below a directory, as an object directory that overlayfs reads.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use osupdate_core::repository::seal_file;
use osupdate_core::scan::{Contents, ContentsError, HashOnly};
use osupdate_core::{Algorithm, Digest};
use tempfile::NamedTempFile;

const HASH: HashOnly = HashOnly(Algorithm::Sha256);
const FILE_MODE: u32 = 0o644;

/// The store. What is there already is not looked at, as with `mkcomposefs`.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    /// The directory is made when something is stored.
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn put(&self, digest: &Digest, contents: &mut dyn Read) -> io::Result<()> {
        let path = self.directory.join(digest.object_path());
        if path.exists() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(&self.directory);
        fs::create_dir_all(parent)?;
        let mut file = NamedTempFile::with_prefix_in(".tmp-", &self.directory)?;
        io::copy(contents, &mut file)?;
        file.flush()?;
        file.as_file().set_permissions(Permissions::from_mode(FILE_MODE))?;
        file.as_file().sync_all()?;
        // The writable descriptor must be closed before the file is sealed.
        let named = file.into_temp_path();
        let sealed = File::open(&named)?;
        seal(&sealed);
        named.persist(&path)?;
        Ok(())
    }
}

/// Enables fs-verity where that is possible.
fn seal(file: &File) {
    if let Err(error) = seal_file(file.as_fd(), Algorithm::Sha256) {
        tracing::debug!("a file of the digest store has no fs-verity: {error}, ignoring");
    }
}

impl Contents for Store {
    fn take_bytes(&self, bytes: &[u8]) -> Result<Digest, ContentsError> {
        let digest = HASH.take_bytes(bytes)?;
        self.put(&digest, &mut &*bytes)?;
        Ok(digest)
    }

    fn take_file(&self, mut file: &File) -> Result<(Digest, u64), ContentsError> {
        let (digest, size) = HASH.take_file(file)?;
        file.rewind()?;
        self.put(&digest, &mut file)?;
        Ok((digest, size))
    }
}
