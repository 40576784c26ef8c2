//! Labels every file of a tree.

use super::{FileType, LABEL_XATTR, Policy, PolicyError};
use crate::tree::{Directory, Entry, Leaf, LeafId, Stat, Tree};

/// A label as it is in the table of those already given; `None` for files without one.
type Label = Option<Box<[u8]>>;

impl Policy {
    /// Gives every file of a tree the label that the policy has for it, and removes that of files for which it has none.
    ///
    /// Of hard links to which the policy gives different labels, the first in depth-first order keeps the inode; each other
    /// with another label becomes a file of its own, with the same contents.
    ///
    /// # Errors
    /// When the patterns need too much memory or time; the tree is then partly labelled.
    pub fn label(&mut self, tree: &mut Tree) -> Result<(), PolicyError> {
        let Tree { root, leaves } = tree;
        let given = vec![None; leaves.len()];
        Labelling { policy: self, leaves, given }.directory(root, b"/")
    }
}

struct Labelling<'a> {
    policy: &'a mut Policy,
    leaves: &'a mut Vec<Leaf>,
    /// The label that a leaf got by its first name; leaves made here have none.
    given: Vec<Option<Label>>,
}

impl Labelling<'_> {
    fn directory(&mut self, directory: &mut Directory, path: &[u8]) -> Result<(), PolicyError> {
        let label = self.lookup(path, FileType::Directory)?;
        set_label(&mut directory.stat, label);
        let mut child_path = path.to_vec();
        if !child_path.ends_with(b"/") {
            child_path.push(b'/');
        }
        let parent_len = child_path.len();
        for (name, entry) in &mut directory.entries {
            child_path.truncate(parent_len);
            child_path.extend_from_slice(name);
            let effective = self.policy.resolve(&child_path).to_vec();
            match entry {
                Entry::Directory(child) => self.directory(child, &effective)?,
                Entry::Leaf(id) => *id = self.leaf(*id, &effective)?,
            }
        }
        Ok(())
    }

    /// Labels a leaf under one of its names; returns the leaf that this name is to have.
    fn leaf(&mut self, id: LeafId, path: &[u8]) -> Result<LeafId, PolicyError> {
        let label = self.lookup(path, FileType::from(&self.leaves[id.0].kind))?;
        match &mut self.given[id.0] {
            Some(given) if *given == label => Ok(id),
            Some(_) => {
                let leaf = &mut self.leaves[id.0];
                // Links are no longer what the source stated.
                (leaf.stated_nlink, leaf.primary_path) = (None, None);
                let mut own = leaf.clone();
                set_label(&mut own.stat, label);
                self.leaves.push(own);
                Ok(LeafId(self.leaves.len() - 1))
            }
            given => {
                *given = Some(label.clone());
                set_label(&mut self.leaves[id.0].stat, label);
                Ok(id)
            }
        }
    }

    fn lookup(&mut self, path: &[u8], file_type: FileType) -> Result<Label, PolicyError> {
        Ok(self.policy.lookup(path, file_type)?.map(Box::from))
    }
}

fn set_label(stat: &mut Stat, label: Label) {
    match label {
        Some(label) => stat.xattrs.insert(LABEL_XATTR.into(), label),
        None => stat.xattrs.remove(LABEL_XATTR),
    };
}
