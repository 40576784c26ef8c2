//! Entries of one directory.

use zerocopy::FromBytes;

use super::ReadProblem;
use super::image::Image;
use super::inode::Inode;
use crate::erofs::layout::{BLOCK, Dirent};
use crate::erofs::validate::is_file_name;

/// One name in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirectoryEntry<'i> {
    pub(super) name: &'i [u8],
    pub(super) nid: u64,
    pub(super) file_type: u8,
}

/// All entries but `.` and `..`, in order. These two are checked.
pub(super) fn entries<'i>(
    image: &Image<'i>,
    inode: &Inode,
    parent_nid: u64,
) -> Result<Vec<DirectoryEntry<'i>>, ReadProblem> {
    let (blocks, tail) = inode.data(image)?;
    let mut entries = Vec::new();
    for block in blocks.chunks(BLOCK) {
        block_entries(block, true, &mut entries)?;
    }
    if !tail.is_empty() {
        block_entries(tail, false, &mut entries)?;
    }
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].name >= pair[1].name) {
        return Err(ReadProblem::NameOrder(pair[1].name.escape_ascii().to_string()));
    }
    for (dot, nid) in [(".", inode.nid), ("..", parent_nid)] {
        let at = entries.binary_search_by_key(&dot.as_bytes(), |entry| entry.name);
        let entry = at.ok().map(|at| entries.remove(at));
        if !entry.is_some_and(|entry| entry.nid == nid && entry.file_type == 2) {
            return Err(ReadProblem::DotEntry(dot));
        }
    }
    match entries.iter().find(|entry| !is_file_name(entry.name)) {
        Some(entry) => Err(ReadProblem::Name(entry.name.escape_ascii().to_string())),
        None => Ok(entries),
    }
}

/// Entries of one block, or of the part behind the inode. A block is padded with zeros behind its last name.
fn block_entries<'i>(block: &'i [u8], padded: bool, out: &mut Vec<DirectoryEntry<'i>>) -> Result<(), ReadProblem> {
    let malformed = ReadProblem::DirectoryBlock;
    let Ok((first, _)) = Dirent::ref_from_prefix(block) else { return Err(malformed) };
    // The names begin behind the entries, so the first name's offset tells how many there are.
    let names_at = usize::from(first.name_offset.get());
    if names_at == 0 || !names_at.is_multiple_of(size_of::<Dirent>()) {
        return Err(malformed);
    }
    let Some(Ok(dirents)) = block.get(..names_at).map(<[Dirent]>::ref_from_bytes) else { return Err(malformed) };
    for (index, dirent) in dirents.iter().enumerate() {
        let start = usize::from(dirent.name_offset.get());
        let end = dirents.get(index + 1).map_or(block.len(), |next| usize::from(next.name_offset.get()));
        let Some(mut name) = block.get(start..end).filter(|_| start >= names_at && dirent.reserved == 0) else {
            return Err(malformed);
        };
        if padded && index + 1 == dirents.len() {
            let name_len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            let (text, padding) = name.split_at(name_len);
            if padding.iter().any(|&byte| byte != 0) {
                return Err(malformed);
            }
            name = text;
        }
        out.push(DirectoryEntry { name, nid: dirent.nid.get(), file_type: dirent.file_type });
    }
    Ok(())
}
