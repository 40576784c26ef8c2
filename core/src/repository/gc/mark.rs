//! Marking: from the roots to everything that they need.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

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
    live: HashSet<Digest>,
    opened: HashSet<Digest>,
    pending: Vec<(String, Digest)>,
}

impl<'a> Marker<'a> {
    pub(super) fn new(repository: &'a Repository) -> Self {
        Self { repository, live: HashSet::new(), opened: HashSet::new(), pending: Vec::new() }
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
                self.open(&path, digest).map_err(|source| GcError::Root { root: path, source })?;
            }
        }
        Ok(())
    }

    /// Opens what is referenced, by what it is and not by what names it: a stream whose name was given to another
    /// object, and an image that has none, still need their objects.
    fn open(&mut self, path: &str, digest: Digest) -> Result<(), MarkError> {
        let file = File::from(self.repository.open_object(&digest)?);
        let mut header = Vec::new();
        file.take(HEADER_BYTES)
            .read_to_end(&mut header)
            .map_err(|error| self.repository.object_error("read", &digest, error))?;
        if is_splitstream(&header) {
            let stream = Reader::new(self.repository.read_object(&digest)?, self.repository.algorithm())
                .map_err(|source| MarkError::Stream { digest, source })?;
            self.live.extend(stream.object_refs());
            let named_refs = stream.named_refs().iter();
            self.pending.extend(named_refs.map(|(label, digest)| (format!("{path}: {label}"), *digest)));
        } else if erofs::uses_acl(&header).is_some() {
            let image = self.repository.read_object(&digest)?;
            self.live.extend(erofs::objects(&image).map_err(|source| MarkError::Image { digest, source })?);
        }
        Ok(())
    }
}
