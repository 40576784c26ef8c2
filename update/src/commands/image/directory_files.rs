//! The files of a directory that was scanned.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use osupdate_core::Digest;
use osupdate_core::fsverity::Hasher;
use osupdate_core::repository::{FileError, ObjectError, OpenContent};
use osupdate_core::tree::{Content, Directory, Entry, LeafKind, Tree};

/// Finds files by their digests.
pub(super) struct DirectoryFiles {
    paths: HashMap<Digest, PathBuf>,
}

impl DirectoryFiles {
    /// The files of `directory`, of which a scan has made `tree`.
    pub(super) fn new(directory: &Path, tree: &Tree) -> Self {
        let mut paths = HashMap::new();
        add(tree, &tree.root, directory, &mut paths);
        Self { paths }
    }
}

fn add(tree: &Tree, from: &Directory, path: &Path, paths: &mut HashMap<Digest, PathBuf>) {
    for (name, entry) in &from.entries {
        let path = path.join(OsStr::from_bytes(name));
        match entry {
            Entry::Directory(child) => add(tree, child, &path, paths),
            Entry::Leaf(id) => {
                if let LeafKind::Regular(Content::External { digest: Some(digest), .. }) = &tree.leaf(*id).kind {
                    paths.entry(*digest).or_insert(path);
                }
            }
        }
    }
}

impl OpenContent for DirectoryFiles {
    fn open_content<'a>(&self, content: &'a Content) -> Result<Box<dyn Read + Send + 'a>, ObjectError> {
        let digest = match content {
            Content::Inline(bytes) => return Ok(Box::new(Cursor::new(&bytes[..]))),
            Content::External { digest: Some(digest), .. } => *digest,
            Content::External { digest: None, .. } => return Err(ObjectError::Stub),
        };
        let path = self.paths.get(&digest).ok_or(ObjectError::NotFound { digest })?;
        let file = File::open(path).map_err(|source| FileError { action: "open", path: path.clone(), source })?;
        Ok(Box::new(Unchanged { file, path: path.clone(), digest, hasher: Some(Hasher::new(digest.algorithm())) }))
    }
}

/// A file whose end is an error unless it is the one that was scanned.
struct Unchanged {
    file: File,
    path: PathBuf,
    digest: Digest,
    /// Of what was read; `None` at the end.
    hasher: Option<Hasher>,
}

impl Read for Unchanged {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if read > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..read]);
            }
        } else if !buffer.is_empty()
            && let Some(hasher) = self.hasher.take()
            && hasher.finish() != self.digest
        {
            return Err(io::Error::other(format!("{} changed while the directory was read", self.path.display())));
        }
        Ok(read)
    }
}
