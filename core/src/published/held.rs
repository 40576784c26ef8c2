//! Chunks in memory, until the layers are made of them.

use std::collections::{HashMap, HashSet};
use std::io;

use super::chunk::{Part, encode};
use super::chunker::chunks;
use super::fetch::FetchTreeError;
use crate::oci::{ContentDigest, open_layer};
use crate::repository::Repository;

/// Most bytes of compressed chunks: enough for layers of a million entries, of which each has a digest that nothing compresses.
const HELD_MAX_BYTES: usize = 512 << 20;
/// Chunks that come from this repository are compressed only to be small for a moment.
const LEVEL: i32 = 1;
/// Begins the names of layers.
const LAYER_PREFIX: &str = "oci-layer-";

/// Compressed chunks by their names.
#[derive(Debug, Default)]
pub(super) struct Held {
    chunks: HashMap<ContentDigest, Box<[u8]>>,
    bytes: usize,
}

impl Held {
    /// The file of a chunk.
    pub(super) fn get(&self, name: &ContentDigest) -> Option<&[u8]> {
        self.chunks.get(name).map(AsRef::as_ref)
    }

    /// Adds one.
    pub(super) fn add(&mut self, name: ContentDigest, file: Vec<u8>) -> Result<(), FetchTreeError> {
        self.bytes += file.len();
        if self.bytes > HELD_MAX_BYTES {
            return Err(FetchTreeError::TooMuch { max_bytes: HELD_MAX_BYTES });
        }
        self.chunks.insert(name, file.into());
        Ok(())
    }

    /// Adds those of the wanted chunks that layers of the repository consist of, `first` before others. A layer that cannot be
    /// read gives what could be read of it.
    pub(super) fn add_stored(
        &mut self,
        repository: &Repository,
        wanted: &HashSet<ContentDigest>,
        first: &[ContentDigest],
    ) -> Result<(), FetchTreeError> {
        let names = repository.stream_names()?;
        let others = names.iter().filter_map(|name| name.strip_prefix(LAYER_PREFIX)?.parse::<ContentDigest>().ok());
        let mut seen = HashSet::new();
        for diff_id in first.iter().copied().chain(others) {
            if self.chunks.len() == wanted.len() {
                break;
            }
            if !seen.insert(diff_id) {
                continue;
            }
            let Ok(layer) = open_layer(repository, &diff_id) else { continue };
            for parts in chunks(repository, &layer.stream) {
                match parts {
                    Ok(parts) => self.add_parts(&parts, wanted)?,
                    Err(error) => tracing::debug!("cannot read all of layer {diff_id}: {error}, ignoring"),
                }
            }
        }
        Ok(())
    }

    fn add_parts(&mut self, parts: &[Part], wanted: &HashSet<ContentDigest>) -> Result<(), FetchTreeError> {
        let bytes = encode(parts);
        let name = ContentDigest::sha256(&bytes);
        if !wanted.contains(&name) || self.chunks.contains_key(&name) {
            return Ok(());
        }
        let file = zstd::encode_all(&bytes[..], LEVEL).map_err(|error: io::Error| FetchTreeError::Hold(error))?;
        self.add(name, file)
    }
}
