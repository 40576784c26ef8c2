//! EROFS images in the repository: objects with a name in `images/`.

use std::os::fd::{AsFd as _, OwnedFd};

use thiserror::Error;

use super::{FileError, Namespace, ObjectError, PublishError, RefError, Repository, names};
use crate::digest::Digest;

/// Why an image cannot be read or stored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There is no image of this name.
    #[error("there is no image {name} in the repository")]
    NotFound {
        /// Its digest or ref.
        name: String,
    },
    /// The name of an image is not that of its object.
    #[error("the name of image {image} stands for object {object}")]
    Name {
        /// The name.
        image: Digest,
        /// What it stands for.
        object: Digest,
    },
    /// The object of the image cannot be read or stored.
    #[error("cannot use the object of the image")]
    Object(#[from] ObjectError),
    /// The image was not named.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The ref cannot be read.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Repository {
    /// Stores an image and names it. Durable on return, provided that the objects it refers to were stored before.
    pub fn put_image(&self, image: &[u8]) -> Result<Digest, ImageError> {
        let digest = self.put_object(image)?.digest;
        self.publish(Namespace::Images, &[(&digest.to_string(), digest)])?;
        Ok(digest)
    }

    /// Finds an image by its digest in hex, by `refs/<name>`, or by the name of a ref without slashes.
    pub fn image(&self, name: &str) -> Result<Option<Digest>, ImageError> {
        let first_level = match name.strip_prefix("refs/") {
            Some(name) => self.ref_target(Namespace::Images, name)?,
            None if self.first_level(Namespace::Images, name)?.is_some() => Some(name.to_owned()),
            None if name.contains('/') => None,
            None => self.ref_target(Namespace::Images, name)?,
        };
        match first_level {
            Some(name) => Ok(self.first_level(Namespace::Images, &name)?),
            None => Ok(None),
        }
    }

    /// All images that have a name, in byte order of their digests.
    pub fn image_digests(&self) -> Result<Vec<Digest>, FileError> {
        let directory = Namespace::Images.directory();
        let listed = names(self.dir.as_fd(), directory).map_err(|error| self.file_error("read", directory, error))?;
        let text = listed.unwrap_or_default().into_iter().filter_map(|name| String::from_utf8(name).ok());
        Ok(text.filter_map(|name| name.parse().ok()).collect())
    }

    /// Opens an image by its digest; with [`super::Verity::Required`] it is measured.
    pub fn open_image(&self, digest: &Digest) -> Result<OwnedFd, ImageError> {
        self.check_image_name(digest)?;
        Ok(self.open_object(digest)?)
    }

    /// Reads a whole image into memory; its contents are checked in any case.
    pub fn read_image(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        self.check_image_name(digest)?;
        Ok(self.read_object(digest)?)
    }

    /// Tells whether an image is there, as [`Repository::has_object`] does, and has its name, without which it cannot be
    /// mounted.
    pub fn has_image(&self, digest: &Digest) -> Result<bool, ImageError> {
        match self.check_image_name(digest) {
            Ok(()) => Ok(self.has_object(digest)?),
            Err(ImageError::NotFound { .. } | ImageError::Name { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn check_image_name(&self, image: &Digest) -> Result<(), ImageError> {
        match self.first_level(Namespace::Images, &image.to_string())? {
            Some(object) if object == *image => Ok(()),
            Some(object) => Err(ImageError::Name { image: *image, object }),
            None => Err(ImageError::NotFound { name: image.to_string() }),
        }
    }
}
