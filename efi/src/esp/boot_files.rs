//! Kernels with their initial ramdisks, and UKIs with their addons, on the partition.

use std::collections::BTreeSet;
use std::io::{self, SeekFrom};

use osupdate_core::digest::Digest;
use thiserror::Error;

use super::{Esp, Listing, NoSpace, SpaceError};
use crate::boot_digest::{BootDigest, Source};
use crate::medium::AccessError;
use crate::name::EntryName;
use crate::paths;

/// Boot files, to be put on the partition: a kernel with its initial ramdisk, or a UKI with its addons.
#[allow(missing_debug_implementations, reason = "readers have nothing to show")]
pub struct BootFiles<'a> {
    /// Paths in the directory, and contents.
    files: Vec<(String, Box<dyn Source + 'a>)>,
    named: bool,
}

impl<'a> BootFiles<'a> {
    /// A kernel and its initial ramdisk.
    pub fn kernel(vmlinuz: impl Source + 'a, initrd: impl Source + 'a) -> Self {
        let files = vec![
            (paths::VMLINUZ.to_owned(), Box::new(vmlinuz) as Box<dyn Source + 'a>),
            (paths::INITRD.to_owned(), Box::new(initrd) as Box<dyn Source + 'a>),
        ];
        Self { files, named: false }
    }

    /// A UKI into which the digest of `image` is sealed, and its addons by their file names, which end in `.addon.efi`.
    pub fn uki(image: &Digest, uki: impl Source + 'a, addons: Vec<(String, Box<dyn Source + 'a>)>) -> Self {
        let mut files: Vec<_> =
            addons.into_iter().map(|(name, contents)| (paths::addon(image, &name), contents)).collect();
        files.push((paths::uki(image), Box::new(uki)));
        // As they are found in the directory.
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self { files, named: true }
    }

    /// The name that they have together. Reads all of them.
    pub fn digest(&mut self) -> io::Result<BootDigest> {
        match &mut self.files[..] {
            [(_, vmlinuz), (_, initrd)] if !self.named => BootDigest::of(&mut **vmlinuz, &mut **initrd),
            files => BootDigest::of_named(files),
        }
    }

    /// Their sizes.
    pub fn sizes_bytes(&mut self) -> io::Result<Vec<u64>> {
        self.files.iter_mut().map(|(_, file)| file.seek(SeekFrom::End(0))).collect()
    }
}

/// Boot files that are on the partition, complete and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBootFiles {
    /// Their name.
    pub digest: BootDigest,
    /// Whether they were written now; `false` if they were there.
    pub new: bool,
    /// Size of all.
    pub size_bytes: u64,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedBootFiles {
    /// Those that are gone.
    pub removed: Vec<BootDigest>,
    /// Size of their files.
    pub freed_bytes: u64,
}

/// Why boot files were not put on the partition.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PutBootFilesError {
    /// One cannot be read from where it comes.
    #[error("cannot read the boot files of the image")]
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
    /// Puts boot files on the partition, or finds that they are there.
    ///
    /// They get the name of their contents, under which nothing looks for them until there is an entry; so they are
    /// written under this name at once, synced, and verified from the medium. Files that are there are verified too;
    /// damaged ones are made anew if no entry needs them, and else left as they are. Space is checked before anything is
    /// written. On return the files survive a crash; after an error nothing new is left, unless the partition fails.
    pub fn put_boot_files(&self, mut files: BootFiles<'_>) -> Result<StoredBootFiles, PutBootFilesError> {
        let digest = files.digest().map_err(PutBootFilesError::Source)?;
        let sizes_bytes = files.sizes_bytes().map_err(PutBootFilesError::Source)?;
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
        self.remove_files(&digest.to_string())?;
        self.check_space(&sizes_bytes)?;
        if let Err(err) = self.write_files(&digest, files) {
            if let Err(again) = self.remove_files(&digest.to_string()) {
                tracing::warn!("{again}: {}, ignoring", again.source);
            }
            return Err(err);
        }
        Ok(StoredBootFiles { new: true, ..stored })
    }

    fn write_files(&self, digest: &BootDigest, files: BootFiles<'_>) -> Result<(), PutBootFilesError> {
        let directory = digest.directory();
        for (path, mut source) in files.files {
            let path = format!("{directory}/{path}");
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            self.medium.make_dirs(parent)?;
            self.write_file(&path, &mut *source)?;
        }
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
        let names = self.names_in(&directory)?;
        let mut files = if names.iter().any(|name| is_uki(name)) {
            let contents = names.into_iter().map(|name| Ok((name.clone(), Box::new(open(&name)?) as Box<dyn Source>)));
            BootFiles { files: contents.collect::<Result<_, VerifyBootFilesError>>()?, named: true }
        } else {
            BootFiles::kernel(open(paths::VMLINUZ)?, open(paths::INITRD)?)
        };
        let found = files.digest().map_err(|err| self.medium.error("read the boot files in", &directory, err))?;
        if found == *digest {
            return Ok(());
        }
        Err(VerifyBootFilesError::Damaged { directory, place: place(), found })
    }

    /// Sizes of the boot files with this name, as far as they are there.
    pub fn boot_file_sizes_bytes(&self, digest: &BootDigest) -> Result<Vec<u64>, AccessError> {
        let directory = digest.directory();
        let mut sizes_bytes = Vec::new();
        for name in self.names_in(&directory)? {
            sizes_bytes.extend(self.size_bytes(&format!("{directory}/{name}"))?);
        }
        Ok(sizes_bytes)
    }

    /// Paths of the boot files in a directory: kernel, ramdisk, UKI, and addons of the latter, in byte order. What else is
    /// there, others put there.
    fn names_in(&self, directory: &str) -> Result<Vec<String>, AccessError> {
        let mut names = Vec::new();
        for item in self.medium.list(directory)? {
            let name = item.name;
            let is_ours = |known: &str| name.eq_ignore_ascii_case(known);
            if item.is_dir && name.to_ascii_lowercase().ends_with(paths::OWN_ADDONS) {
                for addon in self.medium.list(&format!("{directory}/{name}"))? {
                    if !addon.is_dir && addon.name.to_ascii_lowercase().ends_with(paths::ADDON_SUFFIX) {
                        names.push(format!("{name}/{}", addon.name));
                    }
                }
            } else if !item.is_dir && (is_uki(&name) || is_ours(paths::VMLINUZ) || is_ours(paths::INITRD)) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn size_bytes(&self, path: &str) -> Result<Option<u64>, AccessError> {
        let Some(file) = self.medium.open_uncached(path)? else { return Ok(None) };
        let metadata = file.metadata().map_err(|err| self.medium.error("examine", path, err))?;
        Ok(Some(metadata.len()))
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
            if let Some(freed_bytes) = self.remove_files(&item.name)? {
                result.freed_bytes += freed_bytes;
                result.removed.push(digest);
            }
        }
        if !result.removed.is_empty() {
            self.medium.barrier()?;
        }
        Ok(result)
    }

    /// Removes a directory of boot files with the files. `None` if it stays, because others put files into it.
    fn remove_files(&self, name: &str) -> Result<Option<u64>, AccessError> {
        let directory = format!("{}/{name}", paths::BOOT_FILES);
        let mut freed_bytes = 0;
        let mut directories = vec![directory.clone()];
        for name in self.names_in(&directory)? {
            let path = format!("{directory}/{name}");
            freed_bytes += self.size_bytes(&path)?.unwrap_or(0);
            self.medium.remove_file(&path)?;
        }
        for item in self.medium.list(&directory)? {
            if item.is_dir && item.name.to_ascii_lowercase().ends_with(paths::OWN_ADDONS) {
                directories.push(format!("{directory}/{}", item.name));
            }
        }
        for directory in directories.iter().rev() {
            match self.medium.remove_dir(directory) {
                Ok(_) => {}
                Err(err) if err.source.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    tracing::warn!("{err}: {}, ignoring", err.source);
                    return Ok(None);
                }
                Err(err) => return Err(err),
            }
        }
        Ok(Some(freed_bytes))
    }
}

/// Whether a file in a directory of boot files is a UKI.
fn is_uki(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(paths::UKI_SUFFIX) && !name.contains('/')
}

/// The entries that name boot files in the directory, and those that cannot be read and so may.
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
