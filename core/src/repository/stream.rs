//! Split streams in the repository and their names.

use std::os::fd::AsFd;

use thiserror::Error;

use super::link::is_first_level_name;
use super::{FileError, Namespace, ObjectError, PublishError, RefError, Repository, names};
use crate::digest::Digest;
use crate::splitstream::{ContentType, ReadError, Reader};

/// Why a stream cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Its object cannot be read.
    #[error("cannot read stream {digest}")]
    Object {
        /// The stream.
        digest: Digest,
        /// What is wrong.
        source: ObjectError,
    },
    /// Its object is not a split stream, or not one of the type that was asked for.
    #[error("cannot parse stream {digest}")]
    Parse {
        /// The stream.
        digest: Digest,
        /// What is wrong.
        source: ReadError,
    },
}

impl Repository {
    /// The object that a stream name stands for; `None` if there is no such name.
    pub fn stream(&self, name: &str) -> Result<Option<Digest>, FileError> {
        self.first_level(Namespace::Streams, name)
    }

    /// Finds a stream by its name, or by `refs/<name>`.
    pub fn find_stream(&self, name: &str) -> Result<Option<Digest>, RefError> {
        let first_level = match name.strip_prefix("refs/") {
            Some(name) => self.ref_target(Namespace::Streams, name)?,
            None => Some(name.to_owned()),
        };
        match first_level {
            Some(name) => Ok(self.stream(&name)?),
            None => Ok(None),
        }
    }

    /// All stream names, in byte order.
    pub fn stream_names(&self) -> Result<Vec<String>, FileError> {
        let directory = Namespace::Streams.directory();
        let listed = names(self.dir.as_fd(), directory).map_err(|error| self.file_error("read", directory, error))?;
        let text = listed.unwrap_or_default().into_iter().filter_map(|name| String::from_utf8(name).ok());
        Ok(text.filter(|name| is_first_level_name(name)).collect())
    }

    /// Opens the split stream in an object, of this type if one is given.
    pub fn open_stream(&self, digest: &Digest, expected: Option<ContentType>) -> Result<Reader, StreamError> {
        let data = self.read_object(digest).map_err(|source| StreamError::Object { digest: *digest, source })?;
        let parsed = Reader::new(data, self.algorithm());
        match expected {
            Some(expected) => parsed.and_then(|reader| reader.expect(expected)),
            None => parsed,
        }
        .map_err(|source| StreamError::Parse { digest: *digest, source })
    }

    /// Names streams, and re-points names that stand for other objects. Durable on return.
    ///
    /// Everything written before is on disk before the first name is made: a name that is seen after a crash stands for
    /// a complete stream, provided that all objects of the stream were stored before this call.
    pub fn publish_streams(&self, streams: &[(String, Digest)]) -> Result<(), PublishError> {
        let names: Vec<_> = streams.iter().map(|(name, digest)| (name.as_str(), *digest)).collect();
        self.publish(Namespace::Streams, &names)
    }
}
