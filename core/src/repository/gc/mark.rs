//! Marking: from the roots to everything that they need.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

use foldhash::fast::RandomState;
use thiserror::Error;

use super::GcError;
use crate::digest::Digest;
use crate::erofs;
use crate::repository::{FileError, ObjectError, Repository};
use crate::splitstream::{self, Reader, is_splitstream};

/// Bytes that tell what an object is.
const HEADER_BYTES: u64 = 32;

/// Why it cannot be told what an object needs.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MarkError {
    /// It cannot be read.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// It cannot be parsed.
    #[error("cannot parse stream {digest}")]
    Stream {
        /// The object.
        digest: Digest,
        /// What is wrong with it.
        source: splitstream::ReadError,
    },
    /// It cannot be parsed.
    #[error("cannot parse image {digest}")]
    Image {
        /// The object.
        digest: Digest,
        /// What is wrong with it.
        source: erofs::ReadError,
    },
}

impl From<FileError> for MarkError {
    fn from(error: FileError) -> Self {
        Self::Object(error.into())
    }
}

/// The live set, and what is yet to be opened.
pub(super) struct Marker<'a> {
    repository: &'a Repository,
    live: HashSet<Digest, RandomState>,
    opened: HashSet<Digest, RandomState>,
    pending: Vec<(String, Digest)>,
}

impl<'a> Marker<'a> {
    pub(super) fn new(repository: &'a Repository) -> Self {
        Self { repository, live: HashSet::default(), opened: HashSet::default(), pending: Vec::new() }
    }

    pub(super) fn is_live(&self, digest: &Digest) -> bool {
        self.live.contains(digest)
    }

    /// Marks an object and everything it leads to. `path` is for errors.
    pub(super) fn add_root(&mut self, path: &str, digest: Digest) -> Result<(), GcError> {
        self.pending.push((path.to_owned(), digest));
        while let Some((path, digest)) = self.pending.pop() {
            self.live.insert(digest);
            if self.opened.insert(digest) {
                let found = self
                    .repository
                    .references(digest)
                    .map_err(|source| GcError::Root { root: path.clone(), source })?;
                self.live.extend(found.objects);
                let named = found.named.into_iter();
                self.pending.extend(named.map(|(label, digest)| (format!("{path}: {label}"), digest)));
            }
        }
        Ok(())
    }
}

/// What an object leads to.
#[derive(Debug, Default)]
pub(in crate::repository) struct References {
    /// Objects that are not opened: the contents of files and documents.
    pub(in crate::repository) objects: Vec<Digest>,
    /// Objects under the labels of a stream, which may lead further.
    pub(in crate::repository) named: Vec<(String, Digest)>,
}

impl Repository {
    /// Opens what is referenced, by what it is and not by what names it: a stream whose name was given to another
    /// object, and an image that has none, still need their objects.
    pub(in crate::repository) fn references(&self, digest: Digest) -> Result<References, MarkError> {
        let file = File::from(self.open_object(&digest)?);
        let mut header = Vec::new();
        file.take(HEADER_BYTES).read_to_end(&mut header).map_err(|error| self.object_error("read", &digest, error))?;
        let mut references = References::default();
        if is_splitstream(&header) {
            let stream = Reader::new(self.read_object(&digest)?, self.algorithm())
                .map_err(|source| MarkError::Stream { digest, source })?;
            references.objects = stream.object_refs().to_vec();
            references.named = stream.named_refs().iter().map(|(label, digest)| (label.clone(), *digest)).collect();
        } else if erofs::uses_acl(&header).is_some() {
            let image = self.read_object(&digest)?;
            references.objects = erofs::find_objects(&image).map_err(|source| MarkError::Image { digest, source })?;
        }
        Ok(references)
    }
}
