//! The contents of files: objects of a repository, checked before they are served.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use osupdate_core::fsverity::FileHasher;
use osupdate_core::repository::{ObjectError, Repository, Verity};
use osupdate_core::{Algorithm, Digest};
use rustix::fs::{Advice, fadvise};
use thiserror::Error;

/// Objects that are kept open between two reads. All are closed when there are so many: a limit of 1024 descriptors is usual.
const OPEN_MAX: usize = 256;

/// Size of objects up to which hashing takes no longer than other answers do.
const SOON_MAX_BYTES: u64 = 1 << 20;

/// How far the disk is ahead of hashing.
const AHEAD_BYTES: u64 = 4 << 20;
/// What the disk is asked for at once.
const ASK_BYTES: u64 = 128 << 10;

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
    /// The last check found it good.
    found_good: AtomicBool,
    /// It has been prepared for a reader, or is about to be.
    prepared: AtomicBool,
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
        let asked = if size > ASK_BYTES { 0 } else { size };
        Self { file, size, position: 0, asked }
    }
}

impl io::Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ahead = self.size.min(self.position + AHEAD_BYTES);
        if self.asked < ahead {
            will_need(self.file, self.asked, ahead);
            self.asked = ahead;
        }
        let length = self.file.read_at(buffer, self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

/// Has a part of a file read from the disk. A hint: without it, it takes longer.
fn will_need(file: &File, from: u64, to: u64) {
    // The kernel takes no more at once than the disk does.
    let mut from = from;
    while from < to && fadvise(file, from, NonZeroU64::new(ASK_BYTES), Advice::WillNeed).is_ok() {
        from += ASK_BYTES;
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
        let object = |(digest, size)| Object {
            digest,
            size,
            good: Mutex::default(),
            found_good: AtomicBool::default(),
            prepared: AtomicBool::default(),
            reported: AtomicBool::default(),
        };
        Self { repository, objects: objects.into_iter().map(object).collect(), open: Mutex::default() }
    }

    /// Opens an object that is good.
    pub(crate) fn open(&self, index: u32) -> Result<File, ContentError> {
        let object = &self.objects[index as usize];
        let result = self.open_checked(object).map(|(file, _)| file);
        Self::report(object, &result);
        result
    }

    /// Whether an object must be hashed first, and is large. Not if it has been changed since it was found good, which is rare.
    pub(crate) fn takes_long(&self, index: u32) -> bool {
        let object = &self.objects[index as usize];
        self.repository.verity() == Verity::Unverified
            && object.size > SOON_MAX_BYTES
            && !object.found_good.load(Ordering::Relaxed)
    }

    /// Whether an object is to be prepared for a reader; only the first who asks is told so.
    pub(crate) fn is_to_prepare(&self, index: u32) -> bool {
        let object = &self.objects[index as usize];
        !object.found_good.load(Ordering::Relaxed) && !object.prepared.swap(true, Ordering::Relaxed)
    }

    /// Checks an object that somebody will probably read soon, and has it read from the disk. What is wrong with it is told to who reads it.
    pub(crate) fn prepare(&self, index: u32) {
        let object = &self.objects[index as usize];
        if object.found_good.load(Ordering::Relaxed) {
            return;
        }
        match self.open_checked(object) {
            // Only hashing has read it.
            Ok((file, _)) if self.repository.verity() != Verity::Unverified => will_need(&file, 0, object.size),
            Ok(_) => {}
            Err(error) => tracing::debug!("cannot prepare an object: {error}"),
        }
    }

    /// Whether an object that was opened before is still good.
    pub(crate) fn check_again(&self, index: u32, file: &File) -> Result<(), ContentError> {
        let object = &self.objects[index as usize];
        let result = self.check(object, file).map(|_| ());
        Self::report(object, &result);
        result
    }

    /// Reads as much as there is of an object that is good.
    pub(crate) fn read_at(&self, index: u32, buffer: &mut [u8], offset: u64) -> Result<usize, ContentError> {
        let object = &self.objects[index as usize];
        let read_error = |source| ContentError::Read { digest: object.digest, source };
        let result = self.open_kept(index).and_then(|(file, stamp)| {
            let length = read_at(&file, buffer, offset).map_err(read_error)?;
            // What was good may have been changed before it was read.
            if self.repository.verity() == Verity::Unverified && Stamp::of(&file).map_err(read_error)? != stamp {
                return Err(ContentError::Changed { digest: object.digest });
            }
            Ok(length)
        });
        Self::report(object, &result);
        result
    }

    /// Opens an object that is good, and keeps it open for the next read.
    fn open_kept(&self, index: u32) -> Result<(Arc<File>, Stamp), ContentError> {
        let object = &self.objects[index as usize];
        let kept = lock(&self.open).get(&index).cloned();
        let result = match kept {
            Some(file) => self.check(object, &file).map(|stamp| (file, stamp)),
            None => self.open_checked(object).map(|(file, stamp)| (Arc::new(file), stamp)),
        };
        let mut open = lock(&self.open);
        match &result {
            Ok((file, _)) => {
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

    fn open_checked(&self, object: &Object) -> Result<(File, Stamp), ContentError> {
        let file = File::from(self.repository.open_object(&object.digest)?);
        let stamp = self.check(object, &file)?;
        Ok((file, stamp))
    }

    fn check(&self, object: &Object, file: &File) -> Result<Stamp, ContentError> {
        let digest = object.digest;
        let read_error = |source| ContentError::Read { digest, source };
        let stamp = Stamp::of(file).map_err(read_error)?;
        let mut good = lock(&object.good);
        if *good == Some(stamp) {
            return Ok(stamp);
        }
        *good = None;
        object.found_good.store(false, Ordering::Relaxed);
        if stamp.size != object.size {
            return Err(ContentError::Length { digest, stated: object.size, found: stamp.size });
        }
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
        *good = Some(stamp);
        object.found_good.store(true, Ordering::Relaxed);
        Ok(stamp)
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
