//! Layers applied on top of each other to one file tree.
//!
//! Rules: a later entry replaces an earlier one, also within a layer; a directory over a directory replaces its metadata
//! only; `.wh.N` removes `N`; `.wh..wh..opq` hides what *lower* layers have in its directory, wherever it stands in its
//! layer. Parents that no layer describes are made with [`implied`] metadata. Other names that begin with `.wh..wh.` at the
//! top, with all below them, are remains of AUFS and passed over.
//!
//! What the tree may hold in memory is bounded, whatever the layers say: `ENTRIES_MAX` files and `TEXT_BYTES_MAX` of
//! names and values. Extended attributes that the image will not have are dropped at once.
//!
//! *Rationale.* cfsctl 0.9 lets the opaque marker also remove entries that came before it in the same layer, and refuses
//! entries without parents. The first contradicts the OCI specification and differs only for layers that no known
//! builder makes; for the second there is no digest to be equal to.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use thiserror::Error;

use crate::tar::{Entry as TarEntry, EntryKind};
use crate::transform::XattrFilter;
use crate::tree::{Content, Directory, Entry, Leaf, LeafId, LeafKind, NAME_MAX, Stat, Tree};

/// Deepest path; well above what file systems in use have, and few enough for recursive code.
const DEPTH_MAX: usize = 512;
/// Longest symlink target, as everywhere in Linux.
const TARGET_MAX: usize = 4095;
const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
const AUFS_PREFIX: &[u8] = b".wh..wh.";
/// Most files and directories of an image, those counted that later ones replace. They take some hundred bytes each.
const ENTRIES_MAX: usize = 4 << 20;
/// Most bytes of names, link targets, extended attributes and small files of an image.
const TEXT_BYTES_MAX: usize = 512 << 20;

/// Why an entry of a layer cannot be put into the tree.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("cannot apply {path:?}: {kind}")]
pub struct ApplyError {
    /// Name of the entry.
    pub path: String,
    /// What is wrong with it.
    pub kind: ApplyErrorKind,
}

/// What can be wrong with an entry.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ApplyErrorKind {
    /// `..` in a path.
    #[error("its path leads upwards")]
    ParentReference,
    /// Too many components.
    #[error("its path has more than {DEPTH_MAX} components")]
    TooDeep,
    /// A component that no file system can have.
    #[error("its path has a component of more than {NAME_MAX} bytes or with a NUL byte")]
    Name,
    /// Something else than a directory at the root.
    #[error("the root can only be a directory")]
    Root,
    /// A parent exists but is no directory.
    #[error("{0:?} is not a directory")]
    NotDirectory(String),
    /// Target of a hard link.
    #[error("its hard link target {0:?} does not exist or is a directory")]
    HardLinkTarget(String),
    /// Target of a symbolic link.
    #[error("its symbolic link target is empty, longer than {TARGET_MAX} bytes or contains a NUL byte")]
    SymlinkTarget,
    /// A whiteout of nothing.
    #[error("the whiteout names no file")]
    Whiteout,
    /// Something below a whiteout.
    #[error("it is below a name that begins with .wh., which is for whiteouts")]
    BelowWhiteout,
    /// More files than any image has.
    #[error("the image has more than {ENTRIES_MAX} files and directories, those counted that later layers replace")]
    TooMany,
    /// More bytes of names and values than any image has.
    #[error(
        "the image has more than {TEXT_BYTES_MAX} bytes of names, link targets, extended attributes and small files"
    )]
    TooMuchText,
    /// A type flag that is not known.
    #[error("tar type flag {:?} is not supported", *.0 as char)]
    Type(u8),
}

/// Metadata of directories that are in no layer: 0755, root:root, time 0.
fn implied() -> Stat {
    Stat { mode: 0o755, ..Stat::default() }
}

struct Node {
    /// The last layer that has this name, directly or as a parent it implies.
    layer: usize,
    kind: NodeKind,
}

enum NodeKind {
    Directory(Folder),
    Leaf(LeafId),
}

struct Folder {
    stat: Stat,
    /// The last layer with an opaque marker here.
    opaque: usize,
    entries: BTreeMap<Box<[u8]>, Node>,
}

impl Folder {
    fn implied() -> Self {
        Self::new(implied())
    }

    fn new(stat: Stat) -> Self {
        Self { stat, opaque: 0, entries: BTreeMap::new() }
    }

    /// Does what an opaque marker of `layer` says. Further ones of the same layer find nothing to do, and cost nothing.
    fn make_opaque(&mut self, layer: usize) {
        if self.opaque != layer {
            self.opaque = layer;
            self.hide_lower(layer);
        }
    }

    /// Removes all that is not from `layer`. A directory that only became a parent of something in it is as if no layer
    /// had described it.
    fn hide_lower(&mut self, layer: usize) {
        self.entries.retain(|_, node| match &mut node.kind {
            NodeKind::Leaf(_) => node.layer == layer,
            NodeKind::Directory(folder) => {
                folder.hide_lower(layer);
                if node.layer != layer {
                    folder.stat = implied();
                    node.layer = layer;
                    return !folder.entries.is_empty();
                }
                true
            }
        });
    }

    fn into_directory(self) -> Directory {
        let entry = |node: Node| match node.kind {
            NodeKind::Directory(folder) => Entry::Directory(folder.into_directory()),
            NodeKind::Leaf(id) => Entry::Leaf(id),
        };
        Directory {
            stat: self.stat,
            entries: self.entries.into_iter().map(|(name, node)| (name, entry(node))).collect(),
        }
    }
}

/// What a tree takes in memory so far.
#[derive(Default)]
struct Budget {
    entries: usize,
    text_bytes: usize,
}

impl Budget {
    fn take(&mut self, text_bytes: usize) -> Result<(), ApplyErrorKind> {
        self.entries += 1;
        self.text_bytes = self.text_bytes.saturating_add(text_bytes);
        match self {
            Self { entries, .. } if *entries > ENTRIES_MAX => Err(ApplyErrorKind::TooMany),
            Self { text_bytes, .. } if *text_bytes > TEXT_BYTES_MAX => Err(ApplyErrorKind::TooMuchText),
            _ => Ok(()),
        }
    }
}

/// Builds the tree of an image from the entries of its layers, lowest layer first.
pub(crate) struct TreeBuilder {
    root: Folder,
    leaves: Vec<Leaf>,
    layer: usize,
    xattrs: Option<XattrFilter>,
    keeps_whiteouts: bool,
    budget: Budget,
}

impl TreeBuilder {
    /// Other extended attributes than `xattrs` lets through are dropped; without a filter none are.
    pub(crate) fn new(xattrs: Option<XattrFilter>) -> Self {
        let budget = Budget::default();
        Self { root: Folder::implied(), leaves: Vec::new(), layer: 0, xattrs, keeps_whiteouts: false, budget }
    }

    /// Whiteouts become files with their names, as they are in the archive: for looking at one layer.
    pub(crate) fn keeping_whiteouts(self) -> Self {
        Self { keeps_whiteouts: true, ..self }
    }

    /// The entries that follow are of the next layer.
    pub(crate) fn next_layer(&mut self) {
        self.layer += 1;
    }

    pub(crate) fn finish(self) -> Tree {
        Tree { root: self.root.into_directory(), leaves: self.leaves }
    }

    pub(crate) fn add(&mut self, entry: TarEntry) -> Result<(), ApplyError> {
        let TarEntry { path, mut stat, kind } = entry;
        if let Some(filter) = self.xattrs {
            stat.xattrs.retain(|name, _| filter.keeps(name));
        }
        self.apply(&path, stat, kind).map_err(|kind| ApplyError { path: text(&path), kind })
    }

    fn apply(&mut self, path: &[u8], stat: Stat, kind: EntryKind) -> Result<(), ApplyErrorKind> {
        let components = components(path)?;
        let Some((name, parents)) = components.split_last() else {
            if kind != EntryKind::Directory {
                return Err(ApplyErrorKind::Root);
            }
            self.root.stat = stat;
            return Ok(());
        };
        if !self.keeps_whiteouts && self.apply_whiteout(&components, name, parents)? {
            return Ok(());
        }
        let xattrs = stat.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.budget.take(name.len() + xattrs)?;
        let kind = match kind {
            EntryKind::Directory => return self.add_directory(parents, name, stat),
            EntryKind::HardLink(target) => {
                let missing = ApplyErrorKind::HardLinkTarget(text(&target));
                let id = self.leaf_at(&self::components(&target)?).ok_or(missing)?;
                return self.add_leaf(parents, name, id);
            }
            EntryKind::Symlink(target) => {
                if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) {
                    return Err(ApplyErrorKind::SymlinkTarget);
                }
                self.budget.text_bytes += target.len();
                LeafKind::Symlink(target.into())
            }
            EntryKind::Regular(content) => {
                if let Content::Inline(bytes) = &content {
                    self.budget.text_bytes += bytes.len();
                }
                LeafKind::Regular(content)
            }
            EntryKind::CharDevice(device) => LeafKind::CharDevice(device),
            EntryKind::BlockDevice(device) => LeafKind::BlockDevice(device),
            EntryKind::Fifo => LeafKind::Fifo,
            EntryKind::Other(typeflag) => return Err(ApplyErrorKind::Type(typeflag)),
        };
        let id = LeafId(self.leaves.len());
        self.leaves.push(Leaf::new(stat, kind));
        self.add_leaf(parents, name, id)
    }

    /// Does what an entry with a special name says; false if it is an ordinary one.
    fn apply_whiteout(&mut self, components: &[&[u8]], name: &[u8], parents: &[&[u8]]) -> Result<bool, ApplyErrorKind> {
        if components[0].starts_with(AUFS_PREFIX) && components != [OPAQUE_MARKER] {
            return Ok(true);
        }
        if parents.iter().any(|parent| parent.starts_with(WHITEOUT_PREFIX)) {
            return Err(ApplyErrorKind::BelowWhiteout);
        }
        if name == OPAQUE_MARKER {
            let layer = self.layer;
            if let Some(parent) = self.existing(parents)? {
                parent.make_opaque(layer);
            }
            return Ok(true);
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) else { return Ok(false) };
        if hidden.is_empty() {
            return Err(ApplyErrorKind::Whiteout);
        }
        if let Some(parent) = self.existing(parents)? {
            parent.entries.remove(hidden);
        }
        Ok(true)
    }

    fn add_directory(&mut self, parents: &[&[u8]], name: &[u8], stat: Stat) -> Result<(), ApplyErrorKind> {
        let layer = self.layer;
        let entries = &mut self.parent(parents)?.entries;
        match entries.get_mut(name) {
            Some(Node { layer: stated, kind: NodeKind::Directory(folder) }) => {
                *stated = layer;
                folder.stat = stat;
            }
            _ => {
                entries.insert(name.into(), Node { layer, kind: NodeKind::Directory(Folder::new(stat)) });
            }
        }
        Ok(())
    }

    fn add_leaf(&mut self, parents: &[&[u8]], name: &[u8], id: LeafId) -> Result<(), ApplyErrorKind> {
        let node = Node { layer: self.layer, kind: NodeKind::Leaf(id) };
        self.parent(parents)?.entries.insert(name.into(), node);
        Ok(())
    }

    /// The directory that an entry goes into; made where no layer has it.
    fn parent(&mut self, path: &[&[u8]]) -> Result<&mut Folder, ApplyErrorKind> {
        let layer = self.layer;
        let mut folder = &mut self.root;
        for (i, name) in path.iter().enumerate() {
            let node = match folder.entries.entry((*name).into()) {
                Slot::Occupied(slot) => slot.into_mut(),
                Slot::Vacant(slot) => {
                    self.budget.take(name.len())?;
                    slot.insert(Node { layer, kind: NodeKind::Directory(Folder::implied()) })
                }
            };
            folder = match &mut node.kind {
                NodeKind::Directory(child) => child,
                NodeKind::Leaf(_) => return Err(not_directory(&path[..=i])),
            };
        }
        Ok(folder)
    }

    /// The directory of a whiteout, if it exists.
    fn existing(&mut self, path: &[&[u8]]) -> Result<Option<&mut Folder>, ApplyErrorKind> {
        let mut folder = &mut self.root;
        for (i, name) in path.iter().enumerate() {
            folder = match folder.entries.get_mut(*name) {
                Some(Node { kind: NodeKind::Directory(child), .. }) => child,
                Some(_) => return Err(not_directory(&path[..=i])),
                None => return Ok(None),
            };
        }
        Ok(Some(folder))
    }

    fn leaf_at(&self, path: &[&[u8]]) -> Option<LeafId> {
        let (name, parents) = path.split_last()?;
        let mut folder = &self.root;
        for parent in parents {
            match &folder.entries.get(*parent)?.kind {
                NodeKind::Directory(child) => folder = child,
                NodeKind::Leaf(_) => return None,
            }
        }
        match folder.entries.get(*name)?.kind {
            NodeKind::Leaf(id) => Some(id),
            NodeKind::Directory(_) => None,
        }
    }
}

/// The names in a path; `/`, `.` and empty ones say nothing.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, ApplyErrorKind> {
    let mut components = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(ApplyErrorKind::ParentReference),
            _ if name.len() > NAME_MAX || name.contains(&0) => return Err(ApplyErrorKind::Name),
            _ if components.len() == DEPTH_MAX => return Err(ApplyErrorKind::TooDeep),
            _ => components.push(name),
        }
    }
    Ok(components)
}

fn not_directory(path: &[&[u8]]) -> ApplyErrorKind {
    ApplyErrorKind::NotDirectory(text(&path.join(&b'/')))
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
