//! Kernels and initial ramdisks on the partition.

use std::collections::BTreeSet;
use std::io;

use thiserror::Error;

use super::{Esp, Listing, NoSpace, SpaceError};
use crate::boot_digest::{BootDigest, Source};
use crate::medium::AccessError;
use crate::name::EntryName;
use crate::paths;

/// A kernel and its initial ramdisk, to be put on the partition.
#[allow(missing_debug_implementations, reason = "readers have nothing to show")]
pub struct BootFiles<'a> {
    /// The kernel.
    pub vmlinuz: &'a mut dyn Source,
    /// The initial ramdisk.
    pub initrd: &'a mut dyn Source,
}

/// Boot files that are on the partition, complete and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBootFiles {
    /// Their name.
    pub digest: BootDigest,
    /// Whether they were written now; `false` if they were there.
    pub new: bool,
    /// Size of both.
    pub size_bytes: u64,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedBootFiles {
    /// The pairs that are gone.
    pub removed: Vec<BootDigest>,
    /// Size of their files.
    pub freed_bytes: u64,
}

/// Why boot files were not put on the partition.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PutBootFilesError {
    /// The kernel or the initial ramdisk cannot be read from where it comes.
    #[error("cannot read the kernel or the initial ramdisk of the image")]
    Source(#[source] io::Error),
    /// There are other contents under the right name, and entries use them.
    #[error("the boot files in {directory} on {place} are damaged, and {} may need them", join(entries))]
    DamagedInUse {
        /// The directory.
        directory: String,
        /// The partition.
        place: String,
        /// Entries that name the files, or that cannot be read.
        entries: Vec<EntryName>,
    },
    /// What was written is not what is read back; it was removed again.
    #[error("the boot files written to {directory} on {place} read back otherwise than they were written")]
    ReadBack {
        /// The directory.
        directory: String,
        /// The partition.
        place: String,
    },
    /// There is not enough room.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// An operation on the partition failed.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl From<SpaceError> for PutBootFilesError {
    fn from(err: SpaceError) -> Self {
        match err {
            SpaceError::NoSpace(err) => Self::NoSpace(err),
            SpaceError::Access(err) => Self::Access(err),
        }
    }
}

fn join(names: &[EntryName]) -> String {
    names.iter().map(EntryName::file_name).collect::<Vec<_>>().join(", ")
}

/// Why boot files cannot be relied on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerifyBootFilesError {
    /// One is not there.
    #[error("{path} is missing on {place}")]
    Missing {
        /// The file.
        path: String,
        /// The partition.
        place: String,
    },
    /// They are not what their name says.
    #[error("the boot files in {directory} on {place} are damaged: their digest is {found}")]
    Damaged {
        /// The directory.
        directory: String,
        /// The partition.
        place: String,
        /// Digest of what is there.
        found: BootDigest,
    },
    /// An operation on the partition failed.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl Esp {
    /// Puts a kernel and its initial ramdisk on the partition, or finds that they are there.
    ///
    /// They get the name of their contents, under which nothing looks for them until there is an entry; so they are
    /// written under this name at once, synced, and verified from the medium. Files that are there are verified too;
    /// damaged ones are made anew if no entry needs them, and else left as they are. Space is checked before anything is
    /// written. On return the files survive a crash; after an error nothing new is left, unless the partition fails.
    pub fn put_boot_files(&self, files: BootFiles<'_>) -> Result<StoredBootFiles, PutBootFilesError> {
        let BootFiles { vmlinuz, initrd } = files;
        let digest = BootDigest::of(vmlinuz, initrd).map_err(PutBootFilesError::Source)?;
        // Both stand at their ends now.
        let sizes_bytes = [
            vmlinuz.stream_position().map_err(PutBootFilesError::Source)?,
            initrd.stream_position().map_err(PutBootFilesError::Source)?,
        ];
        let stored = StoredBootFiles { digest, new: false, size_bytes: sizes_bytes.iter().sum() };

        match self.verify_boot_files(&digest) {
            Ok(()) => return Ok(stored),
            Err(VerifyBootFilesError::Access(err)) => return Err(err.into()),
            Err(VerifyBootFilesError::Missing { .. } | VerifyBootFilesError::Damaged { .. }) => {}
        }
        let entries = users(&self.entries()?, &digest);
        if !entries.is_empty() {
            let (directory, place) = (digest.directory(), self.place().to_owned());
            return Err(PutBootFilesError::DamagedInUse { directory, place, entries });
        }
        self.remove_pair(&digest.to_string())?;
        self.check_space(&sizes_bytes)?;
        if let Err(err) = self.write_pair(&digest, vmlinuz, initrd) {
            if let Err(again) = self.remove_pair(&digest.to_string()) {
                tracing::warn!("{again}: {}, ignoring", again.source);
            }
            return Err(err);
        }
        Ok(StoredBootFiles { new: true, ..stored })
    }

    fn write_pair(
        &self,
        digest: &BootDigest,
        vmlinuz: &mut dyn Source,
        initrd: &mut dyn Source,
    ) -> Result<(), PutBootFilesError> {
        let directory = digest.directory();
        self.medium.make_dirs(&directory)?;
        self.write_file(&format!("{directory}/{}", paths::VMLINUZ), vmlinuz)?;
        self.write_file(&format!("{directory}/{}", paths::INITRD), initrd)?;
        self.medium.barrier()?;
        match self.verify_boot_files(digest) {
            Ok(()) => Ok(()),
            Err(VerifyBootFilesError::Access(err)) => Err(err.into()),
            Err(VerifyBootFilesError::Missing { .. } | VerifyBootFilesError::Damaged { .. }) => {
                Err(PutBootFilesError::ReadBack { directory, place: self.place().to_owned() })
            }
        }
    }

    fn write_file(&self, path: &str, source: &mut dyn Source) -> Result<(), PutBootFilesError> {
        source.rewind().map_err(PutBootFilesError::Source)?;
        let mut source = Watched { source, error: None };
        let written = self.medium.write_new(path, &mut source);
        match source.error {
            Some(err) => Err(PutBootFilesError::Source(err)),
            None => Ok(written.map(|_| ())?),
        }
    }

    /// Reads boot files from the medium, not from the page cache, and compares them with their name.
    pub fn verify_boot_files(&self, digest: &BootDigest) -> Result<(), VerifyBootFilesError> {
        let directory = digest.directory();
        let place = || self.place().to_owned();
        let open = |name: &str| {
            let path = format!("{directory}/{name}");
            match self.medium.open_uncached(&path)? {
                Some(file) => Ok(file),
                None => Err(VerifyBootFilesError::Missing { path, place: place() }),
            }
        };
        let (mut vmlinuz, mut initrd) = (open(paths::VMLINUZ)?, open(paths::INITRD)?);
        let found = BootDigest::of(&mut vmlinuz, &mut initrd)
            .map_err(|err| self.medium.error("read the boot files in", &directory, err))?;
        if found == *digest {
            return Ok(());
        }
        Err(VerifyBootFilesError::Damaged { directory, place: place(), found })
    }

    /// Removes the boot files that no entry on the partition names and that are not in `keep`, whole or not.
    ///
    /// If an entry cannot be read, nothing is removed, for it may need any of them; that is logged.
    pub fn remove_unreferenced_boot_files(&self, keep: &BTreeSet<BootDigest>) -> Result<RemovedBootFiles, AccessError> {
        let mut result = RemovedBootFiles::default();
        // An entry that somebody removed a moment ago must not come back after its files are gone.
        self.medium.barrier()?;
        let listing = self.entries()?;
        if let Some(entry) = listing.unreadable.first() {
            tracing::warn!("{}: {}, keeping all boot files", entry.error, entry.error.source);
            return Ok(result);
        }
        for item in self.medium.list(paths::BOOT_FILES)? {
            let Ok(digest) = item.name.to_lowercase().parse::<BootDigest>() else { continue };
            if !item.is_dir || keep.contains(&digest) || !users(&listing, &digest).is_empty() {
                continue;
            }
            if let Some(freed_bytes) = self.remove_pair(&item.name)? {
                result.freed_bytes += freed_bytes;
                result.removed.push(digest);
            }
        }
        if !result.removed.is_empty() {
            self.medium.barrier()?;
        }
        Ok(result)
    }

    /// Removes a directory of boot files with its two files. `None` if it stays, because others put files into it.
    fn remove_pair(&self, name: &str) -> Result<Option<u64>, AccessError> {
        let directory = format!("{}/{name}", paths::BOOT_FILES);
        let mut freed_bytes = 0;
        for file in [paths::VMLINUZ, paths::INITRD] {
            let path = format!("{directory}/{file}");
            if let Some(file) = self.medium.open_uncached(&path)? {
                freed_bytes += file.metadata().map_err(|err| self.medium.error("examine", &path, err))?.len();
            }
            self.medium.remove_file(&path)?;
        }
        match self.medium.remove_dir(&directory) {
            Ok(_) => Ok(Some(freed_bytes)),
            Err(err) if err.source.kind() == io::ErrorKind::DirectoryNotEmpty => {
                tracing::warn!("{err}: {}, ignoring", err.source);
                Ok(None)
            }
            Err(err) => Err(err),
        }
    }
}

/// The entries that name files of the pair, and those that cannot be read and so may.
fn users(listing: &Listing, digest: &BootDigest) -> Vec<EntryName> {
    let directory = fold(&digest.directory());
    let uses = |path: &str| fold(path).starts_with(&directory);
    let readable = listing.entries.iter().filter(|entry| {
        let entry = &entry.entry;
        // Not only the files of a valid entry: one that has two programs may be repaired by hand.
        [&entry.linux, &entry.efi, &entry.uki].into_iter().flatten().chain(&entry.initrd).any(|path| uses(path))
    });
    readable.map(|entry| entry.name.clone()).chain(listing.unreadable.iter().map(|entry| entry.name.clone())).collect()
}

/// A path as FAT compares it: in lower case, without empty parts and single dots.
fn fold(path: &str) -> Vec<String> {
    path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").map(str::to_lowercase).collect()
}

/// Keeps the error of the source apart from errors of the partition, while one is copied to the other.
struct Watched<'a> {
    source: &'a mut dyn Source,
    error: Option<io::Error>,
}

impl io::Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read(buffer).map_err(|err| {
            let kind = err.kind();
            if kind != io::ErrorKind::Interrupted {
                self.error = Some(err);
            }
            kind.into()
        })
    }
}
