//! The tree of what was found, whatever order it was found in.

use std::collections::HashMap;

use crate::digest::Digest;
use crate::tree::{Content, Directory, Entry, Leaf, LeafId, LeafKind, Stat, Tree};

/// A file that is not a directory.
#[derive(Debug)]
pub(super) struct FoundLeaf {
    pub(super) leaf: Leaf,
    /// Number of the job that has the digest of its contents.
    pub(super) large: Option<usize>,
    /// Device and inode, if it has other names.
    pub(super) linked: Option<(u64, u64)>,
}

/// What a name in a directory is.
#[derive(Debug)]
pub(super) enum Node {
    /// Number of its job.
    Directory(usize),
    Leaf(FoundLeaf),
    /// A further name of a file.
    Linked((u64, u64)),
}

#[derive(Debug, Default)]
pub(super) struct FoundDirectory {
    pub(super) stat: Stat,
    pub(super) entries: Vec<(Vec<u8>, Node)>,
}

/// Builds the tree from directories and the digests of large files, both with the numbers of their jobs. A directory has a
/// higher number than the one that it is in.
pub(super) fn assemble(mut directories: Vec<(usize, FoundDirectory)>, digests: Vec<(usize, Digest)>) -> Tree {
    let digests: HashMap<usize, Digest> = digests.into_iter().collect();
    let mut leaves = Vec::new();
    let mut linked = HashMap::new();
    let mut complete: HashMap<usize, Directory> = HashMap::new();
    directories.sort_unstable_by_key(|(number, _)| *number);
    for (number, FoundDirectory { stat, entries }) in directories.into_iter().rev() {
        let entries = entries.into_iter().filter_map(|(name, node)| {
            let entry = match node {
                Node::Directory(child) => Entry::Directory(complete.remove(&child)?),
                Node::Leaf(found) => {
                    let index = found.linked.map(|file| *linked.entry(file).or_insert_with(|| reserve(&mut leaves)));
                    let index = index.unwrap_or_else(|| reserve(&mut leaves));
                    leaves[index] = Some(with_contents(found, &digests));
                    Entry::Leaf(LeafId(index))
                }
                Node::Linked(file) => Entry::Leaf(LeafId(*linked.entry(file).or_insert_with(|| reserve(&mut leaves)))),
            };
            Some((name.into_boxed_slice(), entry))
        });
        let entries = entries.collect();
        complete.insert(number, Directory { stat, entries });
    }
    let root = complete.remove(&0).unwrap_or_default();
    in_order(root, leaves)
}

fn reserve(leaves: &mut Vec<Option<Leaf>>) -> usize {
    leaves.push(None);
    leaves.len() - 1
}

fn with_contents(found: FoundLeaf, digests: &HashMap<usize, Digest>) -> Leaf {
    let FoundLeaf { mut leaf, large, .. } = found;
    if let (Some(digest), LeafKind::Regular(content)) = (large.and_then(|number| digests.get(&number)), &mut leaf.kind)
    {
        *content = Content::object(*digest, content.size());
    }
    leaf
}

/// Numbers the leaves in depth-first order of their first names.
fn in_order(mut root: Directory, mut leaves: Vec<Option<Leaf>>) -> Tree {
    let mut ordered = Vec::with_capacity(leaves.len());
    let mut new_ids = vec![None; leaves.len()];
    let mut open = vec![root.entries.values_mut()];
    while let Some(entries) = open.last_mut() {
        match entries.next() {
            Some(Entry::Directory(child)) => open.push(child.entries.values_mut()),
            Some(Entry::Leaf(id)) => {
                let new_id = *new_ids[id.0].get_or_insert(ordered.len());
                ordered.extend(leaves[id.0].take());
                id.0 = new_id;
            }
            None => {
                open.pop();
            }
        }
    }
    Tree { root, leaves: ordered }
}
