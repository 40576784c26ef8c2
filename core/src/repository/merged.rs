//! The merged stream: what a split stream stands for, with the objects in their places.

use std::fs::File;
use std::io::{self, Read, Write};

use thiserror::Error;

use super::{ObjectError, Repository, Verity};
use crate::digest::Digest;
use crate::fsverity::Hasher;
use crate::splitstream::{Chunk, ReadError, Reader};

/// Bytes copied at once.
const COPY_BYTES: usize = 128 << 10;

/// Why a merged stream was not written to its end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MergeError {
    /// The stream is malformed.
    #[error("the split stream is damaged")]
    Chunks(#[from] ReadError),
    /// A part of it is not there, or damaged.
    #[error("a part of the stream cannot be used")]
    Object(#[from] ObjectError),
    /// A part of it cannot be read.
    #[error("cannot read object {digest}")]
    Read {
        /// The object.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// The reader refuses it.
    #[error("cannot pass the stream on")]
    Write(#[source] io::Error),
}

impl Repository {
    /// Writes the merged stream to `out`; returns its size in bytes.
    ///
    /// Every object is what its name says: by the kernel's word or, without fs-verity, because it is hashed on its way, so
    /// that then a damaged object is noticed only after it was written.
    ///
    /// # Errors
    /// When something is missing or damaged, or `out` fails.
    pub fn write_merged(&self, stream: &Reader, out: &mut dyn Write) -> Result<u64, MergeError> {
        let mut buffer = vec![0; COPY_BYTES];
        let mut size = 0;
        for chunk in stream.chunks() {
            match chunk? {
                Chunk::Inline(bytes) => {
                    out.write_all(&bytes).map_err(MergeError::Write)?;
                    size += bytes.len() as u64;
                }
                Chunk::External(digest) => size += self.write_object(&digest, &mut buffer, out)?,
            }
        }
        Ok(size)
    }

    fn write_object(&self, digest: &Digest, buffer: &mut [u8], out: &mut dyn Write) -> Result<u64, MergeError> {
        let mut file = File::from(self.open_object(digest)?);
        let mut unsealed = match self.verity() {
            Verity::Required => None,
            Verity::Unverified => Some(Hasher::new(self.algorithm())),
        };
        let mut size = 0;
        loop {
            let n = match file.read(buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(MergeError::Read { digest: *digest, source }),
            };
            if let Some(unsealed) = &mut unsealed {
                unsealed.update(&buffer[..n]);
            }
            out.write_all(&buffer[..n]).map_err(MergeError::Write)?;
            size += n as u64;
        }
        match unsealed.map(Hasher::finish) {
            Some(found) if found != *digest => Err(ObjectError::Mismatch { digest: *digest, found }.into()),
            _ => Ok(size),
        }
    }
}
