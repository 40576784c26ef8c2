//! Images that were made elsewhere, taken into the repository.

use thiserror::Error;

use super::{ImageError, ObjectError, Repository};
use crate::digest::Digest;
use crate::erofs::{self, ReadError};

/// Most missing objects that an error names.
const NAMED_MAX: usize = 3;

/// Why an image was not imported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It is not an image.
    #[error("what was given is not a composefs image")]
    Format(#[from] ReadError),
    /// Its files would have no contents.
    #[error("the repository does not have {count} of the image's objects, such as {}", join(.missing))]
    Missing {
        /// How many.
        count: usize,
        /// Some of them.
        missing: Vec<Digest>,
    },
    /// An object cannot be looked for.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The image was not stored.
    #[error(transparent)]
    Image(#[from] ImageError),
}

fn join(digests: &[Digest]) -> String {
    digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Repository {
    /// Checks an image that was made elsewhere, and stores it; the objects of its files must be here. Durable on return.
    ///
    /// # Errors
    /// When it is not a good image, or objects of it are missing; nothing has changed then.
    pub fn import_image(&self, image: &[u8]) -> Result<Digest, ImportError> {
        let mut count = 0;
        let mut missing = Vec::new();
        for digest in erofs::objects(image)? {
            if !self.has_object(&digest)? {
                count += 1;
                if missing.len() < NAMED_MAX {
                    missing.push(digest);
                }
            }
        }
        if count > 0 {
            return Err(ImportError::Missing { count, missing });
        }
        Ok(self.put_image(image)?)
    }
}
