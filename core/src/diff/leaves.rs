//! Files that are not directories.

use super::Change;
use crate::digest::Digest;
use crate::fsverity;
use crate::tree::{Content, Entry, LeafId, LeafKind, Tree};

/// The names of the leaves of one tree that the other tree has as well.
pub(super) struct Links {
    first: Vec<Option<Vec<u8>>>,
    counts: Vec<u32>,
}

impl Links {
    pub(super) fn new(tree: &Tree, other: &Tree) -> Self {
        let mut links = Self { first: vec![None; tree.leaves.len()], counts: vec![0; tree.leaves.len()] };
        for names in tree.names().iter().enumerate() {
            links.counts[names.0] = names.1.count;
        }
        let mut path = Vec::new();
        let mut open = vec![(0, tree.root.entries.iter(), Some(&other.root))];
        while let Some((path_len, entries, counterpart)) = open.last_mut() {
            path.truncate(*path_len);
            let Some((name, entry)) = entries.next() else {
                open.pop();
                continue;
            };
            let found = counterpart.and_then(|directory| directory.entries.get(name));
            path.push(b'/');
            path.extend_from_slice(name);
            match (entry, found) {
                (Entry::Directory(child), found) => {
                    let counterpart = match found {
                        Some(Entry::Directory(directory)) => Some(directory),
                        _ => None,
                    };
                    open.push((path.len(), child.entries.iter(), counterpart));
                }
                (Entry::Leaf(id), Some(Entry::Leaf(_))) if links.counts[id.0] > 1 => {
                    links.first[id.0].get_or_insert_with(|| path.clone());
                }
                (Entry::Leaf(_), _) => {}
            }
        }
        links
    }

    /// The first name of the leaf, unless that is this path.
    pub(super) fn other(&self, id: LeafId, path: &[u8]) -> Option<&[u8]> {
        self.first[id.0].as_deref().filter(|first| *first != path)
    }

    /// How many names it has in its own tree.
    pub(super) fn count(&self, id: LeafId) -> u32 {
        self.counts[id.0]
    }
}

/// Compares what two leaves of one type hold. True if that is not possible.
pub(super) fn content_changes(left: &LeafKind, right: &LeafKind, changes: &mut Vec<Change>) -> bool {
    match (left, right) {
        (LeafKind::Regular(left), LeafKind::Regular(right)) => return regular(left, right, changes),
        (LeafKind::Symlink(left), LeafKind::Symlink(right)) if left != right => {
            changes.push(Change::Target { left: left.clone(), right: right.clone() });
        }
        (LeafKind::CharDevice(left), LeafKind::CharDevice(right))
        | (LeafKind::BlockDevice(left), LeafKind::BlockDevice(right))
            if left != right =>
        {
            changes.push(Change::Device { left: *left, right: *right });
        }
        _ => {}
    }
    false
}

fn regular(left: &Content, right: &Content, changes: &mut Vec<Change>) -> bool {
    if left.size() != right.size() {
        changes.push(Change::Size { left: left.size(), right: right.size() });
    }
    let (left_digest, right_digest) = (digest(left, right), digest(right, left));
    match (left, right) {
        (Content::Inline(left), Content::Inline(right)) if left == right => return false,
        (Content::Inline(_), Content::Inline(_)) => {}
        _ => match (left_digest, right_digest) {
            (Some(one), Some(other)) if one.algorithm() != other.algorithm() => return true,
            (Some(one), Some(other)) if one == other => {
                stored(left, right, changes);
                return false;
            }
            (None, None) => {
                stored(left, right, changes);
                return false;
            }
            // One side names no digest: sizes and paths are all there is.
            (None, _) | (_, None) if left.size() == right.size() => return true,
            _ => {}
        },
    }
    changes.push(Change::Contents { left: left_digest, right: right_digest });
    false
}

/// The digest of contents: the one they are known by, or computed with the algorithm that the other side has.
fn digest(content: &Content, other: &Content) -> Option<Digest> {
    match (content, other) {
        (Content::External { digest, .. }, _) => *digest,
        (Content::Inline(bytes), Content::External { digest, .. }) => {
            digest.map(|digest| fsverity::digest(digest.algorithm(), bytes))
        }
        (Content::Inline(bytes), Content::Inline(_)) => Some(fsverity::digest(crate::digest::Algorithm::Sha512, bytes)),
    }
}

/// Where the same contents are.
fn stored(left: &Content, right: &Content, changes: &mut Vec<Change>) {
    match (left, right) {
        (Content::External { payload: left, .. }, Content::External { payload: right, .. }) => {
            if left != right {
                changes.push(Change::Payload { left: left.clone(), right: right.clone() });
            }
        }
        (Content::Inline(_), Content::External { .. }) => changes.push(Change::Stored { left_inline: true }),
        (Content::External { .. }, Content::Inline(_)) => changes.push(Change::Stored { left_inline: false }),
        (Content::Inline(_), Content::Inline(_)) => {}
    }
}
