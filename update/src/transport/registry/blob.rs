//! Blobs, streamed; a stream that breaks is continued where it ended.

use std::fmt::Display;
use std::io::{self, Read};

use osupdate_core::oci::ContentDigest;
use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;

use super::cause::Cause;
use super::error::RegistryError;
use super::http::{Http, Request};
use super::response::Response;

/// Reads a blob from a registry. Its digest is not verified here: the reader's user sees all bytes and does it.
#[derive(Debug)]
pub struct BlobReader<'a> {
    http: &'a Http,
    path: String,
    what: String,
    size_bytes: u64,
    response: Response,
    /// Bytes given to our user.
    position: u64,
    /// Bytes of the response that our user has already.
    skip_bytes: u64,
    attempts: u32,
}

impl<'a> BlobReader<'a> {
    pub(super) fn open(
        http: &'a Http,
        image: &str,
        digest: &ContentDigest,
        size_bytes: u64,
    ) -> Result<Self, RegistryError> {
        let path = format!("blobs/{digest}");
        let what = format!("blob {digest} of {image}");
        let (response, skip_bytes) = get_from(http, &path, &what, 0)?;
        Ok(Self { http, path, what, size_bytes, response, position: 0, skip_bytes, attempts: 1 })
    }

    /// Asks for the rest of the blob after `problem`; once there is no attempt left, `error` is final.
    fn reconnect(&mut self, problem: &dyn Display, error: impl FnOnce(&Self) -> RegistryError) -> io::Result<()> {
        let (position, size) = (self.position, self.size_bytes);
        let host = self.http.host();
        tracing::warn!("registry {host}: {} broke off at byte {position} of {size} ({problem})", self.what);
        while self.attempts < self.http.retry.attempts {
            self.attempts += 1;
            self.http.retry.wait(self.attempts, None);
            match get_from(self.http, &self.path, &self.what, position) {
                Ok((response, skip_bytes)) => {
                    (self.response, self.skip_bytes) = (response, skip_bytes);
                    return Ok(());
                }
                // It was there a moment ago: perhaps it restarts.
                Err(RegistryError::Unreachable { .. } | RegistryError::Places { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(error(self).into())
    }

    fn truncated(&self) -> RegistryError {
        RegistryError::Truncated { what: self.what.clone(), got_bytes: self.position, size_bytes: self.size_bytes }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.response.read(buffer) {
                Ok(0) if self.position >= self.size_bytes => return Ok(0),
                Ok(0) => self.reconnect(&"end of stream", Self::truncated)?,
                Ok(n) => {
                    let skipped = n.min(usize::try_from(self.skip_bytes).unwrap_or(usize::MAX));
                    self.skip_bytes -= skipped as u64;
                    if skipped < n {
                        buffer.copy_within(skipped..n, 0);
                        self.position += (n - skipped) as u64;
                        return Ok(n - skipped);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let source = Cause::of(&error);
                    let problem = source.to_string();
                    self.reconnect(&problem, |this| RegistryError::Connection {
                        host: this.http.host().to_owned(),
                        what: this.what.clone(),
                        source,
                    })?;
                }
            }
        }
    }
}

/// Requests a blob from byte `position` on; also tells how many bytes to pass over, because the server does not know
/// ranges and begins again.
fn get_from(http: &Http, path: &str, what: &str, position: u64) -> Result<(Response, u64), RegistryError> {
    let response = http.get(Request { path, accept: None, from_byte: position, what })?;
    match response.status() {
        StatusCode::OK => Ok((response, position)),
        StatusCode::PARTIAL_CONTENT if position > 0 && starts_at(&response, position) => Ok((response, 0)),
        _ => Err(http.refused(response, what)),
    }
}

/// Whether `Content-Range: bytes START-END/SIZE` begins at `position`.
fn starts_at(response: &Response, position: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")).and_then(|range| range.split_once('-'));
    start.is_some_and(|(start, _)| start.trim().parse() == Ok(position))
}
