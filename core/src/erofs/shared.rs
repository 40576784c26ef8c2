//! Extended attributes that several inodes have are stored once, in a table behind the inodes.

use std::collections::HashMap;

use super::Format;
use super::inodes::Inode;
use super::xattr::{Xattr, entry_size, split_name};

/// The table: attributes in their order, and where each of them is.
#[derive(Debug)]
pub(super) struct SharedXattrs<'i, 't> {
    pub(super) table: Vec<&'i Xattr<'t>>,
    /// Offset of each, from the start of the table.
    offsets: HashMap<&'i Xattr<'t>, usize>,
    pub(super) size: usize,
    /// Most references that an inode takes; further shared attributes are stored with the inode as well.
    references_max: usize,
}

impl<'i, 't> SharedXattrs<'i, 't> {
    /// Finds the attributes that more than one inode has.
    pub(super) fn find(inodes: &'i [Inode<'t>], format: Format) -> Self {
        let mut counts: HashMap<&Xattr<'t>, usize> = HashMap::new();
        for xattr in inodes.iter().flat_map(|inode| &inode.xattrs) {
            *counts.entry(xattr).or_default() += 1;
        }
        counts.retain(|_, count| *count > 1);
        let mut table: Vec<&Xattr<'t>> = counts.keys().copied().collect();
        match format {
            Format::V0 | Format::V1 => {
                table.sort_unstable_by(|a, b| {
                    (&b.name, b.value.len(), &b.value).cmp(&(&a.name, a.value.len(), &a.value))
                });
            }
            Format::V2 => table.sort_unstable_by_key(|xattr| (split_name(&xattr.name, format), &xattr.value)),
        }
        let mut offsets = counts;
        let mut size = 0;
        for xattr in &table {
            offsets.insert(xattr, size);
            size += entry_size(split_name(&xattr.name, format).1.len(), xattr.value.len());
        }
        // V0 and V1: a limit of mkcomposefs. V2: of the field that counts them.
        let references_max = if format == Format::V2 { 255 } else { 128 };
        Self { table, offsets, size, references_max }
    }

    /// Offsets in the table of an inode's shared attributes, and its other ones.
    pub(super) fn split(&self, inode: &'i Inode<'t>) -> (Vec<usize>, Vec<&'i Xattr<'t>>) {
        let (mut shared, mut own) = (Vec::new(), Vec::new());
        for xattr in &inode.xattrs {
            match self.offsets.get(xattr) {
                Some(offset) if shared.len() < self.references_max => shared.push(*offset),
                _ => own.push(xattr),
            }
        }
        (shared, own)
    }
}
