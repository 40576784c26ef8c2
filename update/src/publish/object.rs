//! Objects of the repository as files of the tree.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use osupdate_core::Digest;
use osupdate_core::fsverity::Hasher;
use osupdate_core::observer::{Event, Observer};
use osupdate_core::published::object_path;
use osupdate_core::repository::{ObjectError, Repository};
use zstd::bulk::Compressor;
use zstd::stream::write::Encoder;

use super::tree::Tree;
use super::{PublishError, TreeError};

/// Objects up to this size are compressed in memory.
const IN_MEMORY_MAX_BYTES: u64 = 4 << 20;
/// Bytes that are read at once of larger ones.
const BUFFER_BYTES: usize = 256 << 10;
/// Progress is told after so many bytes.
const PROGRESS_STEP_BYTES: u64 = 1 << 20;

/// Puts objects into the tree.
pub(super) struct Objects<'a> {
    pub(super) repository: &'a Repository,
    pub(super) tree: &'a Tree,
    /// Level of zstd.
    pub(super) level: i32,
    /// Also put all of them there as they are.
    pub(super) plain: bool,
    pub(super) observer: &'a dyn Observer,
}

/// Whether so many bytes are enough less: to decompress is work for every reader.
fn helps(compressed: u64, size: u64) -> bool {
    compressed < size - size / 20
}

impl Objects<'_> {
    /// Makes sure that all of them are there; for each, how many bytes are fetched of it, 0 if it is not compressed.
    pub(super) fn publish(&self, objects: &[Digest], known: &mut HashMap<Digest, u64>) -> Result<(), PublishError> {
        let mut missing = Vec::new();
        let mut total_bytes = 0;
        for object in objects {
            if known.contains_key(object) {
                continue;
            }
            let size = self.repository.object_size(object)?.ok_or(ObjectError::NotFound { digest: *object })?;
            match self.published(object, size)? {
                Some(bytes) => drop(known.insert(*object, bytes)),
                None => {
                    total_bytes += size;
                    missing.push((*object, size));
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let id = "objects";
        let what = format!("{} files", missing.len());
        self.observer.event(Event::Started { id, what: &what, total_bytes: Some(total_bytes) });
        let done = AtomicU64::new(0);
        let progress = |bytes: u64| {
            let before = done.fetch_add(bytes, Ordering::Relaxed);
            if before / PROGRESS_STEP_BYTES != (before + bytes) / PROGRESS_STEP_BYTES {
                self.observer.event(Event::Progress { id, done_bytes: before + bytes });
            }
        };
        let written = self.each(&missing, &progress)?;
        known.extend(written);
        self.observer.event(Event::Finished { id });
        Ok(())
    }

    /// What is fetched of an object that is there.
    fn published(&self, object: &Digest, size: u64) -> Result<Option<u64>, TreeError> {
        let plain = self.tree.size(&object_path(object, false))?;
        if self.plain && plain.is_none() {
            return Ok(None);
        }
        match self.tree.size(&object_path(object, true))? {
            Some(bytes) => Ok(Some(bytes)),
            // With plain ones alone, it is not known whether this one can be compressed.
            None => Ok(plain.filter(|bytes| *bytes == size).map(|_| 0)),
        }
    }

    fn each(
        &self,
        missing: &[(Digest, u64)],
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<(Digest, u64)>, PublishError> {
        let next = AtomicUsize::new(0);
        let result = Mutex::new(Ok(Vec::with_capacity(missing.len())));
        let lock = || result.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            let mut compressor = Compressor::new(self.level);
            while let Some((object, size)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = match &mut compressor {
                    Ok(compressor) => self.write(object, *size, compressor, progress),
                    Err(error) => Err(PublishError::Compress(io::Error::new(error.kind(), error.to_string()))),
                };
                match (&mut *lock(), done) {
                    (Ok(all), Ok(bytes)) => all.push((*object, bytes)),
                    (Err(_), _) => return,
                    (all, Err(error)) => {
                        *all = Err(error);
                        return;
                    }
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(missing.len()) {
                scope.spawn(work);
            }
        });
        result.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(
        &self,
        object: &Digest,
        size: u64,
        compressor: &mut Compressor<'_>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<u64, PublishError> {
        // Other images state the size of this file: it stays as it is, whatever the level is now.
        if let Some(bytes) = self.tree.size(&object_path(object, true))? {
            self.write_plain(object, progress)?;
            return Ok(bytes);
        }
        if size > IN_MEMORY_MAX_BYTES {
            return self.write_large(object, size, progress);
        }
        let contents = self.repository.read_object(object)?;
        let compressed = compressor.compress(&contents).map_err(PublishError::Compress)?;
        let shorter = helps(compressed.len() as u64, size);
        if shorter {
            self.tree.put(&object_path(object, true), &compressed)?;
        }
        if !shorter || self.plain {
            self.tree.put(&object_path(object, false), &contents)?;
        }
        progress(size);
        Ok(if shorter { compressed.len() as u64 } else { 0 })
    }

    /// The same with little memory: compressed first, and read once more if that was of no use.
    fn write_large(&self, object: &Digest, size: u64, progress: &(dyn Fn(u64) + Sync)) -> Result<u64, PublishError> {
        let path = object_path(object, true);
        let error = self.tree.error("write", &path);
        let mut encoder = Encoder::new(self.tree.create(&path)?, self.level).map_err(&error)?;
        encoder.set_pledged_src_size(Some(size)).map_err(&error)?;
        self.copy(object, &mut encoder, &error, progress)?;
        let file = encoder.finish().map_err(&error)?;
        let bytes = file.bytes();
        let shorter = helps(bytes, size);
        if shorter {
            self.tree.stage(file)?;
        } else {
            drop(file);
        }
        if !shorter || self.plain {
            self.write_plain(object, &|_| ())?;
        }
        Ok(if shorter { bytes } else { 0 })
    }

    /// Puts an object into the tree as it is.
    fn write_plain(&self, object: &Digest, progress: &dyn Fn(u64)) -> Result<(), PublishError> {
        let path = object_path(object, false);
        let mut file = self.tree.create(&path)?;
        self.copy(object, &mut file, &self.tree.error("write", &path), progress)?;
        Ok(self.tree.stage(file)?)
    }

    /// Copies an object, and fails if it is another one.
    fn copy(
        &self,
        object: &Digest,
        out: &mut dyn Write,
        error: &dyn Fn(io::Error) -> TreeError,
        progress: &dyn Fn(u64),
    ) -> Result<(), PublishError> {
        let mut file = File::from(self.repository.open_object(object)?);
        let mut hasher = Hasher::new(object.algorithm());
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let digest = *object;
            let count = file.read(&mut buffer).map_err(|source| PublishError::ReadObject { digest, source })?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            out.write_all(&buffer[..count]).map_err(error)?;
            progress(count as u64);
        }
        let found = hasher.finish();
        if found != *object {
            return Err(ObjectError::Mismatch { digest: *object, found }.into());
        }
        Ok(())
    }
}
