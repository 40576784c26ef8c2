//! Paths with symbolic links.

use super::{Content, Directory, Entry, LeafKind, Tree};

/// Most symbolic links in one resolution, as in the kernel.
const LINKS_MAX: usize = 40;

impl Tree {
    /// The contents of the regular file at a path, with symbolic links followed as if the tree were the root file system.
    /// `None` if there is no such file, or another kind of file.
    pub fn follow_to_file(&self, path: &str) -> Option<&Content> {
        let mut above: Vec<&Directory> = vec![&self.root];
        let mut pending: Vec<&[u8]> = path.as_bytes().rsplit(|byte| *byte == b'/').collect();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            match name {
                b"" | b"." => continue,
                b".." => {
                    above.truncate(above.len().saturating_sub(1).max(1));
                    continue;
                }
                _ => {}
            }
            match above.last()?.entries.get(name)? {
                Entry::Directory(child) => above.push(child),
                Entry::Leaf(id) => match &self.leaf(*id).kind {
                    LeafKind::Regular(content) => return pending.is_empty().then_some(content),
                    LeafKind::Symlink(target) => {
                        links += 1;
                        if links > LINKS_MAX {
                            return None;
                        }
                        if target.starts_with(b"/") {
                            above.truncate(1);
                        }
                        pending.extend(target.rsplit(|byte| *byte == b'/'));
                    }
                    _ => return None,
                },
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Leaf, Stat};

    fn tree(links: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        let mut usr = Directory::default();
        let mut lib = Directory::default();
        let file = tree.push_leaf(Leaf::new(Stat::default(), LeafKind::Regular(Content::Inline(b"x"[..].into()))));
        lib.entries.insert(b"file"[..].into(), Entry::Leaf(file));
        usr.entries.insert(b"lib"[..].into(), Entry::Directory(lib));
        tree.root.entries.insert(b"usr"[..].into(), Entry::Directory(usr));
        for (name, target) in links {
            let link = tree.push_leaf(Leaf::new(Stat::default(), LeafKind::Symlink(target.as_bytes().into())));
            tree.root.entries.insert(name.as_bytes().into(), Entry::Leaf(link));
        }
        tree
    }

    #[test]
    fn links_are_followed_within_the_tree() {
        let tree =
            tree(&[("lib", "usr/lib"), ("abs", "/usr/lib/file"), ("up", "../../usr/./lib//file"), ("two", "abs")]);
        for path in ["usr/lib/file", "/usr/lib/file", "lib/file", "abs", "up", "two", "usr/../lib/file"] {
            assert!(tree.follow_to_file(path).is_some(), "{path}");
        }
        for path in ["", "usr", "lib", "usr/lib/none", "usr/lib/file/more", "abs/more"] {
            assert_eq!(tree.follow_to_file(path), None, "{path}");
        }
    }

    #[test]
    fn a_loop_ends() {
        assert_eq!(tree(&[("a", "b"), ("b", "a")]).follow_to_file("a"), None);
        assert_eq!(tree(&[("a", "a/a/a/a")]).follow_to_file("a"), None);
    }
}
