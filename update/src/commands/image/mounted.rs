//! What is mounted within a directory: in a build, the builder's own files and caches.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use osupdate_core::tree::{Directory, Entry, Tree};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Empties the directories of a tree on which something else is mounted, and takes out the files. Returns the files, with
/// absolute paths in the tree; not those in /run, which is always empty.
pub(super) fn leave_out(tree: &mut Tree, root: &Path) -> io::Result<Vec<PathBuf>> {
    let root = root.canonicalize()?;
    let text = match fs::read(MOUNTS) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::debug!("there is no {MOUNTS}, ignoring: what is mounted there is not known");
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for place in text.split(|byte| *byte == b'\n').filter_map(place) {
        let Ok(path) = place.strip_prefix(&root) else { continue };
        if remove(&mut tree.root, path) && !path.starts_with("run") {
            files.push(Path::new("/").join(path));
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// The mount point in a line. Blanks in it are written as `\040`.
fn place(line: &[u8]) -> Option<PathBuf> {
    let mut field = line.split(|byte| *byte == b' ').nth(4)?;
    let mut path = Vec::new();
    while let Some((&first, rest)) = field.split_first() {
        let digits =
            rest.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|digit| matches!(digit, b'0'..=b'7')));
        let escaped = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        path.push(escaped.unwrap_or(first));
        field = if escaped.is_some() { &rest[3..] } else { rest };
    }
    Some(OsString::from_vec(path).into())
}

/// Empties a directory, or removes a file, of which it says true.
fn remove(root: &mut Directory, path: &Path) -> bool {
    let mut directory = root;
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        let name = name.as_bytes();
        if names.peek().is_none() {
            return match directory.entries.get_mut(name) {
                Some(Entry::Directory(child)) => {
                    child.entries.clear();
                    false
                }
                Some(Entry::Leaf(_)) => directory.entries.remove(name).is_some(),
                None => false,
            };
        }
        match directory.entries.get_mut(name) {
            Some(Entry::Directory(child)) => directory = child,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read() {
        let line = b"36 35 98:0 /mnt1 /mnt\\040a/b\\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(place(line), Some(PathBuf::from("/mnt a/b\\c")));
        assert_eq!(place(b"36 35 98:0 / /x\\04 rw"), Some(PathBuf::from("/x\\04")));
        assert_eq!(place(b""), None);
    }
}
