//! What was published before, for how long its files stay, and the removal of what nobody reads any more.
//!
//! `.history.json` has for each index that a summary named before, until when that was. It is written before the summary is
//! replaced: a crash in between leaves an entry too many, which keeps files for longer.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use osupdate_core::oci::ContentDigest;
use osupdate_core::published::{
    CHUNK_MAX_BYTES, INDEX_MAX_BYTES, Index, Part, PublishedFile, Summary, chunk_path, decode, index_path, object_path,
};
use osupdate_core::splitstream::Reader;
use osupdate_core::{Algorithm, Digest};
use serde::{Deserialize, Serialize};

use super::tree::{HISTORY_FILE, Tree, is_temporary};
use super::{PublishError, stream_path};

/// Largest history in bytes.
const HISTORY_MAX_BYTES: u64 = 64 << 20;
/// Largest split stream in bytes.
const STREAM_MAX_BYTES: u64 = 1 << 30;
/// The directories of files that are named by their contents.
const DIRECTORIES: [&str; 4] = ["chunks", "indexes", "objects", "streams"];

/// Indexes by their digests, each with the time, in seconds since 1970, at which a summary named it last.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    replaced: BTreeMap<String, i64>,
}

/// Files that were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Their number.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl History {
    /// Reads it; empty if there is none.
    pub(super) fn read(tree: &Tree) -> Result<Self, PublishError> {
        match tree.read(HISTORY_FILE, HISTORY_MAX_BYTES)? {
            Some(json) => serde_json::from_slice(&json)
                .map_err(|source| PublishError::History { path: tree.path_of(HISTORY_FILE), source }),
            None => Ok(Self::default()),
        }
    }

    /// Notes that these were named until now.
    pub(super) fn note<'a>(&mut self, images: impl Iterator<Item = &'a PublishedFile>, now: i64) {
        self.replaced.extend(images.map(|index| (index.digest.to_string(), now)));
    }

    /// Writes it. Durable on return.
    pub(super) fn write(&self, tree: &Tree) -> Result<(), PublishError> {
        let json = serde_json::to_vec(self)
            .map_err(|source| PublishError::History { path: tree.path_of(HISTORY_FILE), source })?;
        Ok(tree.replace(HISTORY_FILE, &json)?)
    }

    /// Removes the files of a tree that its summary does not need, nor any that was replaced less than `grace` seconds ago.
    pub(super) fn prune(
        &mut self,
        tree: &Tree,
        summary: &Summary,
        algorithm: Algorithm,
        now: i64,
        grace: i64,
    ) -> Result<Pruned, PublishError> {
        self.replaced.retain(|_, until| until.saturating_add(grace) > now);
        let current = summary.images.iter().map(|image| image.index.digest);
        // A name that is none can only have been written by somebody else.
        let before = self.replaced.keys().filter_map(|name| name.parse().ok());
        let names: HashSet<ContentDigest> = current.chain(before).collect();
        let mut kept = Kept { tree, algorithm, chunks: HashSet::new(), files: HashSet::new() };
        for name in &names {
            kept.index(name)?;
        }
        // Before anything goes: what it names must be there.
        self.write(tree)?;
        kept.sweep()
    }
}

/// What stays.
struct Kept<'a> {
    tree: &'a Tree,
    algorithm: Algorithm,
    chunks: HashSet<ContentDigest>,
    files: HashSet<String>,
}

impl Kept<'_> {
    /// All that an index needs. Fails if that cannot be found out: nothing is removed then.
    fn index(&mut self, name: &ContentDigest) -> Result<(), PublishError> {
        let path = index_path(name);
        let file = self.read(&path, INDEX_MAX_BYTES as u64)?;
        let index = Index::from_file(&file, name)?;
        self.files.insert(path);
        for layer in &index.layers {
            for chunk in &layer.chunks {
                if self.chunks.insert(*chunk) {
                    self.chunk(chunk)?;
                }
            }
            let path = stream_path(&layer.diff_id);
            if let Some(stream) = self.tree.read(&path, STREAM_MAX_BYTES)? {
                let stream = Reader::new(stream, self.algorithm)
                    .map_err(|source| PublishError::Stream { path: self.tree.path_of(&path), source })?;
                stream.object_refs().iter().for_each(|object| self.object(object));
                self.files.insert(path);
            }
        }
        Ok(())
    }

    fn chunk(&mut self, name: &ContentDigest) -> Result<(), PublishError> {
        let path = chunk_path(name);
        let file = self.read(&path, 2 * CHUNK_MAX_BYTES as u64)?;
        for part in decode(&file, name, self.algorithm)? {
            if let Part::External { digest, .. } = part {
                self.object(&digest);
            }
        }
        self.files.insert(path);
        Ok(())
    }

    fn object(&mut self, digest: &Digest) {
        self.files.extend([false, true].map(|compressed| object_path(digest, compressed)));
    }

    fn read(&self, path: &str, max_bytes: u64) -> Result<Vec<u8>, PublishError> {
        let file = self.tree.read(path, max_bytes)?;
        file.ok_or_else(|| PublishError::Incomplete { path: self.tree.path_of(path) })
    }

    fn sweep(&self) -> Result<Pruned, PublishError> {
        let mut pruned = Pruned::default();
        for directory in DIRECTORIES {
            if self.tree.path_of(directory).is_dir() {
                self.sweep_directory(directory, &mut pruned)?;
            }
        }
        Ok(pruned)
    }

    fn sweep_directory(&self, directory: &str, pruned: &mut Pruned) -> Result<(), PublishError> {
        let error = self.tree.error("read", directory);
        for entry in fs::read_dir(self.tree.path_of(directory)).map_err(&error)? {
            let entry = entry.map_err(&error)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{directory}/{name}");
            let metadata = entry.metadata().map_err(&error)?;
            if metadata.is_dir() {
                // Those of two hex digits; there are no others.
                if !directory.contains('/') {
                    self.sweep_directory(&path, pruned)?;
                }
            } else if !self.files.contains(&path) && (is_temporary(&name) || is_ours(&path)) {
                fs::remove_file(entry.path()).map_err(self.tree.error("remove", &path))?;
                pruned.files += 1;
                pruned.bytes += metadata.len();
            }
        }
        Ok(())
    }
}

/// Whether a path is one that publications make: what others have put there stays.
fn is_ours(path: &str) -> bool {
    let Some((directory, name)) = path.split_once('/') else { return false };
    let is_hex = |text: &str| text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f' | b'/'));
    match directory {
        "streams" => Path::new(name).file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"oci-layer-")),
        _ => is_hex(name.strip_suffix(".zst").unwrap_or(name)),
    }
}
