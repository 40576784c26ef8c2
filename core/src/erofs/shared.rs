//! Extended attributes that several inodes have are stored once, in a table behind the inodes.

use std::collections::HashMap;

use super::Format;
use super::inodes::Inode;
use super::xattr::{Xattr, entry_size, split_name};

/// The table: attributes in their order, and where each of them is.
#[derive(Debug)]
pub(super) struct SharedXattrs<'i, 't> {
    pub(super) table: Vec<&'i Xattr<'t>>,
    pub(super) size: usize,
    /// Number of each attribute of each inode, one inode after the other. Equal attributes have one number.
    numbers: Vec<u32>,
    /// Where an inode's attributes begin in `numbers`.
    starts: Vec<usize>,
    /// By number: offset from the start of the table, if it is there.
    offsets: Vec<Option<usize>>,
    /// Most references that an inode takes; further shared attributes are stored with the inode as well.
    references_max: usize,
}

impl<'i, 't> SharedXattrs<'i, 't> {
    /// Finds the attributes that more than one inode has.
    pub(super) fn find(inodes: &'i [Inode<'t>], format: Format) -> Self {
        let total = inodes.iter().map(|inode| inode.xattrs.len()).sum();
        let mut known: HashMap<&Xattr<'t>, u32> = HashMap::with_capacity(total);
        let mut counts: Vec<u32> = Vec::new();
        let mut numbers = Vec::with_capacity(total);
        let mut starts = Vec::with_capacity(inodes.len());
        for inode in inodes {
            starts.push(numbers.len());
            for xattr in &inode.xattrs {
                let number = *known.entry(xattr).or_insert(counts.len() as u32);
                match counts.get_mut(number as usize) {
                    Some(count) => *count += 1,
                    None => counts.push(1),
                }
                numbers.push(number);
            }
        }

        let mut shared: Vec<_> = known.into_iter().filter(|(_, number)| counts[*number as usize] > 1).collect();
        match format {
            Format::V0 | Format::V1 => shared.sort_unstable_by(|(a, _), (b, _)| {
                (&b.name, b.value.len(), &b.value).cmp(&(&a.name, a.value.len(), &a.value))
            }),
            Format::V2 => shared.sort_unstable_by_key(|(xattr, _)| (split_name(&xattr.name, format), &xattr.value)),
        }
        let mut offsets = vec![None; counts.len()];
        let mut size = 0;
        for (xattr, number) in &shared {
            offsets[*number as usize] = Some(size);
            size += entry_size(split_name(&xattr.name, format).1.len(), xattr.value.len());
        }
        let table = shared.into_iter().map(|(xattr, _)| xattr).collect();
        // V0 and V1: a limit of mkcomposefs. V2: of the field that counts them.
        let references_max = if format == Format::V2 { 255 } else { 128 };
        Self { table, size, numbers, starts, offsets, references_max }
    }

    /// Offsets in the table of the shared attributes of inode `number`, and its other attributes.
    pub(super) fn split<'x>(&self, number: usize, inode: &'x Inode<'t>) -> (Vec<usize>, Vec<&'x Xattr<'t>>) {
        let (mut shared, mut own) = (Vec::new(), Vec::new());
        for (xattr, number) in inode.xattrs.iter().zip(&self.numbers[self.starts[number]..]) {
            match self.offsets[*number as usize] {
                Some(offset) if shared.len() < self.references_max => shared.push(offset),
                _ => own.push(xattr),
            }
        }
        (shared, own)
    }
}
