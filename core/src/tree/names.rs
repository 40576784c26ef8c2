//! Which names a leaf has, and which of them is the primary one.

use super::{Directory, Entry, Leaf, LeafId, Tree};

/// One directory entry of a tree, identified by where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'t> {
    pub(crate) directory: &'t Directory,
    pub(crate) name: &'t [u8],
}

impl PartialEq for Place<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.directory, other.directory) && self.name == other.name
    }
}

/// The names of one leaf.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Names<'t> {
    /// How many names it has.
    pub(crate) count: u32,
    /// The first one in depth-first order, directories ordered by the bytes of names.
    pub(crate) first: Option<Place<'t>>,
}

impl<'t> Names<'t> {
    /// The name under which the inode appears; all others only refer to it. A primary path that is not (or no longer) a
    /// name of the leaf is as good as none.
    pub(crate) fn primary(&self, tree: &'t Tree, id: LeafId, leaf: &Leaf) -> Option<Place<'t>> {
        leaf.primary_path
            .as_deref()
            .filter(|_| self.count > 1)
            .and_then(|path| tree.place(path))
            .filter(|place| place.directory.entries.get(place.name) == Some(&Entry::Leaf(id)))
            .or(self.first)
    }
}

impl Tree {
    /// The names of every leaf, by leaf number.
    pub(crate) fn names(&self) -> Vec<Names<'_>> {
        let mut names = vec![Names::default(); self.leaves.len()];
        let mut open = vec![(&self.root, self.root.entries.iter())];
        while let Some((directory, entries)) = open.last_mut() {
            let directory: &Directory = directory;
            match entries.next() {
                Some((_, Entry::Directory(child))) => open.push((child, child.entries.iter())),
                Some((name, Entry::Leaf(id))) => {
                    let of_leaf = &mut names[id.0];
                    of_leaf.count += 1;
                    of_leaf.first.get_or_insert(Place { directory, name });
                }
                None => {
                    open.pop();
                }
            }
        }
        names
    }

    /// Removes stated link counts and primary names that are what they would be anyway, so that equal trees are equal.
    pub(crate) fn forget_obvious_links(&mut self) {
        let names = self.names();
        let obvious: Vec<(bool, bool)> = std::iter::zip(&self.leaves, &names)
            .enumerate()
            .map(|(index, (leaf, names))| {
                let first_is_primary = names.primary(self, LeafId(index), leaf) == names.first;
                (leaf.stated_nlink == Some(names.count), first_is_primary)
            })
            .collect();
        for (leaf, (count_is_stated, first_is_primary)) in self.leaves.iter_mut().zip(obvious) {
            leaf.stated_nlink.take_if(|_| count_is_stated);
            leaf.primary_path.take_if(|_| first_is_primary);
        }
    }

    /// Where an absolute path ends; the root itself has no place.
    pub(crate) fn place(&self, path: &[u8]) -> Option<Place<'_>> {
        let mut directory = &self.root;
        let mut components = path.strip_prefix(b"/")?.split(|&byte| byte == b'/').peekable();
        while let Some(component) = components.next() {
            let (name, entry) = directory.entries.get_key_value(component)?;
            if components.peek().is_none() {
                return Some(Place { directory, name });
            }
            match entry {
                Entry::Directory(child) => directory = child,
                Entry::Leaf(_) => return None,
            }
        }
        None
    }
}
