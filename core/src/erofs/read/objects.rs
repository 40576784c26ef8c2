//! The objects that an image names, without its tree.

use super::directory::entries;
use super::image::Image;
use super::inode::Inode;
use super::xattrs::OverlayValues;
use super::{Budget, ReadError, ReadProblem};
use crate::digest::Digest;
use crate::erofs::layout::{DataLayout, S_IFDIR, S_IFMT, S_IFREG, SLOT, dirent_type};
use crate::erofs::overlay;

/// What [`objects`](super::objects) finds, and quicker; but of an image that [`read`](super::read) refuses, this may find
/// objects too: it checks that each structure can be read, not that all of them together are what a writer makes. An
/// object that several files share is found several times.
///
/// # Errors
/// What cannot be followed: of an image that is not understood nothing is known.
pub fn find_objects(image: &[u8]) -> Result<Vec<Digest>, ReadError> {
    let image = Image::new(image)?;
    let mut search = Search { image: &image, budget: Budget::new(&image), met: Met::new(&image), found: Vec::new() };
    let at_inode = |nid, problem| ReadError::File { path: format!("inode {nid}"), problem };
    // Directories with the ones that they are in.
    let mut open = vec![(image.root_nid, image.root_nid)];
    search.met.insert(image.root_nid);
    while let Some((nid, parent)) = open.pop() {
        search.directory(nid, parent, &mut open).map_err(|problem| at_inode(nid, problem))?;
    }
    Ok(search.found)
}

struct Search<'a, 'i> {
    image: &'a Image<'i>,
    budget: Budget,
    met: Met,
    found: Vec<Digest>,
}

/// Inodes that were met: a bit for each place where one can be.
struct Met(Vec<u8>);

impl Met {
    fn new(image: &Image<'_>) -> Self {
        Self(vec![0; image.len() / SLOT / 8 + 1])
    }

    /// Whether an inode was not met before; one outside of the image is never met.
    fn insert(&mut self, nid: u64) -> bool {
        let byte = usize::try_from(nid / 8).ok().and_then(|at| self.0.get_mut(at));
        byte.is_none_or(|byte| {
            let before = *byte;
            *byte |= 1 << (nid % 8);
            *byte != before
        })
    }
}

impl Search<'_, '_> {
    fn directory(&mut self, nid: u64, parent: u64, open: &mut Vec<(u64, u64)>) -> Result<(), ReadProblem> {
        let directory = Inode::read(self.image, nid)?;
        if directory.mode & S_IFMT != S_IFDIR {
            return Err(ReadProblem::RootType);
        }
        self.budget.charge_inode(&directory)?;
        for entry in entries(self.image, &directory, parent)? {
            if !self.met.insert(entry.nid) {
                continue;
            }
            let inode = Inode::read(self.image, entry.nid)?;
            if dirent_type(inode.mode) != Some(entry.file_type) {
                return Err(ReadProblem::DirentType { entry: entry.file_type, mode: inode.mode });
            }
            match inode.mode & S_IFMT {
                S_IFDIR => open.push((entry.nid, nid)),
                S_IFREG if inode.layout == DataLayout::Chunks => self.external_file(&inode)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn external_file(&mut self, inode: &Inode) -> Result<(), ReadProblem> {
        self.budget.charge_inode(inode)?;
        let values = OverlayValues::read(self.image, inode, &mut self.budget)?;
        let verified = match values.metacopy {
            Some(value) => overlay::parse_metacopy(value).ok_or(ReadProblem::Metacopy)?,
            None => None,
        };
        let path = values.redirect.and_then(|path| str::from_utf8(path.strip_prefix(b"/")?).ok());
        let read_from = path.and_then(|path| Digest::from_object_path(path).ok());
        self.found.extend(verified);
        self.found.extend(read_from.filter(|object| verified.as_ref() != Some(object)));
        Ok(())
    }
}
