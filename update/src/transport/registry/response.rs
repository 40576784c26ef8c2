//! Answers of servers, read with patience that ends.
//!
//! Every wait for the next bytes ends by the client's time-out. Beyond that, a server that sends a byte now and then is not
//! waited for without end: a document must be complete after a while, and of a blob a little must come at least.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url, blocking};

/// Fewest bytes a second, over one time-out, that are worth waiting for.
const RATE_MIN: u64 = 1 << 10;

/// How long answers are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Longest wait for the next bytes.
    pub(super) idle: Duration,
    /// Longest wait for all of a document.
    pub(super) document: Duration,
}

/// An answer of which the head has come.
#[derive(Debug)]
pub(super) struct Response {
    inner: blocking::Response,
    patience: Patience,
    /// Time spent waiting, and bytes that came of it, since the last look at the clock.
    waited: Duration,
    received_bytes: u64,
}

impl Response {
    pub(super) fn new(inner: blocking::Response, patience: Patience) -> Self {
        Self { inner, patience, waited: Duration::ZERO, received_bytes: 0 }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// The address that it came from.
    pub(super) fn url(&self) -> &Url {
        self.inner.url()
    }

    /// Reads all of it; `None` if that is more than `max_bytes`.
    pub(super) fn into_document(mut self, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + self.patience.document;
        let (mut bytes, mut piece) = (Vec::new(), [0; 16 << 10]);
        loop {
            match self.inner.read(&mut piece) {
                Ok(0) => return Ok(Some(bytes)),
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if bytes.len() as u64 > max_bytes {
                return Ok(None);
            }
            if Instant::now() > deadline {
                let (n, seconds) = (bytes.len(), self.patience.document.as_secs());
                let text = format!("only {n} bytes came within {seconds} seconds, and no end of them");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
    }
}

impl Read for Response {
    /// Reads some bytes of a blob. Only the time that passes here counts, not what our user does in between.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = Instant::now();
        let n = self.inner.read(buffer)?;
        self.waited += start.elapsed();
        self.received_bytes += n as u64;
        if n > 0 && self.waited >= self.patience.idle {
            let (seconds, received) = (self.waited.as_secs(), self.received_bytes);
            if received < RATE_MIN * seconds {
                let text = format!("only {received} bytes came within {seconds} seconds");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            (self.waited, self.received_bytes) = (Duration::ZERO, 0);
        }
        Ok(n)
    }
}
