//! One object, on its way from a tree into the repository.

use std::io::{self, Read, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use zstd::stream::read::Decoder;

use super::{FetchTreeError, Meter};
use crate::oci::Resumed;
use crate::published::bounded::WINDOW_LOG_MAX;
use crate::published::source::{ObjectFile, PublishedSource};
use crate::repository::{Guard, ObjectError, PartialBlob, Repository};

/// Of files of this size what has arrived is kept, so that the next attempt goes on from there; of smaller ones where fetching is
/// limited.
const KEEP_MIN_BYTES: u64 = 1 << 20;
/// Bytes handled at once.
const COPY_BYTES: usize = 64 << 10;

/// An object that is to be fetched.
pub(super) struct Fetch<'a> {
    pub(super) repository: &'a Repository,
    pub(super) source: &'a dyn PublishedSource,
    pub(super) object: ObjectFile,
    pub(super) meter: &'a Meter<'a>,
    pub(super) stop: &'a AtomicBool,
}

impl Fetch<'_> {
    /// Fetches it from the first place that has the right one, and stores it.
    pub(super) fn run(&self) -> Result<(), FetchTreeError> {
        let mut kept = self.open_kept();
        loop {
            let kept_bytes = kept.as_ref().map_or(0, PartialBlob::len_bytes);
            let mut counted = 0;
            let error = match self.attempt(&mut kept, kept_bytes, &mut counted) {
                Ok(()) => {
                    if let Some(kept) = kept {
                        kept.remove();
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            if !matches!(error, FetchTreeError::DamagedObject { .. }) {
                match kept {
                    // What comes next may be a power cut.
                    Some(mut kept) if kept.len_bytes() > 0 => {
                        if let Err(error) = kept.sync() {
                            tracing::warn!("cannot sync what has arrived of {}: {error}, ignoring", self.object.digest);
                        }
                    }
                    Some(empty) => empty.remove(),
                    None => {}
                }
                return Err(error);
            }
            if kept_bytes > 0 {
                tracing::warn!("what an earlier attempt left is damaged, fetching it again ({error})");
            } else if !self.source.blame(&self.object) {
                if let Some(kept) = kept {
                    kept.remove();
                }
                return Err(error);
            }
            self.meter.take_back(counted);
            if let Some(arrived) = &mut kept
                && let Err(error) = arrived.clear()
            {
                tracing::warn!("cannot empty the file: {error}, ignoring");
                kept = None;
            }
        }
    }

    fn attempt(
        &self,
        kept: &mut Option<PartialBlob<'_>>,
        kept_bytes: u64,
        counted: &mut u64,
    ) -> Result<(), FetchTreeError> {
        let object = self.object;
        let open = |offset| self.source.object(&object, offset);
        let what = format!("object {}", object.digest);
        let bytes = Resumed::new(&open, &what, object.file_bytes(), kept, kept_bytes);
        let mut bytes = Arriving { bytes, failed: false, counted, meter: self.meter, stop: self.stop };
        match object.compressed_size {
            None => self.store(&mut bytes, |_| None),
            Some(_) => {
                let damaged = |error: io::Error| self.damaged(format!("it cannot be decompressed: {error}"));
                let mut decoder = Decoder::new(&mut bytes).map_err(damaged)?;
                decoder.window_log_max(WINDOW_LOG_MAX).map_err(damaged)?;
                self.store(&mut decoder, |decoder| Some(decoder.get_ref().get_ref().failed))
            }
        }
    }

    /// Stores what a reader gives; `failed` tells whether an error was that of the transfer, which it is without a decoder.
    fn store<R: Read>(&self, bytes: &mut R, failed: impl Fn(&R) -> Option<bool>) -> Result<(), FetchTreeError> {
        let ObjectFile { digest, size, .. } = self.object;
        let mut room = Guard::new(self.repository);
        let mut object = self.repository.new_object()?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut stored = 0_u64;
        loop {
            let n = match bytes.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) if self.stop.load(Ordering::Relaxed) => return Err(FetchTreeError::Stopped),
                Err(error) if failed(bytes).unwrap_or(true) => {
                    return Err(FetchTreeError::Transfer { digest, source: error.into() });
                }
                Err(error) => return Err(self.damaged(format!("it cannot be decompressed: {error}"))),
            };
            stored += n as u64;
            if stored > size {
                return Err(self.damaged(format!("it has more than {size} bytes")));
            }
            room.take(n as u64)?;
            object.write_all(&buffer[..n]).map_err(|source| FetchTreeError::Write { digest, source })?;
        }
        if stored < size {
            return Err(self.damaged(format!("it has {stored} bytes, not {size}")));
        }
        match object.finish_as(&digest) {
            Ok(_) => Ok(()),
            Err(ObjectError::Mismatch { found, .. }) => Err(self.damaged(format!("it has the digest {found}"))),
            Err(error) => Err(error.into()),
        }
    }

    fn damaged(&self, problem: String) -> FetchTreeError {
        FetchTreeError::DamagedObject { digest: self.object.digest, problem }
    }

    /// What was kept of it, if it can be kept: without it the object is fetched all the same.
    fn open_kept(&self) -> Option<PartialBlob<'_>> {
        let name = self.object.path().replace('/', "-");
        let small = self.object.file_bytes() < KEEP_MIN_BYTES && !self.source.is_limited();
        // An attempt that was limited may have left some of it.
        if small && self.repository.partial_blob_bytes(&name).unwrap_or(0) == 0 {
            return None;
        }
        match self.repository.partial_blob(&name, self.object.file_bytes()) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!("{error}: {}; what arrives is not kept", error.source);
                None
            }
        }
    }
}

/// The file of an object as it arrives: counted, and stopped when another object failed.
struct Arriving<'a, R> {
    bytes: R,
    failed: bool,
    counted: &'a mut u64,
    meter: &'a Meter<'a>,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for Arriving<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            self.failed = true;
            return Err(io::Error::other("stopped"));
        }
        match self.bytes.read(buffer) {
            Ok(n) => {
                *self.counted += n as u64;
                self.meter.add(n as u64);
                Ok(n)
            }
            Err(error) => {
                self.failed = error.kind() != io::ErrorKind::Interrupted;
                Err(error)
            }
        }
    }
}
