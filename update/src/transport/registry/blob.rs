//! Blobs, streamed; a stream that breaks is continued where it ended.
//!
//! What counts is the digest, which is verified by whoever reads the blob. So answers are put together whatever servers they
//! come from and whatever their `ETag` says: copies of one blob have different ones. But an answer whose range or size
//! is not what was asked for is not taken for the rest.

use std::fmt::{self, Display};
use std::io::{self, Read};

use osupdate_core::oci::{ContentDigest, ContentHasher};
use reqwest::StatusCode;
use reqwest::header::CONTENT_LENGTH;

use super::cause::Cause;
use super::content_range::ContentRange;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::http::{Http, Request};
use super::meter::{Meter, Purpose};
use super::response::Response;

/// A connection that brought so much before it broke was worth it, if it is as much as had to be sent again: patience begins
/// anew. So a large blob arrives over a line that breaks every minute, and a server that sends single bytes, or always all that
/// is here and a little more, is given up on.
const PROGRESS_BYTES: u64 = 64 << 10;

/// A blob in a registry, and how it is fetched.
#[derive(Debug)]
pub(super) struct Blob<'a> {
    pub(super) http: &'a Http,
    pub(super) meter: &'a Meter,
    pub(super) purpose: Purpose,
    /// Where it is below the repository, or the tree.
    pub(super) path: String,
    /// What it is, for people.
    pub(super) what: String,
    /// According to the manifest.
    pub(super) size_bytes: u64,
}

/// Reads a blob from a registry. Its digest is not verified here: the reader's user sees all bytes and does it, unless that is
/// asked for. Ends after as many bytes as the manifest states, whatever else is sent.
pub struct BlobReader<'a> {
    blob: Blob<'a>,
    what: String,
    /// The registry that sends it.
    from: String,
    response: Response,
    /// Bytes that our user has.
    position: u64,
    /// Bytes of the response that our user has already.
    skip_bytes: u64,
    /// Where the response began to be of use.
    began_at: u64,
    /// Bytes of it before that.
    skipped_bytes: u64,
    /// Connections in a row that broke before they were worth it.
    failures: u32,
    /// Hashes the blob, if it is to be verified here.
    hasher: Option<(ContentHasher, ContentDigest)>,
}

impl fmt::Debug for BlobReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader").field("what", &self.what).field("position", &self.position).finish_non_exhaustive()
    }
}

/// An answer, and how many of its bytes are known already.
struct Answer {
    from: String,
    response: Response,
    skip_bytes: u64,
}

impl Blob<'_> {
    /// Requests the blob from a byte on, from each place that may have it.
    fn get_from(&self, position: u64) -> Result<Answer, RegistryError> {
        let what = &self.what;
        let answer = self.http.try_each(what, |endpoint| self.get_from_place(endpoint, position, what))?;
        self.check_limit(&answer, what.clone())?;
        self.http.sends(&self.path, position, &answer.from);
        Ok(answer)
    }

    /// Fails if all that may be fetched would be what is here already.
    fn check_limit(&self, answer: &Answer, what: String) -> Result<(), RegistryError> {
        let Err(limit) = self.meter.check(answer.skip_bytes, self.purpose) else { return Ok(()) };
        // The next time it may be more.
        if limit.max_bytes > answer.skip_bytes {
            return Err(RegistryError::Limit { what, source: limit });
        }
        Err(RegistryError::NoParts {
            host: answer.from.clone(),
            what,
            size_bytes: self.size_bytes,
            max_bytes: limit.max_bytes,
        })
    }

    /// Where the server cannot send parts, the answer begins at the beginning.
    fn get_from_place(&self, endpoint: &Endpoint, position: u64, what: &str) -> Result<Answer, RegistryError> {
        let from = endpoint.host().to_owned();
        let get = |from_byte| endpoint.get(Request { path: &self.path, accept: None, from_byte, what });
        let check_size = |stated_bytes: Option<u64>| match stated_bytes {
            Some(stated_bytes) if stated_bytes != self.size_bytes => Err(RegistryError::BlobSize {
                host: endpoint.host().to_owned(),
                what: what.to_owned(),
                stated_bytes,
                size_bytes: self.size_bytes,
            }),
            _ => Ok(()),
        };
        if position > 0 {
            let response = get(position)?;
            let range = ContentRange::of(response.headers());
            let problem = match response.status() {
                StatusCode::PARTIAL_CONTENT => {
                    check_size(range.and_then(|range| range.size_bytes))?;
                    if range.is_some_and(|range| range.start == Some(position)) {
                        return Ok(Answer { from, response, skip_bytes: 0 });
                    }
                    "sends another part than was asked for"
                }
                StatusCode::OK => "sends no parts of blobs",
                StatusCode::RANGE_NOT_SATISFIABLE => {
                    check_size(range.and_then(|range| range.size_bytes))?;
                    "says that there is no such part"
                }
                _ => return Err(endpoint.refused(response, what)),
            };
            tracing::warn!("server {} {problem}, so {what} is fetched from its beginning again", endpoint.host());
            if response.status() == StatusCode::OK {
                check_size(content_length(&response))?;
                return Ok(Answer { from, response, skip_bytes: position });
            }
        }
        let response = get(0)?;
        if response.status() != StatusCode::OK {
            return Err(endpoint.refused(response, what));
        }
        check_size(content_length(&response))?;
        Ok(Answer { from, response, skip_bytes: position })
    }
}

impl<'a> BlobReader<'a> {
    /// Requests a blob from byte `position` on.
    pub(super) fn open(blob: Blob<'a>, position: u64) -> Result<Self, RegistryError> {
        let Answer { from, response, skip_bytes } = blob.get_from(position)?;
        let (what, began_at, skipped_bytes) = (blob.what.clone(), position, skip_bytes);
        let (failures, hasher) = (0, None);
        Ok(Self { blob, what, from, response, position, skip_bytes, began_at, skipped_bytes, failures, hasher })
    }

    /// Fails at the end of a wrong blob where there are mirrors, so that the one that is to blame is named. Only for one that is
    /// read from its beginning.
    pub(super) fn verified(mut self, digest: &ContentDigest) -> Self {
        self.hasher = self.blob.http.has_mirrors().then(|| (ContentHasher::new(digest.algorithm()), *digest));
        self
    }

    /// Asks for the rest of the blob after `problem`; once patience has ended, `error` is final.
    fn reconnect(&mut self, problem: &dyn Display, error: impl FnOnce(&Self) -> RegistryError) -> io::Result<()> {
        let (position, size, http) = (self.position, self.blob.size_bytes, self.blob.http);
        tracing::warn!("server {}: {} broke off at byte {position} of {size} ({problem})", self.from, self.what);
        if position - self.began_at >= PROGRESS_BYTES.max(self.skipped_bytes) {
            self.failures = 0;
        }
        self.failures += 1;
        while self.failures < http.retry.attempts {
            // Once may be chance.
            if self.failures > 1 {
                http.avoid(&self.from);
            }
            http.retry.wait(self.failures + 1, None);
            match self.blob.get_from(position) {
                Ok(Answer { from, response, skip_bytes }) => {
                    (self.from, self.response) = (from, response);
                    (self.skip_bytes, self.skipped_bytes, self.began_at) = (skip_bytes, skip_bytes, position);
                    return Ok(());
                }
                // It was there a moment ago: perhaps it restarts.
                Err(RegistryError::Unreachable { .. } | RegistryError::Places { .. }) => self.failures += 1,
                Err(other) => return Err(other.into()),
            }
        }
        Err(error(self).into())
    }

    /// Fails after the last byte of a blob that is not the one that was asked for.
    fn hash(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        let Some((hasher, _)) = &mut self.hasher else { return Ok(()) };
        hasher.update(bytes);
        if self.position < self.blob.size_bytes {
            return Ok(());
        }
        match self.hasher.take().map(|(hasher, expected)| (hasher.finish(), expected)) {
            Some((found, expected)) if found != expected => {
                self.blob.http.avoid(&self.from);
                Err(RegistryError::BlobDigest { host: self.from.clone(), what: self.what.clone(), found })
            }
            _ => Ok(()),
        }
    }

    fn truncated(&self) -> RegistryError {
        RegistryError::Truncated { what: self.what.clone(), got_bytes: self.position, size_bytes: self.blob.size_bytes }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = match self.skip_bytes {
                0 => self.blob.size_bytes.saturating_sub(self.position),
                skip => skip,
            };
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if wanted == 0 {
                return Ok(0);
            }
            let Blob { meter, purpose, .. } = self.blob;
            let reserved = meter.reserve(wanted, purpose).map_err(io::Error::other)?;
            let result = self.response.read(&mut buffer[..reserved]);
            meter.settle(reserved, *result.as_ref().unwrap_or(&0), purpose);
            match result {
                Ok(0) => self.reconnect(&"end of stream", Self::truncated)?,
                Ok(n) if self.skip_bytes > 0 => self.skip_bytes -= n as u64,
                Ok(n) => {
                    self.position += n as u64;
                    self.hash(&buffer[..n])?;
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let source = Cause::of(&error);
                    let problem = source.to_string();
                    self.reconnect(&problem, |this| RegistryError::Connection {
                        host: this.from.clone(),
                        what: this.what.clone(),
                        source,
                    })?;
                }
            }
        }
    }
}

fn content_length(response: &Response) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}
