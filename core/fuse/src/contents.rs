//! The contents of files: objects of a repository, checked before they are served.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use osupdate_core::fsverity::FileHasher;
use osupdate_core::repository::{ObjectError, Repository, Verity};
use osupdate_core::{Algorithm, Digest};
use rustix::fs::{Advice, fadvise};
use thiserror::Error;

/// Objects that are kept open between two reads. All are closed when there are so many: a limit of 1024 descriptors is usual.
const OPEN_MAX: usize = 256;

/// Size of objects up to which hashing takes no longer than other answers do.
const SOON_MAX_BYTES: u64 = 1 << 20;

/// How far the disk is ahead of hashing, for objects of what size.
const AHEAD_BYTES: u64 = 4 << 20;
const ASK_MIN_BYTES: u64 = 128 << 10;

thread_local! {
    static HASHER: RefCell<Option<(Algorithm, FileHasher)>> = const { RefCell::new(None) };
}

/// Why the contents of a file cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The object is not there, or not what its name says.
    #[error("cannot open an object")]
    Object(#[from] ObjectError),
    /// Reading failed.
    #[error("cannot read object {digest}")]
    Read {
        /// The object.
        digest: Digest,
        /// What the kernel said.
        source: io::Error,
    },
    /// It was changed while it was checked.
    #[error("object {digest} changes while it is read")]
    Changed {
        /// The object.
        digest: Digest,
    },
    /// The image says another size.
    #[error("object {digest} has {found} bytes, the image says {stated}")]
    Length {
        /// The object.
        digest: Digest,
        /// What the image says.
        stated: u64,
        /// What it has.
        found: u64,
    },
}

/// What tells that a file is still the one that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[derive(Debug)]
struct Object {
    digest: Digest,
    /// Size that the image says.
    size: u64,
    /// The file that was found good. Held while it is checked, so that it is checked once.
    good: Mutex<Option<Stamp>>,
    /// The log has been told that it cannot be served.
    reported: AtomicBool,
}

/// All objects of an image.
#[derive(Debug)]
pub(crate) struct Contents {
    repository: Arc<Repository>,
    objects: Vec<Object>,
    open: Mutex<HashMap<u32, Arc<File>>>,
}

/// A file from its first byte to its last, with the disk some way ahead.
#[derive(Debug)]
struct Whole<'a> {
    file: &'a File,
    size: u64,
    position: u64,
    /// What is before has been asked for.
    asked: u64,
}

impl<'a> Whole<'a> {
    fn new(file: &'a File, size: u64) -> Self {
        // The kernel reads that much by itself.
        let asked = if size > ASK_MIN_BYTES { 0 } else { size };
        Self { file, size, position: 0, asked }
    }
}

impl io::Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.asked < self.size && self.position + AHEAD_BYTES > self.asked {
            // A hint: without it, it takes longer.
            let _unused = fadvise(self.file, self.asked, NonZeroU64::new(AHEAD_BYTES), Advice::WillNeed);
            self.asked += AHEAD_BYTES;
        }
        let length = self.file.read_at(buffer, self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

/// The digest of what a reader has, with a buffer that the thread keeps.
fn hash(algorithm: Algorithm, reader: impl io::Read) -> io::Result<Digest> {
    HASHER.with_borrow_mut(|hasher| match hasher {
        Some((known, hasher)) if *known == algorithm => hasher.digest(reader),
        _ => hasher.insert((algorithm, FileHasher::new(algorithm))).1.digest(reader),
    })
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(length) => read += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is whole at every instant.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Contents {
    pub(crate) fn new(repository: Arc<Repository>, objects: Vec<(Digest, u64)>) -> Self {
        let object = |(digest, size)| Object { digest, size, good: Mutex::default(), reported: AtomicBool::default() };
        Self { repository, objects: objects.into_iter().map(object).collect(), open: Mutex::default() }
    }

    /// Opens an object that is good.
    pub(crate) fn open(&self, index: u32) -> Result<File, ContentError> {
        let object = &self.objects[index as usize];
        let result = self.open_checked(object);
        Self::report(object, &result);
        result
    }

    /// Whether an object was found good, or is about to be.
    pub(crate) fn is_good(&self, index: u32) -> bool {
        match self.objects[index as usize].good.try_lock() {
            Ok(good) => good.is_some(),
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(_)) => false,
        }
    }

    /// Whether an object must be hashed first, and is large. Not if it has been changed since it was found good, which is rare.
    pub(crate) fn takes_long(&self, index: u32) -> bool {
        let object = &self.objects[index as usize];
        self.repository.verity() == Verity::Unverified
            && object.size > SOON_MAX_BYTES
            && object.good.try_lock().map_or(true, |good| good.is_none())
    }

    /// Checks an object that somebody will probably read soon, and has it read from the disk. What is wrong with it is told to who reads it.
    pub(crate) fn prepare(&self, index: u32) {
        if self.is_good(index) {
            return;
        }
        match self.open_checked(&self.objects[index as usize]) {
            Ok(file) if self.repository.verity() != Verity::Unverified => {
                // Only hashing has read it.
                if let Err(error) = fadvise(&file, 0, None, Advice::WillNeed) {
                    tracing::debug!("cannot read ahead: {error}");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!("cannot prepare an object: {error}"),
        }
    }

    /// Whether an object that was opened before is still good.
    pub(crate) fn check_again(&self, index: u32, file: &File) -> Result<(), ContentError> {
        let object = &self.objects[index as usize];
        let result = self.check(object, file);
        Self::report(object, &result);
        result
    }

    /// Reads as much as there is of an object that is good.
    pub(crate) fn read_at(&self, index: u32, buffer: &mut [u8], offset: u64) -> Result<usize, ContentError> {
        let object = &self.objects[index as usize];
        let result = self.open_kept(index).and_then(|file| {
            read_at(&file, buffer, offset).map_err(|source| ContentError::Read { digest: object.digest, source })
        });
        Self::report(object, &result);
        result
    }

    /// Opens an object that is good, and keeps it open for the next read.
    fn open_kept(&self, index: u32) -> Result<Arc<File>, ContentError> {
        let object = &self.objects[index as usize];
        let kept = lock(&self.open).get(&index).cloned();
        let result = match kept {
            Some(file) => self.check(object, &file).map(|()| file),
            None => self.open_checked(object).map(Arc::new),
        };
        let mut open = lock(&self.open);
        match &result {
            Ok(file) => {
                if open.len() >= OPEN_MAX {
                    open.clear();
                }
                open.insert(index, file.clone());
            }
            // It may have been repaired by the next time, in another file.
            Err(_) => {
                open.remove(&index);
            }
        }
        result
    }

    fn open_checked(&self, object: &Object) -> Result<File, ContentError> {
        let file = File::from(self.repository.open_object(&object.digest)?);
        self.check(object, &file)?;
        Ok(file)
    }

    fn check(&self, object: &Object, file: &File) -> Result<(), ContentError> {
        let digest = object.digest;
        let read_error = |source| ContentError::Read { digest, source };
        let stamp = Stamp::of(file).map_err(read_error)?;
        let mut good = lock(&object.good);
        if *good == Some(stamp) {
            return Ok(());
        }
        *good = None;
        if self.repository.verity() == Verity::Unverified {
            let found = hash(digest.algorithm(), Whole::new(file, stamp.size)).map_err(read_error)?;
            if found != digest {
                return Err(ObjectError::Mismatch { digest, found }.into());
            }
            // What has been hashed may have been changed behind that.
            if Stamp::of(file).map_err(read_error)? != stamp {
                return Err(ContentError::Changed { digest });
            }
        }
        if stamp.size != object.size {
            return Err(ContentError::Length { digest, stated: object.size, found: stamp.size });
        }
        *good = Some(stamp);
        Ok(())
    }

    /// Tells the log about an object that cannot be served, once until it can.
    fn report<T>(object: &Object, result: &Result<T, ContentError>) {
        let failed = result.is_err();
        if object.reported.swap(failed, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = result {
            let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
            let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
            tracing::error!("{text}: readers of its file get an I/O error");
        }
    }
}
