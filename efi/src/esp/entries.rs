//! Entries on the partition.

use thiserror::Error;

use super::{Esp, NoSpace, SpaceError};
use crate::entry::{Entry, InvalidValue};
use crate::medium::AccessError;
use crate::name::{EntryName, OUR_PREFIX};
use crate::order::NamedEntry;
use crate::paths;

/// Ends the names of entries that are being written: the loader reads only names that end in `.conf`.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// No sensible entry is longer.
const ENTRY_LIMIT_BYTES: u64 = 64 << 10;

/// All entries of a partition.
#[derive(Debug, Default)]
pub struct Listing {
    /// Entries that could be read, in the order of the loader's menu.
    pub entries: Vec<NamedEntry>,
    /// Entries that could not.
    pub unreadable: Vec<UnreadableEntry>,
}

/// An entry that could not be read.
#[derive(Debug)]
pub struct UnreadableEntry {
    /// Its name.
    pub name: EntryName,
    /// Why.
    pub error: AccessError,
}

impl Listing {
    /// The entries that belong to us.
    pub fn ours(&self) -> impl Iterator<Item = &NamedEntry> {
        self.entries.iter().filter(|entry| is_ours(entry))
    }

    /// The entries of others.
    pub fn foreign(&self) -> impl Iterator<Item = &NamedEntry> {
        self.entries.iter().filter(|entry| !is_ours(entry))
    }

    /// The names of all entries, readable or not.
    fn names(&self) -> impl Iterator<Item = &EntryName> {
        self.entries.iter().map(|entry| &entry.name).chain(self.unreadable.iter().map(|entry| &entry.name))
    }
}

/// Ours by its name, and it boots a composefs image: a name alone may be a coincidence.
fn is_ours(entry: &NamedEntry) -> bool {
    entry.name.is_ours() && entry.entry.image().is_some()
}

/// What was found of writes that a crash interrupted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Files that were removed.
    pub removed: Vec<String>,
    /// Temporary files that must stay, because they may share their clusters with an entry; see `LAYOUT.md`.
    pub kept: Vec<String>,
}

/// Why an entry was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteEntryError {
    /// There is an entry with this id already; systemd-boot and bless-boot confuse two entries with one id.
    #[error("{place} has the boot entry {existing} already")]
    Exists {
        /// Its file name.
        existing: EntryName,
        /// The partition.
        place: String,
    },
    /// The entry does not name exactly one program.
    #[error("the boot entry {name} has not exactly one of linux, efi and uki")]
    NoProgram {
        /// The entry.
        name: EntryName,
    },
    /// The entry would not boot.
    #[error("the boot entry {name} needs {path}, which {place} does not have")]
    MissingFile {
        /// The entry.
        name: EntryName,
        /// The first missing file.
        path: String,
        /// The partition.
        place: String,
    },
    /// What was written is not what is read back.
    #[error("{path} on {place} reads back otherwise than it was written")]
    ReadBack {
        /// The file.
        path: String,
        /// The partition.
        place: String,
    },
    /// A value cannot be written.
    #[error(transparent)]
    Value(#[from] InvalidValue),
    /// There is not enough room.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// An operation on the partition failed.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl From<SpaceError> for WriteEntryError {
    fn from(err: SpaceError) -> Self {
        match err {
            SpaceError::NoSpace(err) => Self::NoSpace(err),
            SpaceError::Access(err) => Self::Access(err),
        }
    }
}

/// Why an entry was not removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoveEntryError {
    /// The machine could not boot any more.
    #[error("{name} is the last boot entry on {place} that can be booted")]
    LastBootable {
        /// The entry.
        name: EntryName,
        /// The partition.
        place: String,
    },
    /// An operation on the partition failed.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl Esp {
    /// All entries on the partition; none if it has no directory for them.
    pub fn entries(&self) -> Result<Listing, AccessError> {
        let mut listing = Listing::default();
        for item in self.medium.list(paths::ENTRIES)? {
            let Ok(name) = item.name.parse::<EntryName>() else { continue };
            if item.is_dir {
                continue;
            }
            match self.medium.read(&entry_path(name.file_name()), ENTRY_LIMIT_BYTES) {
                Ok(Some(text)) => listing.entries.push(NamedEntry { name, entry: Entry::parse(&text) }),
                // Renamed by bless-boot since the directory was read, or not a regular file.
                Ok(None) => {}
                Err(error) => listing.unreadable.push(UnreadableEntry { name, error }),
            }
        }
        listing.entries.sort_by(crate::order::compare);
        Ok(listing)
    }

    /// The files that an entry names and the partition does not have. The loader itself does not look for initrds.
    pub fn missing_files<'a>(&self, entry: &'a Entry) -> Vec<&'a str> {
        entry.files().filter(|path| !self.medium.has_file(path)).collect()
    }

    /// Whether the loader can start the entry and finds all its files.
    pub fn is_complete(&self, entry: &Entry) -> bool {
        entry.program().is_some() && self.missing_files(entry).is_empty()
    }

    /// Adds an entry: the commit point of every change.
    ///
    /// The files that it names must be there and should have been verified. Written under a name that the loader
    /// ignores, synced, read back from the medium, renamed, synced. On return the entry survives a crash; after an error
    /// it is not there, except that an error in the very last sync leaves it undecided.
    pub fn write_entry(&self, name: &EntryName, entry: &Entry) -> Result<(), WriteEntryError> {
        let place = || self.place().to_owned();
        let text = entry.to_text()?;
        if entry.program().is_none() {
            return Err(WriteEntryError::NoProgram { name: name.clone() });
        }
        if let Some(path) = self.missing_files(entry).first() {
            return Err(WriteEntryError::MissingFile { name: name.clone(), path: (*path).to_owned(), place: place() });
        }
        if let Some(existing) = self.entries()?.names().find(|existing| existing.id() == name.id()) {
            return Err(WriteEntryError::Exists { existing: existing.clone(), place: place() });
        }
        self.check_space(&[text.len() as u64])?;
        self.medium.make_dirs(paths::ENTRIES)?;

        let temporary = format!(".{}{TEMPORARY_SUFFIX}", name.file_name());
        let temporary_path = entry_path(&temporary);
        self.medium.remove_file(&temporary_path)?;
        if let Err(err) = self.write_checked(&temporary_path, text.as_bytes()) {
            if let Err(again) = self.medium.remove_file(&temporary_path) {
                tracing::warn!("{again}: {}, ignoring", again.source);
            }
            return Err(err);
        }
        self.medium.rename_new(paths::ENTRIES, &temporary, name.file_name())?;
        self.medium.barrier()?;
        Ok(())
    }

    fn write_checked(&self, path: &str, contents: &[u8]) -> Result<(), WriteEntryError> {
        self.medium.write_new(path, &mut &contents[..])?;
        self.medium.barrier()?;
        if self.medium.read(path, ENTRY_LIMIT_BYTES)?.as_deref() != Some(contents) {
            return Err(WriteEntryError::ReadBack { path: path.to_owned(), place: self.place().to_owned() });
        }
        Ok(())
    }

    /// Removes an entry; `false` if it is not there. On return it stays away after a crash.
    ///
    /// If the loader or bless-boot renamed the entry since it was listed, it is found by its id. The last complete entry
    /// of ours is never removed, nor the last one with tries left.
    pub fn remove_entry(&self, name: &EntryName) -> Result<bool, RemoveEntryError> {
        let listing = self.entries()?;
        let same_id = || listing.names().find(|listed| listed.id() == name.id());
        let Some(name) = listing.names().find(|listed| *listed == name).or_else(same_id) else { return Ok(false) };

        let bootable = |entry: &&NamedEntry| is_ours(entry) && self.is_complete(&entry.entry);
        let (this, others): (Vec<_>, Vec<_>) =
            listing.entries.iter().filter(bootable).partition(|entry| entry.name == *name);
        if !this.is_empty() && !others.iter().any(|other| name.is_bad() || !other.name.is_bad()) {
            return Err(RemoveEntryError::LastBootable { name: name.clone(), place: self.place().to_owned() });
        }
        let removed = self.medium.remove_file(&entry_path(name.file_name()))?;
        self.medium.barrier()?;
        Ok(removed)
    }

    /// Removes what interrupted writes of entries left: temporary files, and empty entries of ours.
    pub fn clean_temporary(&self) -> Result<Cleaned, AccessError> {
        let listing = self.entries()?;
        let mut cleaned = Cleaned::default();
        let is_empty = |name: &EntryName| name.is_ours() && !self.medium.has_file(&entry_path(name.file_name()));
        let (empty, others): (Vec<_>, Vec<_>) = listing.names().partition(|name| is_empty(name));
        for name in empty {
            self.medium.remove_file(&entry_path(name.file_name()))?;
            cleaned.removed.push(name.file_name().to_owned());
        }
        for item in self.medium.list(paths::ENTRIES)? {
            let Some(name) = temporary_name(&item.name) else { continue };
            if others.iter().any(|other| other.id() == name.id()) {
                cleaned.kept.push(item.name);
            } else {
                self.medium.remove_file(&entry_path(&item.name))?;
                cleaned.removed.push(item.name);
            }
        }
        if !cleaned.removed.is_empty() {
            self.medium.barrier()?;
        }
        Ok(cleaned)
    }
}

fn entry_path(file_name: &str) -> String {
    format!("{}/{file_name}", paths::ENTRIES)
}

/// The entry that a temporary file of ours was to become.
fn temporary_name(file_name: &str) -> Option<EntryName> {
    let name = file_name.strip_prefix('.')?.strip_suffix(TEMPORARY_SUFFIX)?;
    name.starts_with(OUR_PREFIX).then(|| name.parse().ok())?
}
