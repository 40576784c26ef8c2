//! Why a file of a published tree is not believed.

use osupdate_core::oci::{ContentDigest, Platform};
use osupdate_core::published::{ChunkError, EnvelopeError, IndexError, SummaryError};
use osupdate_core::repository::SeenSerial;
use thiserror::Error;

use crate::output::printable;

/// Why a file of a published tree is not believed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// It is longer than such files are.
    #[error("it has more than {max_bytes} bytes")]
    TooLong {
        /// The most.
        max_bytes: u64,
    },
    /// It is not the envelope of a summary.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// It is not a summary.
    #[error(transparent)]
    Summary(#[from] SummaryError),
    /// Nobody who is trusted to has signed the summary.
    #[error("{}", unsigned(*signatures))]
    Signature {
        /// How many signatures it has.
        signatures: usize,
    },
    /// A time in the summary is none.
    #[error("{0:?} is not a time")]
    Time(String),
    /// The time of the summary is over.
    #[error("its time ended at {}", printable(.expires))]
    Expired {
        /// When.
        expires: String,
    },
    /// The summary is older than one that was seen.
    #[error("it has serial {serial}, and one with serial {} was seen before: somebody sends an old one", seen.serial)]
    Replayed {
        /// Its serial.
        serial: u64,
        /// What was seen.
        seen: SeenSerial,
    },
    /// Objects are named in a way that is not known.
    #[error("{0:?} is not an algorithm that is supported")]
    Algorithm(String),
    /// There is no such image.
    #[error("the tree has no image {image}")]
    NoImage {
        /// What was asked for.
        image: String,
        /// Tags that images of this name have.
        available: Vec<String>,
    },
    /// There is none for this platform.
    #[error("the tree has the image for {}, not for {wanted}", available.join(", "))]
    Platform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<String>,
    },
    /// The index is that of another image.
    #[error("it has another manifest than {expected}, which the summary names")]
    Manifest {
        /// What the summary says.
        expected: ContentDigest,
    },
    /// It is not the index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// It is not the chunk.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
}

fn unsigned(signatures: usize) -> &'static str {
    match signatures {
        0 => "it is not signed",
        1 => "its signature is not by the key that is trusted for this tree",
        _ => "none of its signatures is by the key that is trusted for this tree",
    }
}

impl TreeError {
    /// The next step for the user.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Expired { .. } => {
                "whoever publishes the tree must publish it again; also check the clock of this machine".to_owned()
            }
            Self::Replayed { seen, .. } => format!(
                "the server, or a proxy before it, is behind or not to be trusted: try again later. If it is the higher one that \
                 was wrong, remove {}, which remembers it",
                seen.file.display()
            ),
            Self::Signature { .. } => {
                "if the tree has a new key, name the image again with it: --summary-key FILE".to_owned()
            }
            Self::NoImage { available, .. } if available.is_empty() => {
                "check the name of the image, and the directory before it".to_owned()
            }
            Self::NoImage { available, .. } => {
                let tags: Vec<_> = available.iter().map(|tag| printable(tag)).collect();
                format!("tags that it has: {}", tags.join(", "))
            }
            Self::TooLong { .. } | Self::Manifest { .. } | Self::Index(_) | Self::Chunk(_) => {
                "the server, or a proxy before it, is faulty or not to be trusted".to_owned()
            }
            Self::Envelope(_) | Self::Summary(_) | Self::Time(_) | Self::Algorithm(_) | Self::Platform { .. } => {
                return None;
            }
        })
    }
}
