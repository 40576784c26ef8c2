//! Reading files of an image.

use std::io::{self, Read};

use osupdate_core::repository::{ObjectError, OpenContent};
use osupdate_core::tree::{Content, Entry, LeafKind, Tree};
use thiserror::Error;

use super::walk;

/// Most bytes of a text that are read; the rest is not looked at.
const TEXT_MAX_BYTES: u64 = 4 << 20;

/// Why a file of the image cannot be read.
#[derive(Debug, Error)]
#[error("cannot read {path} of the image")]
pub struct ReadError {
    /// The file.
    pub path: String,
    /// What is wrong.
    pub source: ReadProblem,
}

/// What is wrong with a file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadProblem {
    /// Its contents are not there.
    #[error(transparent)]
    Open(#[from] ObjectError),
    /// They cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// The first `max_bytes` bytes of contents.
pub(super) fn read(
    files: &dyn OpenContent,
    path: &[u8],
    content: &Content,
    max_bytes: u64,
) -> Result<Vec<u8>, ReadError> {
    let failed = |source| ReadError { path: walk::text(path), source };
    let mut bytes = Vec::new();
    let contents = files.open_content(content).map_err(|error| failed(error.into()))?;
    contents.take(max_bytes).read_to_end(&mut bytes).map_err(|error| failed(error.into()))?;
    Ok(bytes)
}

/// The text of a file, symbolic links followed; `None` if there is no such file.
pub(super) fn text(files: &dyn OpenContent, tree: &Tree, path: &str) -> Result<Option<String>, ReadError> {
    let Some(content) = tree.follow_to_file(path) else { return Ok(None) };
    let bytes = read(files, path.as_bytes(), content, TEXT_MAX_BYTES)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The texts of the files of these directories whose names end with `suffix`. Of files with one name, the one in the
/// directory that comes first counts, as everywhere in systemd.
pub(super) fn drop_ins(
    files: &dyn OpenContent,
    tree: &Tree,
    directories: &[&str],
    suffix: &str,
) -> Result<Vec<String>, ReadError> {
    let mut found = std::collections::BTreeMap::new();
    for directory in directories {
        let Some(entries) = tree.directory(directory).map(|directory| &directory.entries) else { continue };
        for (name, entry) in entries.iter().filter(|(name, _)| name.ends_with(suffix.as_bytes())) {
            let path = [directory.as_bytes(), name].join(&b'/');
            if found.contains_key(name) {
                continue;
            }
            let text = match entry {
                Entry::Leaf(id) => match &tree.leaf(*id).kind {
                    LeafKind::Regular(content) => read(files, &path, content, TEXT_MAX_BYTES)?,
                    // What is linked to /dev/null is switched off.
                    LeafKind::Symlink(_) => {
                        let path = std::str::from_utf8(&path).unwrap_or_default();
                        text(files, tree, path)?.unwrap_or_default().into_bytes()
                    }
                    _ => continue,
                },
                Entry::Directory(_) => continue,
            };
            found.insert(name, String::from_utf8_lossy(&text).into_owned());
        }
    }
    Ok(found.into_values().collect())
}
