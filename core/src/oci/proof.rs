//! What this program itself has verified of the streams in a repository, and verifying the others.
//!
//! Streams are found by names that *claim* what is in them, and other programs do not check the claim: cfsctl 0.9 imports
//! any layer under the diff_id that the image's configuration states. A layer that somebody else may have stored is
//! therefore read once in full before it is used for another image: its merged stream must have the digest.
//!
//! The proof is remembered in an extended attribute of the stream's file:
//!
//! ```text
//! user.osupdate.verified = <diff_id>        on a layer: the merged stream has this digest, contents are what their names say
//! user.osupdate.verified = <config digest>  on a configuration: the images it names were made here, from such layers
//! ```
//!
//! *Rationale.* The attribute belongs to the file and not to a name, so that re-pointing a name cannot carry it over; no
//! importer of other programs sets it, whatever an image makes them store; it works on sealed files; and where it is lost,
//! on a copy or a file system without attributes, the layer is just read again. It is no protection against those who can
//! write to the repository's files: they can re-point names anyway.

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use thiserror::Error;

use super::digest::{ContentDigest, ContentHasher};
use crate::digest::Digest;
use crate::repository::{MergeError, Repository, StreamError};
use crate::splitstream::Reader;

/// Name of the extended attribute.
const ATTRIBUTE: &str = "user.osupdate.verified";
/// Longest value that is read: more than any digest.
const VALUE_MAX: usize = 256;

/// Why a stream is not what its name says.
#[derive(Debug, Error)]
pub(crate) enum ProofError {
    /// The stream cannot be opened.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It, or a part of it, cannot be read or is damaged.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The contents are others.
    #[error("its contents have the digest {actual}")]
    Contents {
        /// What they have.
        actual: ContentDigest,
    },
}

/// Whether this program has verified what the stream in an object claims to be.
pub(crate) fn is_remembered(repository: &Repository, stream: &Digest, claim: &ContentDigest) -> bool {
    let Ok(file) = repository.open_object(stream) else { return false };
    let mut value = [0; VALUE_MAX];
    match fgetxattr(file, ATTRIBUTE, &mut value[..]) {
        Ok(len) => value.get(..len) == Some(claim.to_string().as_bytes()),
        Err(_) => false,
    }
}

/// Remembers that this program has verified a stream; where that cannot be, it will be verified again.
pub(crate) fn remember(repository: &Repository, stream: &Digest, claim: &ContentDigest) {
    let Ok(file) = repository.open_object(stream) else { return };
    if let Err(errno) = fsetxattr(file, ATTRIBUTE, claim.to_string().as_bytes(), XattrFlags::empty()) {
        tracing::debug!("cannot remember that {claim} is verified, ignoring: {errno}");
    }
}

/// Reads a stream with all its parts and compares the digest of the whole.
pub(crate) fn prove(repository: &Repository, stream: &Reader, claim: &ContentDigest) -> Result<(), ProofError> {
    let mut hasher = ContentHasher::new(claim.algorithm());
    repository.write_merged(stream, &mut hasher)?;
    let actual = hasher.finish();
    if actual == *claim { Ok(()) } else { Err(ProofError::Contents { actual }) }
}
