//! Tree to dumpfile.

use std::collections::HashMap;
use std::io::{self, Write};

use super::escape::{Context, escape};
use crate::tree::{Content, Directory, Entry, Leaf, LeafKind, Place, Stat, Tree};

/// Writes the tree, root first, then depth-first in byte order of names.
///
/// A leaf's data stands on the line of its primary name, which may come after the lines of its other names.
/// Parsing the result gives the same tree.
pub fn write(tree: &Tree, out: &mut dyn Write) -> io::Result<()> {
    let names = tree.names();
    let mut primary_paths = HashMap::new();
    let mut path = Vec::new();
    let mut line = Vec::new();
    directory_line(b"/", &tree.root, &mut line)?;
    out.write_all(&line)?;

    let mut open = vec![(&tree.root, tree.root.entries.iter(), 0)];
    while let Some((directory, entries, path_len)) = open.last_mut() {
        let directory: &Directory = directory;
        path.truncate(*path_len);
        let Some((name, entry)) = entries.next() else {
            open.pop();
            continue;
        };
        path.push(b'/');
        path.extend_from_slice(name);
        line.clear();
        match entry {
            Entry::Directory(child) => {
                directory_line(&path, child, &mut line)?;
                open.push((child, child.entries.iter(), path.len()));
            }
            Entry::Leaf(id) => {
                let leaf = tree.leaf(*id);
                let of_leaf = &names[id.0];
                if of_leaf.primary(tree, *id, leaf) == Some(Place { directory, name }) {
                    leaf_line(&path, leaf, of_leaf.count, &mut line)?;
                    if of_leaf.count > 1 {
                        primary_paths.insert(*id, path.clone());
                    }
                } else {
                    // A name that comes before the primary one: then the leaf itself says which that is.
                    let target = primary_paths.get(id).map(Vec::as_slice).or(leaf.primary_path.as_deref());
                    link_line(&path, target.unwrap_or_default(), &mut line)?;
                }
            }
        }
        out.write_all(&line)?;
    }
    Ok(())
}

fn directory_line(path: &[u8], directory: &Directory, line: &mut Vec<u8>) -> io::Result<()> {
    let subdirectories = directory.entries.values().filter(|entry| matches!(entry, Entry::Directory(_))).count();
    stat_fields(path, 0, 0o040000, &directory.stat, 2 + subdirectories, 0, line)?;
    line.extend_from_slice(b" - - -");
    xattrs(&directory.stat, line);
    Ok(())
}

fn leaf_line(path: &[u8], leaf: &Leaf, names: u32, line: &mut Vec<u8>) -> io::Result<()> {
    // Above 32 bits is what makes the inode of a special file extended.
    let special_size = if leaf.extended { 1 << 32 } else { 0 };
    let (file_type, size, rdev) = match &leaf.kind {
        LeafKind::Regular(content) => (0o100000, content.size(), 0),
        LeafKind::Symlink(target) => (0o120000, target.len() as u64, 0),
        LeafKind::CharDevice(rdev) => (0o020000, special_size, *rdev),
        LeafKind::BlockDevice(rdev) => (0o060000, special_size, *rdev),
        LeafKind::Fifo => (0o010000, special_size, 0),
        LeafKind::Socket => (0o140000, special_size, 0),
    };
    let nlink = leaf.stated_nlink.unwrap_or(names);
    stat_fields(path, size, file_type, &leaf.stat, nlink as usize, rdev, line)?;

    let (payload, content, digest) = match &leaf.kind {
        LeafKind::Symlink(target) => (Some(&**target), None, None),
        LeafKind::Regular(Content::Inline(bytes)) if !bytes.is_empty() => (None, Some(&**bytes), None),
        LeafKind::Regular(Content::External { payload, digest, .. }) => (payload.as_deref(), None, digest.as_ref()),
        _ => (None, None, None),
    };
    for field in [payload, content] {
        line.push(b' ');
        match field {
            Some(bytes) => escape(bytes, Context::Field, line),
            None => line.push(b'-'),
        }
    }
    match digest {
        Some(digest) => write!(line, " {digest}")?,
        None => line.extend_from_slice(b" -"),
    }
    xattrs(&leaf.stat, line);
    Ok(())
}

/// Only path, type and target of a hard link mean something.
fn link_line(path: &[u8], target: &[u8], line: &mut Vec<u8>) -> io::Result<()> {
    escape(path, Context::Field, line);
    line.write_all(b" 0 @120000 - - - - 0.0 ")?;
    escape(target, Context::Field, line);
    line.write_all(b" - -\n")
}

fn stat_fields(
    path: &[u8],
    size: u64,
    file_type: u32,
    stat: &Stat,
    nlink: usize,
    rdev: u32,
    line: &mut Vec<u8>,
) -> io::Result<()> {
    escape(path, Context::Field, line);
    let mode = file_type | u32::from(stat.mode);
    let Stat { uid, gid, mtime_secs, mtime_nanos, .. } = stat;
    write!(line, " {size} {mode:o} {nlink} {uid} {gid} {rdev} {mtime_secs}.{mtime_nanos}")
}

fn xattrs(stat: &Stat, line: &mut Vec<u8>) {
    for (name, value) in &stat.xattrs {
        line.push(b' ');
        escape(name, Context::Xattr, line);
        line.push(b'=');
        escape(value, Context::Xattr, line);
    }
    line.push(b'\n');
}
