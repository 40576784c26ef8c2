//! Bytes of which the first are here from an earlier attempt.

use std::io::{self, Read};

use super::source::SourceError;
use crate::repository::PartialBlob;

/// Opens what comes from a byte on.
pub(crate) type OpenFrom<'a> = dyn Fn(u64) -> Result<Box<dyn Read + Send + 'a>, SourceError> + Send + Sync + 'a;

/// Reads what was kept, then the rest from its source, which is kept as it comes.
pub(crate) struct Resumed<'a, 'r> {
    open: &'a OpenFrom<'a>,
    /// What it is, for people.
    what: &'a str,
    size_bytes: u64,
    /// `None` once it cannot be read or written: then the rest is fetched and not kept.
    kept: &'a mut Option<PartialBlob<'r>>,
    /// What was there at the beginning.
    kept_bytes: u64,
    position: u64,
    rest: Option<Box<dyn Read + Send + 'a>>,
}

impl<'a, 'r> Resumed<'a, 'r> {
    pub(crate) fn new(
        open: &'a OpenFrom<'a>,
        what: &'a str,
        size_bytes: u64,
        kept: &'a mut Option<PartialBlob<'r>>,
        kept_bytes: u64,
    ) -> Self {
        Self { open, what, size_bytes, kept, kept_bytes, position: 0, rest: None }
    }

    /// Goes on without keeping anything; most likely there is no space.
    fn give_up_keeping(&mut self, error: &io::Error) {
        tracing::warn!("cannot keep what arrives of {}: {error}, ignoring", self.what);
        if let Some(kept) = self.kept.take() {
            kept.remove();
        }
    }
}

impl Read for Resumed<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(kept) = &self.kept
            && self.position < self.kept_bytes
        {
            match kept.read_at(buffer, self.position) {
                Ok(n) => {
                    self.position += n as u64;
                    return Ok(n);
                }
                Err(error) => self.give_up_keeping(&error),
            }
        }
        if self.position >= self.size_bytes && self.rest.is_none() {
            return Ok(0);
        }
        let rest = match &mut self.rest {
            Some(rest) => rest,
            None => {
                let rest = (self.open)(self.position).map_err(io::Error::other)?;
                self.rest.insert(rest)
            }
        };
        let n = rest.read(buffer)?;
        if let Some(kept) = &mut self.kept
            // More than there should be is for our reader to complain about.
            && self.position + n as u64 <= self.size_bytes
            && let Err(error) = kept.append(&buffer[..n])
        {
            self.give_up_keeping(&error);
        }
        self.position += n as u64;
        Ok(n)
    }
}
