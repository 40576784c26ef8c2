//! The check of a repository: what is in it is what it claims to be, and everything that is needed is there.
//!
//! Nothing is changed, and the check does not stop at the first failure: every one is a [`Finding`].

mod names;
mod objects;

use std::collections::BTreeSet;
use std::fmt;
use std::thread;

use rustix::io::Errno;
use thiserror::Error;

use super::metadata::Metadata;
use super::{FileError, Namespace, Repository, read_metadata};
use crate::digest::Digest;
use crate::observer::{Event, Observer};
use std::os::fd::AsFd;

/// What to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckOptions {
    /// Leaves out the contents of the objects, which takes most of the time.
    pub metadata_only: bool,
}

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FindingKind {
    /// A file among the objects has another name than objects have.
    ObjectInvalidName,
    /// An object cannot be opened.
    ObjectOpenFailed,
    /// An object is not what its name says.
    ObjectDigestMismatch,
    /// The kernel found an object's contents changed, or cannot tell.
    ObjectVerityFailed,
    /// An object has no fs-verity and must have.
    ObjectVerityMissing,
    /// An object cannot be read.
    ObjectCheckFailed,
    /// A first-level name is not a symlink to an object.
    EntryNotSymlink,
    /// A name or ref stands for something that is not there.
    BrokenSymlink,
    /// The type of a file cannot be told.
    StatFailed,
    /// Something is neither what may be there nor in the way.
    UnexpectedFileType,
    /// A stream cannot be opened.
    StreamOpenFailed,
    /// The chunks of a stream cannot be decoded.
    StreamReadFailed,
    /// An object that a stream consists of is not there.
    MissingObjectRef,
    /// An object that a stream names is not there.
    MissingNamedRef,
    /// An image cannot be opened.
    ImageOpenFailed,
    /// An image cannot be read.
    ImageReadFailed,
    /// An image is not one.
    ImageInvalid,
    /// An object that an image needs is not there.
    ImageMissingObject,
    /// `meta.json` cannot be parsed.
    MetadataParseFailed,
    /// `meta.json` has changed since the repository was opened.
    MetadataAlgorithmMismatch,
}

impl FindingKind {
    /// Its name in output: that of cfsctl, where that has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ObjectInvalidName => "object-invalid-name",
            Self::ObjectOpenFailed => "object-open-failed",
            Self::ObjectDigestMismatch => "object-digest-mismatch",
            Self::ObjectVerityFailed => "object-verity-failed",
            Self::ObjectVerityMissing => "object-verity-missing",
            Self::ObjectCheckFailed => "object-check-failed",
            Self::EntryNotSymlink => "entry-not-symlink",
            Self::BrokenSymlink => "broken-symlink",
            Self::StatFailed => "stat-failed",
            Self::UnexpectedFileType => "unexpected-file-type",
            Self::StreamOpenFailed => "stream-open-failed",
            Self::StreamReadFailed => "stream-read-failed",
            Self::MissingObjectRef => "missing-object-ref",
            Self::MissingNamedRef => "missing-named-ref",
            Self::ImageOpenFailed => "image-open-failed",
            Self::ImageReadFailed => "image-read-failed",
            Self::ImageInvalid => "image-invalid",
            Self::ImageMissingObject => "image-missing-object",
            Self::MetadataParseFailed => "metadata-parse-failed",
            Self::MetadataAlgorithmMismatch => "metadata-algorithm-mismatch",
        }
    }
}

/// One thing that is wrong. Displayed as `<kind>: <path>[: <detail>]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where, as a path in the repository.
    pub path: String,
    /// What.
    pub kind: FindingKind,
    /// More about it: a digest, an error.
    pub detail: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.path)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

/// What was checked and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FsckReport {
    /// Everything that is wrong, in order of the paths.
    pub findings: Vec<Finding>,
    /// Whether there is a `meta.json`.
    pub has_metadata: bool,
    /// Objects, also damaged ones.
    pub objects_checked: u64,
    /// Objects that are not what they should be.
    pub objects_corrupted: u64,
    /// Names of streams.
    pub streams_checked: u64,
    /// Those whose stream is incomplete or damaged.
    pub streams_corrupted: u64,
    /// Names of images.
    pub images_checked: u64,
    /// Those whose image is incomplete or damaged.
    pub images_corrupted: u64,
    /// Names and refs that stand for nothing.
    pub broken_links: u64,
    /// Objects that are needed, each time that one is.
    pub missing_objects: u64,
    /// Files that a crash has left behind, or that are being written just now: nothing is wrong with that, and the next
    /// collection removes the former. Paths in the repository.
    pub temporary_files: Vec<String>,
    /// The objects that are damaged, or needed and missing: what a repair has to get.
    pub bad_objects: BTreeSet<Digest>,
    /// First-level names that refs stand for and that are missing.
    pub missing_names: BTreeSet<(Namespace, String)>,
}

impl FsckReport {
    /// True if nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Adds what another part of the check has found.
    fn add(&mut self, part: Self) {
        self.findings.extend(part.findings);
        self.has_metadata |= part.has_metadata;
        self.objects_checked += part.objects_checked;
        self.objects_corrupted += part.objects_corrupted;
        self.streams_checked += part.streams_checked;
        self.streams_corrupted += part.streams_corrupted;
        self.images_checked += part.images_checked;
        self.images_corrupted += part.images_corrupted;
        self.broken_links += part.broken_links;
        self.missing_objects += part.missing_objects;
        self.temporary_files.extend(part.temporary_files);
        self.bad_objects.extend(part.bad_objects);
        self.missing_names.extend(part.missing_names);
    }

    /// Notes a finding that an object is the cause of.
    fn find_bad(&mut self, kind: FindingKind, path: &str, object: Digest, detail: Option<String>) {
        self.bad_objects.insert(object);
        self.find(kind, path, detail);
    }

    fn find(&mut self, kind: FindingKind, path: &str, detail: Option<String>) {
        match kind {
            FindingKind::BrokenSymlink => self.broken_links += 1,
            FindingKind::MissingObjectRef | FindingKind::MissingNamedRef | FindingKind::ImageMissingObject => {
                self.missing_objects += 1;
            }
            _ => {}
        }
        self.findings.push(Finding { path: path.to_owned(), kind, detail });
    }
}

/// Why the check could not be done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FsckError {
    /// A directory cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Repository {
    /// Checks the repository. The objects are read whole, with [`super::Verity::Required`] through the kernel's check.
    pub fn fsck(&self, options: &FsckOptions, observer: &dyn Observer) -> Result<FsckReport, FsckError> {
        let mut report = FsckReport::default();
        self.check_metadata(&mut report);
        if options.metadata_only {
            observer.event(Event::Step("checking streams and images"));
            report.add(self.check_named()?);
        } else {
            observer.event(Event::Step("checking objects, streams and images"));
            // What names lead to asks for many small things while the objects keep the disk and the processors busy.
            thread::scope(|scope| {
                let named = scope.spawn(|| self.check_named());
                let objects = self.check_objects(observer);
                let named = named.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                report.add(objects?);
                report.add(named?);
                Ok::<_, FileError>(())
            })?;
        }
        observer.event(Event::Step("checking refs"));
        self.check_refs(&mut report)?;
        report.temporary_files = self.temporary_files()?;
        report.findings.sort();
        Ok(report)
    }

    /// Checks what first-level names stand for, and all that these need.
    fn check_named(&self) -> Result<FsckReport, FileError> {
        let mut report = FsckReport::default();
        self.check_streams(&mut report)?;
        self.check_images(&mut report)?;
        Ok(report)
    }

    fn check_metadata(&self, report: &mut FsckReport) {
        let path = super::FILE_NAME;
        let (kind, detail) = match read_metadata(self.dir.as_fd()) {
            Ok(None) => return,
            Ok(Some((json, _))) => {
                report.has_metadata = true;
                match Metadata::parse(&json) {
                    Ok(metadata) if metadata.algorithm == self.algorithm() => return,
                    Ok(metadata) => {
                        let detail = format!("{}, opened as {}", metadata.algorithm, self.algorithm());
                        (FindingKind::MetadataAlgorithmMismatch, detail)
                    }
                    Err(error) => (FindingKind::MetadataParseFailed, chain(&error)),
                }
            }
            Err(error) => (FindingKind::MetadataParseFailed, error.to_string()),
        };
        report.find(kind, path, Some(detail));
    }
}

/// An error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// True if the error means that there is no such file.
fn is_absent(error: &FileError) -> bool {
    Errno::from_io_error(&error.source) == Some(Errno::NOENT)
}
