//! From the root through all directories.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::directory::{DirectoryEntry, entries};
use super::image::Image;
use super::inode::Inode;
use super::leaf;
use super::xattrs::Attributes;
use super::{Budget, ReadError, ReadProblem};
use crate::erofs::Format;
use crate::erofs::layout::{S_IFCHR, S_IFDIR, S_IFMT, dirent_type};
use crate::erofs::overlay;
use crate::erofs::validate::{DEPTH_MAX, printable_path};
use crate::tree::{Directory, Entry, Leaf, LeafId, LeafKind, Stat, Tree};

/// Longest path that is remembered for a leaf: the longest that dumpfiles can name.
const PATH_MAX: usize = 4096;

/// What a name refers to.
#[derive(Clone, Copy, Debug)]
enum Child {
    /// Index of a directory that was found.
    Directory(usize),
    Leaf(usize),
    /// An entry that only the writer added.
    Stub,
}

/// A directory that was found, in breadth-first order.
struct Found<'i> {
    /// Index of the directory that it is in, and its name there. The root is in itself.
    parent: usize,
    name: &'i [u8],
    depth: usize,
    path_len: usize,
    inode: Inode,
    stat: Stat,
    children: Vec<(&'i [u8], u64, Child)>,
}

struct FoundLeaf<'i> {
    leaf: Leaf,
    nlink: u32,
    names: u32,
    /// Directory and name: the first one met, later the primary one.
    place: (usize, &'i [u8]),
}

pub(super) struct Walk<'a, 'i> {
    image: &'a Image<'i>,
    budget: Budget,
    directories: Vec<Found<'i>>,
    leaves: Vec<FoundLeaf<'i>>,
    leaf_by_nid: HashMap<u64, usize>,
    directory_nids: HashSet<u64>,
}

impl<'a, 'i> Walk<'a, 'i> {
    /// Reads everything that the root leads to.
    pub(super) fn new(image: &'a Image<'i>) -> Result<Self, ReadError> {
        let mut walk = Self {
            image,
            budget: Budget::new(image),
            directories: Vec::new(),
            leaves: Vec::new(),
            leaf_by_nid: HashMap::new(),
            directory_nids: HashSet::new(),
        };
        let at_root = |problem| ReadError::File { path: "/".to_owned(), problem };
        let root = Inode::read(image, image.root_nid).map_err(at_root)?;
        if root.mode & S_IFMT != S_IFDIR {
            return Err(at_root(ReadProblem::RootType));
        }
        walk.add_directory(0, b"", root).map_err(at_root)?;
        let mut next = 0;
        while next < walk.directories.len() {
            walk.read_directory(next)?;
            next += 1;
        }
        walk.check_links()?;
        Ok(walk)
    }

    fn path(&self, directory: usize, name: Option<&[u8]>) -> String {
        let mut names: Vec<&[u8]> = name.into_iter().collect();
        let mut at = directory;
        while at != 0 {
            names.push(self.directories[at].name);
            at = self.directories[at].parent;
        }
        printable_path(names.into_iter().rev())
    }

    fn add_directory(&mut self, parent: usize, name: &'i [u8], inode: Inode) -> Result<Child, ReadProblem> {
        if !self.directory_nids.insert(inode.nid) {
            return Err(ReadProblem::DirectoryTwice);
        }
        let (depth, path_len) =
            self.directories.get(parent).map_or((0, 0), |parent| (parent.depth + 1, parent.path_len + 1 + name.len()));
        if depth > DEPTH_MAX {
            return Err(ReadProblem::Depth);
        }
        self.budget.charge_inode(&inode)?;
        let attributes = Attributes::read(self.image, &inode, &mut self.budget)?;
        attributes.check_overlay(false, depth == 0 && self.image.format != Format::V2)?;
        let stat = leaf::stat(&inode, attributes.user);
        self.directories.push(Found { parent, name, depth, path_len, inode, stat, children: Vec::new() });
        Ok(Child::Directory(self.directories.len() - 1))
    }

    fn read_directory(&mut self, index: usize) -> Result<(), ReadError> {
        let Found { inode, parent, .. } = self.directories[index];
        let parent_nid = self.directories[parent].inode.nid;
        let found = entries(self.image, &inode, parent_nid)
            .map_err(|problem| ReadError::File { path: self.path(index, None), problem })?;
        let mut children = Vec::with_capacity(found.len());
        for entry in found {
            let child = self
                .child(index, &entry)
                .map_err(|problem| ReadError::File { path: self.path(index, Some(entry.name)), problem })?;
            children.push((entry.name, entry.nid, child));
        }
        self.finish_directory(index, children)
            .map_err(|problem| ReadError::File { path: self.path(index, None), problem })
    }

    fn child(&mut self, directory: usize, entry: &DirectoryEntry<'i>) -> Result<Child, ReadProblem> {
        let inode = Inode::read(self.image, entry.nid)?;
        if dirent_type(inode.mode) != Some(entry.file_type) {
            return Err(ReadProblem::DirentType { entry: entry.file_type, mode: inode.mode });
        }
        if inode.mode & S_IFMT == S_IFDIR {
            return self.add_directory(directory, entry.name, inode);
        }
        let native_whiteout = inode.mode & S_IFMT == S_IFCHR && inode.data == 0;
        if native_whiteout {
            let in_root = directory == 0;
            let v2 = self.image.format == Format::V2;
            if in_root && !v2 && overlay::is_stub_name(entry.name) {
                self.budget.charge_inode(&inode)?;
                // Not kept, but good: other readers look at them.
                Attributes::read(self.image, &inode, &mut self.budget)?;
                return Ok(Child::Stub);
            }
            if inode.nlink > 1 || !in_root && !v2 {
                return Err(ReadProblem::Whiteout(self.image.format.number()));
            }
        }
        if let Some(&leaf) = self.leaf_by_nid.get(&entry.nid) {
            self.leaves[leaf].names += 1;
            return Ok(Child::Leaf(leaf));
        }
        self.budget.charge_inode(&inode)?;
        let leaf = leaf::read(self.image, &inode, &mut self.budget)?;
        let place = (directory, entry.name);
        self.leaf_by_nid.insert(entry.nid, self.leaves.len());
        self.leaves.push(FoundLeaf { leaf, nlink: inode.nlink, names: 1, place });
        Ok(Child::Leaf(self.leaves.len() - 1))
    }

    /// Checks what depends on all that is in a directory.
    fn finish_directory(&mut self, index: usize, children: Vec<(&'i [u8], u64, Child)>) -> Result<(), ReadProblem> {
        let subdirectories = children.iter().filter(|(_, _, child)| matches!(child, Child::Directory(_))).count();
        let counted = 2 + subdirectories as u32;
        let directory = &mut self.directories[index];
        if directory.inode.nlink != counted {
            return Err(ReadProblem::LinkCount { stated: directory.inode.nlink, counted });
        }
        if index == 0 && self.image.format != Format::V2 {
            let has = |name: &[u8; 2]| children.binary_search_by_key(&&name[..], |(name, _, _)| *name).is_ok();
            if let Some(missing) = overlay::STUB_NAMES.iter().find(|name| !has(name)) {
                return Err(ReadProblem::StubMissing(missing.escape_ascii().to_string()));
            }
        }
        directory.children = children;
        Ok(())
    }

    /// A link count is the number of names. Where there are several, mkcomposefs takes what a dumpfile states for it, and
    /// some dumps state 1 or the count of a larger tree.
    fn check_links(&mut self) -> Result<(), ReadError> {
        let wrong = self.leaves.iter().find(|leaf| leaf.nlink != leaf.names && (leaf.nlink == 0 || leaf.names == 1));
        if let Some(FoundLeaf { nlink: stated, names: counted, place: (directory, name), .. }) = wrong {
            let problem = ReadProblem::LinkCount { stated: *stated, counted: *counted };
            return Err(ReadError::File { path: self.path(*directory, Some(name)), problem });
        }
        for leaf in &mut self.leaves {
            // Version 2 images are always written with the number of names.
            let stated = leaf.nlink != leaf.names && self.image.format != Format::V2;
            leaf.leaf.stated_nlink = stated.then_some(leaf.nlink);
        }
        Ok(())
    }

    fn is_whiteout(&self, leaf: usize) -> bool {
        self.image.format != Format::V2 && self.leaves[leaf].leaf.kind == LeafKind::CharDevice(0)
    }

    /// Removes what the writer sets on the directory of a whiteout's primary name, in place of any value there was.
    fn unmark_whiteouts(&mut self, primary_names_found: bool) {
        for index in 0..self.directories.len() {
            let holds_whiteout = self.directories[index].children.iter().any(|(name, _, child)| match child {
                Child::Leaf(leaf) => {
                    let FoundLeaf { names, place, .. } = self.leaves[*leaf];
                    self.is_whiteout(*leaf) && (names == 1 || !primary_names_found || place == (index, *name))
                }
                _ => false,
            });
            if holds_whiteout {
                Attributes::unmark_whiteouts(&mut self.directories[index].stat.xattrs, self.image.format);
            }
        }
    }

    /// Finds the primary names of hard links: versions 0 and 1 write an inode where its primary name is met on the way
    /// through all directories, so the order of inodes tells. Not found: the first names stay.
    fn find_primary_names(&mut self) -> bool {
        let links = self.leaves.iter().any(|leaf| leaf.names > 1);
        if !links || self.image.format == Format::V2 {
            return false;
        }
        let mut nids: Vec<u64> =
            self.directories.iter().flat_map(|directory| &directory.children).map(|(_, nid, _)| *nid).collect();
        nids.sort_unstable();
        nids.dedup();
        let mut expected = nids.iter().peekable();
        for (index, directory) in self.directories.iter().enumerate() {
            for (name, nid, child) in &directory.children {
                let Child::Leaf(leaf) = child else {
                    expected.next_if_eq(&nid);
                    continue;
                };
                // Two names can be next to each other on the way, and then the order does not tell which one it was.
                let unmarked = self.is_whiteout(*leaf) && !Attributes::mark_whiteouts(&directory.stat.xattrs);
                if !unmarked && expected.next_if_eq(&nid).is_some() {
                    self.leaves[*leaf].place = (index, name);
                }
            }
        }
        expected.peek().is_none()
    }

    /// All files that are not directories, with the attributes that the image has.
    pub(super) fn into_leaves(self) -> impl Iterator<Item = Leaf> {
        self.leaves.into_iter().map(|found| found.leaf)
    }

    pub(super) fn into_tree(mut self) -> Tree {
        let found = self.find_primary_names();
        self.unmark_whiteouts(found);
        if found {
            for index in 0..self.leaves.len() {
                let FoundLeaf { names, place: (directory, name), .. } = self.leaves[index];
                let path_len = self.directories[directory].path_len + 1 + name.len();
                if names > 1 && path_len <= PATH_MAX {
                    self.leaves[index].leaf.primary_path = Some(self.plain_path(directory, name).into());
                }
            }
        }
        let Self { directories, leaves, .. } = self;
        // Directories come after the ones that they are in: from the last one on, children are complete.
        let mut complete: Vec<Option<Directory>> = directories.iter().map(|_| None).collect();
        for (index, Found { stat, children, .. }) in directories.into_iter().enumerate().rev() {
            let entries = children
                .into_iter()
                .filter_map(|(name, _, child)| {
                    let entry = match child {
                        Child::Directory(child) => Entry::Directory(complete[child].take()?),
                        Child::Leaf(leaf) => Entry::Leaf(LeafId(leaf)),
                        Child::Stub => return None,
                    };
                    Some((name.into(), entry))
                })
                .collect::<BTreeMap<Box<[u8]>, Entry>>();
            complete[index] = Some(Directory { stat, entries });
        }
        let root = complete.into_iter().next().flatten().unwrap_or_default();
        let mut tree = Tree { root, leaves: leaves.into_iter().map(|found| found.leaf).collect() };
        tree.forget_obvious_links();
        tree
    }

    fn plain_path(&self, directory: usize, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = directory;
        while at != 0 {
            names.push(self.directories[at].name);
            at = self.directories[at].parent;
        }
        names.iter().rev().flat_map(|name| [b"/", *name]).flatten().copied().collect()
    }
}
