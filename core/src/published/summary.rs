//! The summary: which images a tree has. What is parsed here is the payload of an [`super::Envelope`]; who signed it is for
//! the caller to check.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::VERSION;
use crate::digest::Algorithm;
use crate::oci::ContentDigest;

/// Most bytes of a summary: about 10 000 images.
pub const SUMMARY_MAX_BYTES: usize = 4 << 20;

/// Why a summary is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SummaryError {
    /// It is longer than summaries are.
    #[error("the summary has more than {SUMMARY_MAX_BYTES} bytes")]
    TooLong,
    /// It is not JSON, or not that of a summary.
    #[error("cannot read the summary")]
    Json(#[from] serde_json::Error),
    /// Made by a later version.
    #[error("the summary has version {0}, only {VERSION} is supported")]
    Version(u32),
    /// An image is called something that cannot be written in a reference.
    #[error("the summary has an image with the name {name:?} and tag {tag:?}, of which one cannot be one")]
    Name {
        /// Name of the image.
        name: String,
        /// Its tag.
        tag: String,
    },
    /// A file is named by another hash.
    #[error("the summary names index {0}, which is no SHA-256")]
    Index(ContentDigest),
    /// An image is in it twice.
    #[error("the summary names {name}:{tag} for platform {platform} twice")]
    Twice {
        /// Name of the image.
        name: String,
        /// Its tag.
        tag: String,
        /// Its platform.
        platform: String,
    },
}

/// Which images a tree has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of the format.
    pub version: u32,
    /// Grows with each publication: a client that has seen a later one refuses this.
    pub serial: u64,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it is no longer to be believed, RFC 3339. Without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Algorithm of the objects, as in `meta.json`: `fsverity-sha512-12`.
    pub algorithm: String,
    /// The images.
    pub images: Vec<PublishedImage>,
}

/// An image of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedImage {
    /// Its name.
    pub name: String,
    /// Its tag.
    pub tag: String,
    /// What it runs on: `linux/amd64`.
    pub platform: String,
    /// Digest of its manifest.
    pub manifest: ContentDigest,
    /// Its index.
    pub index: PublishedFile,
}

/// A file of the tree that is named by its contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedFile {
    /// Digest of the file as it is fetched.
    pub digest: ContentDigest,
    /// Its size in bytes.
    pub size: u64,
}

impl Summary {
    /// Reads a summary.
    ///
    /// # Errors
    /// When it is too long, of another version, or ambiguous.
    pub fn parse(json: &[u8]) -> Result<Self, SummaryError> {
        if json.len() > SUMMARY_MAX_BYTES {
            return Err(SummaryError::TooLong);
        }
        let summary: Self = serde_json::from_slice(json)?;
        if summary.version != VERSION {
            return Err(SummaryError::Version(summary.version));
        }
        for PublishedImage { name, tag, index, .. } in &summary.images {
            if !is_name(name) || !is_tag(tag) {
                return Err(SummaryError::Name { name: name.clone(), tag: tag.clone() });
            }
            if index.digest.algorithm() != Algorithm::Sha256 {
                return Err(SummaryError::Index(index.digest));
            }
        }
        let mut keys: Vec<_> = summary.images.iter().map(|image| (&image.name, &image.tag, &image.platform)).collect();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => {
                let (name, tag, platform) = pair[0];
                Err(SummaryError::Twice { name: name.clone(), tag: tag.clone(), platform: platform.clone() })
            }
            None => Ok(summary),
        }
    }
}

/// Whether a text can be the name of an image in a tree: a component of a repository's name, lower-case letters and digits
/// with separators between them.
pub fn is_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 128
        && name.starts_with(is_letter)
        && name.ends_with(is_letter)
        && name.chars().all(|c| is_letter(c) || matches!(c, '.' | '_' | '-'))
}

/// Whether a text can be a tag: letters, digits, and `. _ -` except at the beginning, where only `_` is.
pub fn is_tag(tag: &str) -> bool {
    tag.len() <= 128
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}
