//! What is done to the tree of an image before its digest is computed.
//!
//! Container images are built in running containers, whose root directory and `/run` carry accidents of the build. These
//! rules remove them, so that the same image always has the same digest. Every composefs tool applies the same rules;
//! changing one changes every digest.

use thiserror::Error;

use crate::tree::{Directory, Entry, LeafId, Stat, Tree};

/// Which extended attributes stay in an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrFilter {
    /// `security.capability` only.
    #[default]
    AllowlistOnly,
    /// `security.capability` and `user.*`.
    KeepUserXattrs,
}

impl XattrFilter {
    /// The name of the choice, as in labels and commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllowlistOnly => "allowlist-only",
            Self::KeepUserXattrs => "keep-user-xattrs",
        }
    }

    pub(crate) fn keeps(self, name: &[u8]) -> bool {
        name == b"security.capability" || self == Self::KeepUserXattrs && name.starts_with(b"user.")
    }
}

/// Why a tree is not that of an operating system.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransformError {
    /// A directory that every image needs is not there.
    #[error("the image has no directory /{0}, which an OS image needs")]
    NoDirectory(&'static str),
}

/// Makes the tree of an OCI image, or of a directory, into the tree that is stored.
///
/// The root takes its metadata from `/usr`; `/run` becomes empty, with the time of `/usr` (a symlink is left alone);
/// extended attributes are filtered; leaves without a name are dropped.
///
/// # Errors
/// When there is no `/usr`.
pub fn transform_for_oci(tree: &mut Tree, xattrs: XattrFilter) -> Result<(), TransformError> {
    let usr = usr_stat(tree)?;
    if let Some(Entry::Directory(run)) = tree.root.entries.get_mut(&b"run"[..]) {
        run.entries.clear();
        run.stat.mtime_secs = usr.mtime_secs;
        run.stat.mtime_nanos = usr.mtime_nanos;
    }
    tree.root.stat = usr;
    retain_xattrs(tree, |name| xattrs.keeps(name));
    compact(tree);
    Ok(())
}

/// Leaves out fractions of seconds in all times, as container tools do when they make layers of a directory. So the tree of a
/// directory becomes that of the image that is made of it.
pub fn truncate_times(tree: &mut Tree) {
    fn visit(directory: &mut Directory) {
        directory.stat.mtime_nanos = 0;
        for entry in directory.entries.values_mut() {
            if let Entry::Directory(child) = entry {
                visit(child);
            }
        }
    }
    visit(&mut tree.root);
    for leaf in &mut tree.leaves {
        leaf.stat.mtime_nanos = 0;
    }
}

/// The metadata of `/usr`.
pub(crate) fn usr_stat(tree: &Tree) -> Result<Stat, TransformError> {
    tree.directory("usr").map(|usr| usr.stat.clone()).ok_or(TransformError::NoDirectory("usr"))
}

/// Removes the extended attributes that `keep` refuses from all directories and leaves.
pub(crate) fn retain_xattrs(tree: &mut Tree, keep: impl Fn(&[u8]) -> bool + Copy) {
    fn visit(directory: &mut Directory, keep: impl Fn(&[u8]) -> bool + Copy) {
        directory.stat.xattrs.retain(|name, _| keep(name));
        for entry in directory.entries.values_mut() {
            if let Entry::Directory(child) = entry {
                visit(child, keep);
            }
        }
    }
    visit(&mut tree.root, keep);
    for leaf in &mut tree.leaves {
        leaf.stat.xattrs.retain(|name, _| keep(name));
    }
}

/// Drops leaves without a name; the others keep their order.
pub(crate) fn compact(tree: &mut Tree) {
    fn mark(directory: &Directory, used: &mut [bool]) {
        for entry in directory.entries.values() {
            match entry {
                Entry::Directory(child) => mark(child, used),
                Entry::Leaf(id) => used[id.0] = true,
            }
        }
    }
    fn renumber(directory: &mut Directory, new_ids: &[usize]) {
        for entry in directory.entries.values_mut() {
            match entry {
                Entry::Directory(child) => renumber(child, new_ids),
                Entry::Leaf(id) => *id = LeafId(new_ids[id.0]),
            }
        }
    }
    let mut used = vec![false; tree.leaves.len()];
    mark(&tree.root, &mut used);
    let mut next = 0;
    let new_ids: Vec<usize> = used
        .iter()
        .map(|used| {
            next += usize::from(*used);
            next.saturating_sub(1)
        })
        .collect();
    renumber(&mut tree.root, &new_ids);
    let mut used = used.into_iter();
    tree.leaves.retain(|_| used.next() == Some(true));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Leaf, LeafKind};

    fn stat(mtime_secs: i64) -> Stat {
        let xattrs = ["security.capability", "security.selinux", "user.x", "trusted.y"];
        let xattrs = xattrs.iter().map(|name| (name.as_bytes().into(), b"v"[..].into())).collect();
        Stat { mode: 0o755, mtime_secs, mtime_nanos: 7, xattrs, ..Stat::default() }
    }

    fn add_file(tree: &mut Tree, directory: &str, name: &str) {
        let id = tree.push_leaf(Leaf::new(stat(3), LeafKind::Regular(Content::Inline(name.as_bytes().into()))));
        let Some(Entry::Directory(parent)) = tree.root.entries.get_mut(directory.as_bytes()) else { panic!() };
        parent.entries.insert(name.as_bytes().into(), Entry::Leaf(id));
    }

    fn tree() -> Tree {
        let mut tree = Tree::default();
        for (name, mtime) in [("run", 1), ("usr", 2)] {
            let directory = Directory { stat: stat(mtime), ..Directory::default() };
            tree.root.entries.insert(name.as_bytes().into(), Entry::Directory(directory));
        }
        add_file(&mut tree, "run", "gone");
        add_file(&mut tree, "usr", "a");
        add_file(&mut tree, "usr", "b");
        tree
    }

    fn names(stat: &Stat) -> Vec<&str> {
        stat.xattrs.keys().map(|name| std::str::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn root_is_like_usr_and_run_is_empty() {
        let mut tree = tree();
        transform_for_oci(&mut tree, XattrFilter::AllowlistOnly).unwrap();
        assert_eq!(tree.root.stat, tree.directory("usr").unwrap().stat);
        assert_eq!((tree.root.stat.mtime_secs, tree.root.stat.mtime_nanos), (2, 7));
        let run = tree.directory("run").unwrap();
        assert!(run.entries.is_empty());
        assert_eq!(run.stat.mtime_secs, 2);
        assert_eq!(names(&run.stat), ["security.capability"]);
        assert_eq!(tree.leaves.len(), 2);
        assert_eq!(tree.regular_file("usr/b"), Some(&Content::Inline(b"b"[..].into())));
        assert_eq!(names(&tree.leaves[0].stat), ["security.capability"]);
    }

    #[test]
    fn fractions_of_seconds_can_be_left_out() {
        let mut tree = tree();
        truncate_times(&mut tree);
        let usr = tree.directory("usr").unwrap();
        assert_eq!((usr.stat.mtime_secs, usr.stat.mtime_nanos), (2, 0));
        assert!(tree.leaves.iter().all(|leaf| (leaf.stat.mtime_secs, leaf.stat.mtime_nanos) == (3, 0)));
    }

    #[test]
    fn user_xattrs_stay_when_asked() {
        let mut tree = tree();
        transform_for_oci(&mut tree, XattrFilter::KeepUserXattrs).unwrap();
        assert_eq!(names(&tree.leaves[0].stat), ["security.capability", "user.x"]);
    }

    #[test]
    fn run_may_be_a_symlink_but_usr_must_be_a_directory() {
        let mut tree = tree();
        let link = tree.push_leaf(Leaf::new(stat(3), LeafKind::Symlink(b"var/run"[..].into())));
        tree.root.entries.insert(b"run"[..].into(), Entry::Leaf(link));
        transform_for_oci(&mut tree, XattrFilter::AllowlistOnly).unwrap();
        assert!(matches!(tree.lookup("run"), Some(Entry::Leaf(_))));
        tree.root.entries.remove(&b"usr"[..]);
        let error = transform_for_oci(&mut tree, XattrFilter::AllowlistOnly);
        assert_eq!(error, Err(TransformError::NoDirectory("usr")));
    }
}
