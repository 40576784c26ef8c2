//! What was published before, as far as it may be built on.
//!
//! Who can write to the tree can put any summary there, also an old one that the key has signed. So the repository remembers the
//! serial that was published last, as it remembers those that it has pulled from: for the tree `file://DIR` and the key.

use std::path::Path;

use osupdate_core::observer::{Event, Observer};
use osupdate_core::published::{PublishedImage, SUMMARY_FILE, Summary};
use osupdate_core::repository::{Repository, SeenSerial};
use osupdate_deploy::timestamp;

use super::tree::Tree;
use super::{PublishError, PublishOptions, TreeError};

/// How far a serial may be ahead of the time, in seconds: a hundred years, more than any clock is wrong by.
const AHEAD_MAX_SECS: u64 = 100 * 366 * 86400;

/// What was published before.
pub(super) struct Before {
    pub(super) summary: Option<Summary>,
    /// Whether the serial of that summary counts.
    vouched: bool,
    seen: Option<SeenSerial>,
    /// What serials are remembered by; none without a key.
    remembered_by: Option<String>,
}

impl Before {
    /// Reads it, and fails if it must not be replaced by what is asked for.
    pub(super) fn read(
        tree: &Tree,
        directory: &Path,
        repository: &Repository,
        options: &PublishOptions<'_>,
    ) -> Result<Self, PublishError> {
        let mut before = Self { summary: None, vouched: false, seen: None, remembered_by: None };
        if let Some(key) = options.key {
            let directory = directory.canonicalize().map_err(tree.error("find", ""))?;
            let name = format!("file://{} {}", directory.display(), key.fingerprint());
            before.seen = repository.seen_serial(&name)?;
            before.remembered_by = Some(name);
        }
        let Some(envelope) = tree.envelope()? else { return Ok(before) };
        let path = tree.path_of(SUMMARY_FILE);
        let summary = Summary::parse(&envelope.payload).map_err(|source| TreeError::Summary { path, source })?;
        let algorithm = repository.algorithm();
        if summary.algorithm.parse().ok() != Some(algorithm) {
            let (path, found) = (tree.path_of(""), summary.algorithm);
            return Err(PublishError::Algorithm { path, found, expected: algorithm });
        }
        match options.key {
            None if !envelope.signatures.is_empty() && !options.unsigned => {
                return Err(PublishError::WasSigned(tree.path_of("")));
            }
            None => before.vouched = true,
            Some(key) => {
                before.vouched = key.has_signed(&envelope);
                // Who can write to the tree must not get a signature for what he has written, or kept.
                if !options.only && !summary.images.is_empty() {
                    before.check(tree, &summary, options)?;
                }
            }
        }
        before.summary = Some(summary);
        Ok(before)
    }

    /// Whether the images of a summary may be signed for once more.
    fn check(&self, tree: &Tree, summary: &Summary, options: &PublishOptions<'_>) -> Result<(), PublishError> {
        if !self.vouched {
            return Err(PublishError::NotOurs(tree.path_of("")));
        }
        let (path, serial) = (tree.path_of(SUMMARY_FILE), summary.serial);
        match &self.seen {
            Some(seen) if serial < seen.serial => Err(PublishError::Replayed { path, serial, seen: seen.clone() }),
            Some(_) => Ok(()),
            // Nobody here knows whether it is the last one: only its own word for how long it holds.
            None => match &summary.expires {
                Some(expires) if !options.allow_expired && is_over(expires) => {
                    Err(PublishError::Expired { path, expires: expires.clone() })
                }
                _ => Ok(()),
            },
        }
    }

    pub(super) fn images(&self) -> Vec<PublishedImage> {
        self.summary.as_ref().map(|summary| summary.images.clone()).unwrap_or_default()
    }

    /// Grows with the time, so that it also does when the summary was lost.
    pub(super) fn next_serial(&self, tree: &Tree, now: i64) -> Result<u64, PublishError> {
        let now = u64::try_from(now).unwrap_or(0);
        let summary = self.summary.as_ref().filter(|_| self.vouched);
        let published = summary.map(|summary| (summary.serial, tree.path_of(SUMMARY_FILE)));
        let seen = self.seen.as_ref().map(|seen| (seen.serial, seen.file.clone()));
        let Some((last, path)) = published.into_iter().chain(seen).max() else { return Ok(now.max(1)) };
        if last > now.saturating_add(AHEAD_MAX_SECS) {
            return Err(PublishError::Serial { path, serial: last });
        }
        Ok(now.max(last + 1))
    }

    /// Remembers what was published. A repository that cannot be written to serves all the same.
    pub(super) fn remember(&self, repository: &Repository, serial: u64, observer: &dyn Observer) {
        let Some(name) = &self.remembered_by else { return };
        if let Err(error) = repository.remember_serial(name, serial) {
            let text = format!(
                "{error}: {}; it will not be noticed if somebody puts an old summary in the place of this one",
                error.source
            );
            observer.event(Event::Warning(&text));
        }
    }
}

fn is_over(expires: &str) -> bool {
    timestamp::parse(expires).is_none_or(|time| time <= timestamp::now_secs())
}
