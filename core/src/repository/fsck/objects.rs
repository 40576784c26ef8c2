//! The contents of the objects, by as many threads as there are processors.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::{FindingKind, FsckReport};
use crate::digest::Digest;
use crate::fsverity::FileHasher;
use crate::observer::{Event, Observer};
use crate::repository::{FileError, OBJECTS, Repository, Verity, names, verity};

/// Names this check to the observer.
const ID: &str = "objects";

impl Repository {
    pub(super) fn check_objects(&self, observer: &dyn Observer) -> Result<FsckReport, FileError> {
        let prefixes = self.object_prefixes()?;
        let next = AtomicUsize::new(0);
        let threads = thread::available_parallelism().map_or(1, |number| number.get()).min(prefixes.len());
        observer.event(Event::Started { id: ID, what: "objects", total_bytes: None });
        let parts: Vec<Result<FsckReport, FileError>> = thread::scope(|scope| {
            let work = || {
                let mut part = FsckReport::default();
                let mut hasher = FileHasher::new(self.algorithm());
                while let Some(prefix) = prefixes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.check_prefix(prefix, &mut hasher, &mut part)?;
                }
                Ok(part)
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        observer.event(Event::Finished { id: ID });
        let mut report = FsckReport::default();
        for part in parts {
            report.add(part?);
        }
        Ok(report)
    }

    fn check_prefix(&self, prefix: &str, hasher: &mut FileHasher, report: &mut FsckReport) -> Result<(), FileError> {
        let directory = format!("{OBJECTS}/{prefix}");
        let listed = names(self.dir.as_fd(), &directory).map_err(|error| self.file_error("read", &directory, error))?;
        for rest in listed.unwrap_or_default() {
            let rest = String::from_utf8_lossy(&rest);
            let path = format!("{directory}/{rest}");
            report.objects_checked += 1;
            match format!("{prefix}{rest}").parse::<Digest>() {
                Ok(digest) if digest.algorithm() == self.algorithm() => {
                    if let Err((kind, detail)) = self.check_object(&path, &digest, hasher) {
                        report.objects_corrupted += 1;
                        report.find_bad(kind, &path, digest, detail);
                    }
                }
                _ => {
                    report.objects_corrupted += 1;
                    report.find(FindingKind::ObjectInvalidName, &path, None);
                }
            }
        }
        Ok(())
    }

    fn check_object(
        &self,
        path: &str,
        digest: &Digest,
        hasher: &mut FileHasher,
    ) -> Result<(), (FindingKind, Option<String>)> {
        let failed = |kind| move |error: io::Error| (kind, Some(error.to_string()));
        // Not blocking: the name may be that of a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match openat(&self.dir, path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP) => return Err((FindingKind::UnexpectedFileType, None)),
            Err(errno) => return Err(failed(FindingKind::ObjectOpenFailed)(errno.into())),
        };
        let stat = fstat(&file).map_err(|errno| failed(FindingKind::StatFailed)(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err((FindingKind::UnexpectedFileType, None));
        }
        let found = match self.verity() {
            Verity::Required => {
                let verity_failed = failed(FindingKind::ObjectVerityFailed);
                let sealed = verity::measure(file.as_fd()).map_err(verity_failed)?;
                let sealed = sealed.ok_or((FindingKind::ObjectVerityMissing, None))?;
                // The kernel compares every block with the seal when it is read, and only then.
                io::copy(&mut &file, &mut io::sink()).map_err(failed(FindingKind::ObjectVerityFailed))?;
                sealed
            }
            Verity::Unverified => hasher.digest(&file).map_err(failed(FindingKind::ObjectCheckFailed))?,
        };
        if found == *digest { Ok(()) } else { Err((FindingKind::ObjectDigestMismatch, Some(found.to_string()))) }
    }
}
