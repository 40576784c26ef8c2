//! Directories whose metadata the layers of an image leave open.
//!
//! A layer that puts a file into a directory, or removes one, without an entry for the directory itself says nothing of the
//! directory's time; if no lower layer has the directory either, nor of its owner and mode. In a tree that is made of the
//! layers they are defined, but in a tree that a container tool has unpacked they are what the tool made of them. So a digest
//! that was computed in a build stage is not that of the image.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::layer;
use super::store::{StoredImage, TreeError};
use crate::repository::Repository;
use crate::tar::EntryKind;

/// Directories of which every tool makes the same: `/` has the metadata of `/usr`, the others its time and no contents.
const SETTLED: [&[u8]; 3] = [b"boot", b"run", b"sysroot"];

/// A directory whose metadata is left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LooseDirectory {
    /// Path from the root, without a slash at its beginning.
    pub path: Box<[u8]>,
    /// Number of the layer that changed it last, the lowest is 0.
    pub layer: usize,
    /// What that layer has in it, the name of an entry.
    pub entry: Box<[u8]>,
    /// Whether a lower layer has the directory, so that only its time is open.
    pub is_described: bool,
}

/// Finds the directories of an image that the layer that changed them last does not describe; ordered by their paths.
///
/// # Errors
/// When a layer cannot be read.
pub fn loose_directories(repository: &Repository, image: &StoredImage) -> Result<Vec<LooseDirectory>, TreeError> {
    let mut loose = Loose::default();
    for (number, (diff_id, stream)) in image.layers.iter().enumerate() {
        let failed = |source| TreeError::Layer { diff_id: *diff_id, source: Box::new(source) };
        let stream = repository.open_stream(stream, None).map_err(|error| failed(error.into()))?;
        let mut layer = Layer::default();
        layer::for_each_entry(repository, &stream, |entry| {
            layer.add(&entry.path, entry.kind == EntryKind::Directory);
            Ok(())
        })
        .map_err(failed)?;
        loose.add(number, layer);
    }
    Ok(loose.found.into_values().collect())
}

/// What one layer says of directories.
#[derive(Default)]
struct Layer {
    described: BTreeSet<Box<[u8]>>,
    /// Directories in which it has something else than a directory, with the first name.
    changed: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Layer {
    fn add(&mut self, path: &[u8], is_directory: bool) {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
        if is_directory {
            self.described.insert(names.join(&b'/').into());
        } else if let Some((name, parents)) = names.split_last() {
            self.changed.entry(parents.join(&b'/').into()).or_insert_with(|| (*name).into());
        }
    }
}

#[derive(Default)]
struct Loose {
    /// By any layer so far.
    described: HashSet<Box<[u8]>>,
    found: BTreeMap<Box<[u8]>, LooseDirectory>,
}

impl Loose {
    fn add(&mut self, number: usize, mut layer: Layer) {
        for path in &layer.described {
            self.found.remove(path);
            // One that was there changes nothing in its parent.
            if let Some((parent, name)) = split(path)
                && !self.described.contains(path)
            {
                layer.changed.entry(parent.into()).or_insert_with(|| name.into());
            }
        }
        self.described.extend(layer.described.iter().cloned());
        for (path, entry) in layer.changed {
            let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
            if path.is_empty() || SETTLED.contains(&top) || layer.described.contains(&path) {
                continue;
            }
            self.imply(&path, number);
            let is_described = self.described.contains(&path);
            self.found.insert(path.clone(), LooseDirectory { path, layer: number, entry, is_described });
        }
    }

    /// Parents that no layer has are made, too.
    fn imply(&mut self, path: &[u8], number: usize) {
        let Some((parent, name)) = split(path) else { return };
        if self.described.contains(path) || self.described.contains(parent) || self.found.contains_key(parent) {
            return;
        }
        self.imply(parent, number);
        let loose = LooseDirectory { path: parent.into(), layer: number, entry: name.into(), is_described: false };
        self.found.insert(parent.into(), loose);
    }
}

/// The directory that something is in, below the root, and its name there.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    Some((&path[..slash], &path[slash + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths of directories end with a slash. What is found: path, layer, entry, whether described.
    fn found(layers: &[&[&str]]) -> Vec<(String, usize, String, bool)> {
        let mut loose = Loose::default();
        for (number, paths) in layers.iter().enumerate() {
            let mut layer = Layer::default();
            for path in *paths {
                layer.add(path.as_bytes(), path.ends_with('/'));
            }
            loose.add(number, layer);
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let all = loose.found.into_values();
        all.map(|found| (text(&found.path), found.layer, text(&found.entry), found.is_described)).collect()
    }

    #[test]
    fn directories_with_entries_of_their_own_are_settled() {
        assert_eq!(found(&[&["./", "./usr/", "./usr/bin/", "./usr/bin/a"], &["usr/bin/b", "usr/bin/"]]), []);
        // The root, and those that become empty.
        assert_eq!(found(&[&["usr/", "init", "boot/a", "run/b/c", "sysroot/d"]]), []);
    }

    #[test]
    fn a_directory_without_an_entry_has_no_owner() {
        let usr = ("usr".to_owned(), 0, "lib".to_owned(), false);
        let lib = ("usr/lib".to_owned(), 0, "x".to_owned(), false);
        assert_eq!(found(&[&["usr/lib/x"]]), [usr, lib.clone()]);
        assert_eq!(found(&[&["usr/", "usr/lib/x"]]), [lib]);
    }

    #[test]
    fn a_later_layer_leaves_the_time_open_and_settles_it_again() {
        let base: &[&str] = &["usr/", "usr/lib/", "usr/lib/x"];
        let lib = |entry: &str, layer| ("usr/lib".to_owned(), layer, entry.to_owned(), true);
        assert_eq!(found(&[base, &["usr/lib/y"]]), [lib("y", 1)]);
        assert_eq!(found(&[base, &["usr/lib/.wh.x"]]), [lib(".wh.x", 1)]);
        assert_eq!(found(&[base, &["usr/lib/y"], &["usr/lib/z"]]), [lib("z", 2)]);
        assert_eq!(found(&[base, &["usr/lib/y"], &["usr/lib/"]]), []);
        assert_eq!(found(&[&["usr/lib/x"], &["usr/", "usr/lib/"]]), []);
    }
}
