//! The bytes of a layer, from its chunks and the objects of a repository.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Take};

use thiserror::Error;

use super::chunk::Part;
use crate::digest::Digest;
use crate::repository::{ObjectError, Repository};

/// Why a layer cannot be read from its chunks. Comes as the inner error of an [`io::Error`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LayerBytesError {
    /// An object cannot be opened.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A chunk lies.
    #[error("object {digest} has {actual} bytes, a chunk says {expected}")]
    Size {
        /// The object.
        digest: Digest,
        /// Bytes by the chunk.
        expected: u64,
        /// Bytes of the object.
        actual: u64,
    },
}

/// An uncompressed layer, as [`crate::oci::import_layer`] takes it: that compares it with the diff_id, whatever the chunks
/// say, and stores it as if it had been pulled.
#[derive(Debug)]
pub struct LayerBytes<'a, I> {
    repository: &'a Repository,
    chunks: I,
    parts: VecDeque<Part>,
    current: Current,
}

#[derive(Debug)]
enum Current {
    Inline(io::Cursor<Vec<u8>>),
    Object(Take<File>),
}

impl<'a, I, E> LayerBytes<'a, I>
where
    I: Iterator<Item = Result<Vec<Part>, E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    /// Reads chunks one after the other; their objects must be in the repository when their turn comes.
    pub fn new(repository: &'a Repository, chunks: I) -> Self {
        Self { repository, chunks, parts: VecDeque::new(), current: Current::Inline(io::Cursor::default()) }
    }

    fn open(&self, digest: Digest, expected: u64) -> Result<Current, LayerBytesError> {
        let file = File::from(self.repository.open_object(&digest)?);
        let actual = self.repository.object_size(&digest).map_err(ObjectError::from)?.unwrap_or(0);
        if actual != expected {
            return Err(LayerBytesError::Size { digest, expected, actual });
        }
        Ok(Current::Object(file.take(expected)))
    }
}

impl<I, E> Read for LayerBytes<'_, I>
where
    I: Iterator<Item = Result<Vec<Part>, E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let filled = match &mut self.current {
                Current::Inline(bytes) => bytes.read(buffer)?,
                Current::Object(file) => file.read(buffer)?,
            };
            if filled > 0 {
                return Ok(filled);
            }
            match self.parts.pop_front() {
                Some(Part::Inline(bytes)) => self.current = Current::Inline(io::Cursor::new(bytes)),
                Some(Part::External { digest, size }) => {
                    self.current = self.open(digest, size).map_err(io::Error::other)?;
                }
                None => match self.chunks.next() {
                    Some(parts) => self.parts = parts.map_err(io::Error::other)?.into(),
                    None => return Ok(0),
                },
            }
        }
    }
}
