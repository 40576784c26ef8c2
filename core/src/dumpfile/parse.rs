//! Dumpfile to tree.

use super::line::{Kind, Line};
use super::{ParseError, ParseProblem};
use crate::tree::{Directory, Entry, Leaf, LeafId, Place, Tree};

/// Reads a dumpfile. The last line may lack its newline.
///
/// # Errors
/// The first line that is wrong, by the rules in the [module's description](super).
pub fn parse(text: &[u8]) -> Result<Tree, ParseError> {
    let mut builder = Builder { root: Directory::default(), files: Vec::new() };
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let number = index + 1;
        if text.is_empty() {
            return Err(ParseError { line: number, problem: ParseProblem::Empty });
        }
        builder.add(number, line).map_err(|problem| ParseError { line: number, problem })?;
    }
    builder.finish()
}

/// What an entry refers to until all lines are read; entries have the index as their [`LeafId`].
enum File {
    Leaf(Leaf),
    Link { line: usize, target: Vec<u8> },
}

struct Builder {
    root: Directory,
    files: Vec<File>,
}

impl Builder {
    fn add(&mut self, number: usize, line: &[u8]) -> Result<(), ParseProblem> {
        let Line { path, kind } = Line::parse(line)?;
        if number == 1 {
            let Kind::Directory(stat) = kind else { return Err(ParseProblem::RootNotFirst) };
            if &*path != b"/" {
                return Err(ParseProblem::RootNotFirst);
            }
            self.root.stat = stat;
            return Ok(());
        }

        let name_at = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let (parent_path, name) = path.split_at(name_at);
        if name.is_empty() {
            return Err(ParseProblem::Duplicate);
        }
        let mut parent = &mut self.root;
        for component in parent_path.split(|&byte| byte == b'/').filter(|component| !component.is_empty()) {
            parent = match parent.entries.get_mut(component) {
                Some(Entry::Directory(directory)) => directory,
                Some(Entry::Leaf(_)) => return Err(ParseProblem::ParentNotDirectory),
                None => return Err(ParseProblem::ParentMissing),
            };
        }
        if parent.entries.contains_key(name) {
            return Err(ParseProblem::Duplicate);
        }
        let next = Entry::Leaf(LeafId(self.files.len()));
        let entry = match kind {
            Kind::Directory(stat) => Entry::Directory(Directory { stat, entries: Default::default() }),
            Kind::Leaf(leaf) => {
                self.files.push(File::Leaf(leaf));
                next
            }
            Kind::Link(target) => {
                self.files.push(File::Link { line: number, target });
                next
            }
        };
        parent.entries.insert(name.into(), entry);
        Ok(())
    }

    fn finish(self) -> Result<Tree, ParseError> {
        let mut tree = Tree { root: self.root, leaves: Vec::new() };
        let resolved = resolve_links(&self.files, &tree)?;

        // Leaves are numbered in the order of their lines, without gaps where links were.
        let mut new_ids = vec![0; self.files.len()];
        let mut links = Vec::new();
        for (index, file) in self.files.into_iter().enumerate() {
            match file {
                File::Leaf(leaf) => new_ids[index] = tree.push_leaf(leaf).0,
                File::Link { target, .. } => links.push((index, target)),
            }
        }
        for (link, target) in links {
            let end = resolved[link];
            new_ids[link] = new_ids[end.leaf];
            if end.direct {
                tree.leaves[new_ids[link]].primary_path = Some(target.into());
            }
        }
        let mut open = vec![&mut tree.root];
        while let Some(directory) = open.pop() {
            for entry in directory.entries.values_mut() {
                match entry {
                    Entry::Directory(child) => open.push(child),
                    Entry::Leaf(id) => id.0 = new_ids[id.0],
                }
            }
        }
        tree.forget_obvious_links();
        Ok(tree)
    }
}

/// Where a hard link ends.
#[derive(Clone, Copy)]
struct LinkEnd {
    /// Index of the leaf.
    leaf: usize,
    /// The link's target is the leaf's own path, not another link.
    direct: bool,
}

/// Follows all links, in linear time however they are chained. The element of a leaf is the leaf itself.
fn resolve_links(files: &[File], tree: &Tree) -> Result<Vec<LinkEnd>, ParseError> {
    let mut ends: Vec<Option<LinkEnd>> = (0..files.len())
        .map(|index| matches!(files[index], File::Leaf(_)).then_some(LinkEnd { leaf: index, direct: true }))
        .collect();
    let mut on_chain = vec![false; files.len()];
    for start in 0..files.len() {
        let mut chain = Vec::new();
        let mut at = start;
        let leaf = loop {
            if let Some(end) = ends[at] {
                break end.leaf;
            }
            let File::Link { line, target } = &files[at] else { unreachable!("leaves have their end from the start") };
            let fail = |problem| Err(ParseError { line: *line, problem });
            if std::mem::replace(&mut on_chain[at], true) {
                return fail(ParseProblem::LinkCycle);
            }
            chain.push(at);
            at = match tree.place(target).map(|Place { directory, name }| &directory.entries[name]) {
                Some(Entry::Leaf(id)) => id.0,
                Some(Entry::Directory(_)) => return fail(ParseProblem::LinkToDirectory),
                None if target == b"/" => return fail(ParseProblem::LinkToDirectory),
                None => return fail(ParseProblem::LinkMissing),
            };
        };
        for pair in chain.iter().zip(chain.iter().skip(1).chain([&at])) {
            let (&link, &next) = pair;
            ends[link] = Some(LinkEnd { leaf, direct: matches!(files[next], File::Leaf(_)) });
        }
    }
    Ok(ends.into_iter().flatten().collect())
}
