//! Fetching signatures, from wherever they are.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::Url;
use thiserror::Error;

use super::signature::{SIGNATURE_MAX_BYTES, SIGNATURES_MAX};
use crate::transport::TransportError;
use crate::transport::registry::{Cause, FileServerError, RegistryError};

/// Longest time that fetching all signatures of one image from one place takes.
const DEADLINE: Duration = Duration::from_secs(120);

/// Why signatures could not be fetched. That there are none is no error.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The address of a store is not one.
    #[error("{url:?}, which {} names as the signature store (lookaside), is not an address that is supported", .directory.display())]
    Store {
        /// The address.
        url: String,
        /// The `registries.d`.
        directory: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A store cannot be reached, or breaks off.
    #[error("cannot fetch {url} from the signature store on {host}")]
    Request {
        /// The host.
        host: String,
        /// The file.
        url: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A store answers something else than a file or that there is none.
    #[error("the signature store on {host} answered {status} to {url}")]
    Status {
        /// The host.
        host: String,
        /// The file.
        url: String,
        /// The answer.
        status: reqwest::StatusCode,
    },
    /// There are more than an image can have.
    #[error("{place} has more than {SIGNATURES_MAX} signatures of one image")]
    TooMany {
        /// The place.
        place: String,
    },
    /// It takes too long.
    #[error("{place} takes more than {} seconds to deliver the signatures", DEADLINE.as_secs())]
    Slow {
        /// The place.
        place: String,
    },
    /// A registry does not deliver.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// An OCI directory does not deliver.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// What should hold the signatures does not.
    #[error("{what} is not an attachment with signatures: {problem}")]
    Attachment {
        /// The attachment.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl FetchError {
    /// What a web server did at an address, which is shown as the text.
    pub(super) fn of_server(error: FileServerError, url: &Url, shown: String) -> Self {
        let host = url.host_str().unwrap_or_default().to_owned();
        match error {
            FileServerError::Client(error) => RegistryError::from(error).into(),
            FileServerError::Proxy(error) => RegistryError::from(error).into(),
            FileServerError::Request { host, problem } => Self::Request { host, url: shown, source: problem },
            FileServerError::Status(status) => Self::Status { host, url: shown, status },
        }
    }

    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Transport(TransportError::Registry(error)) => error.hint(),
            Self::Store { .. } => Some("it begins with https://, http:// or file:///".to_owned()),
            Self::Request { .. } | Self::Status { .. } | Self::TooMany { .. } | Self::Slow { .. } => {
                Some("check the address of the signature store (lookaside) in registries.d, and its server".to_owned())
            }
            Self::Read { .. } | Self::Transport(_) | Self::Attachment { .. } => None,
        }
    }
}

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// From now.
    pub(super) fn start() -> Self {
        Self(Instant::now() + DEADLINE)
    }

    pub(super) fn check(self, place: &str) -> Result<(), FetchError> {
        if Instant::now() < self.0 { Ok(()) } else { Err(FetchError::Slow { place: place.to_owned() }) }
    }

    /// Reads one signature; `None` if it is too large. A body that trickles in ends at the deadline.
    pub(super) fn read(
        self,
        reader: impl Read,
        place: &str,
        failed: impl Fn(io::Error) -> FetchError,
    ) -> Result<Option<Vec<u8>>, FetchError> {
        let mut reader = reader.take(SIGNATURE_MAX_BYTES + 1);
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            self.check(place)?;
            match reader.read(&mut buffer) {
                Ok(0) => return Ok((bytes.len() as u64 <= SIGNATURE_MAX_BYTES).then_some(bytes)),
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}
