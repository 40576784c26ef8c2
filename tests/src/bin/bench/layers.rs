//! Divides a tree into layers, as tar files.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use osupdate_tests::tool;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

/// Layers of the image.
pub(crate) const NUMBER: usize = 6;
/// Percents of the tree's bytes in each: a large base and smaller layers on it, as images have them.
const SHARES: [u64; NUMBER] = [30, 25, 20, 12, 8, 5];

/// The paths of a layer below the tree, in order, parents included.
#[derive(Debug, Default)]
pub(crate) struct LayerList(BTreeSet<PathBuf>);

struct Entry {
    path: PathBuf,
    kind: FileType,
    bytes: u64,
    /// Device and inode number where there are other names.
    shared: Option<(u64, u64)>,
}

/// Everything in a tree, in the order of paths.
fn entries(tree: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let full = tree.join(&directory);
        for entry in fs::read_dir(&full).with_context(|| format!("reading {}", full.display()))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let metadata = entry.metadata()?;
            let kind = metadata.file_type();
            if kind.is_dir() {
                directories.push(path.clone());
            }
            let shared = (!kind.is_dir() && metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino()));
            entries.push(Entry { path, kind, bytes: if kind.is_file() { metadata.len() } else { 0 }, shared });
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// Number of files and sum of their sizes; a file with several names counts for each.
pub(crate) fn size(tree: &Path) -> Result<(u64, u64)> {
    let entries = entries(tree)?;
    let files = entries.iter().filter(|entry| entry.kind.is_file());
    Ok((files.clone().count() as u64, files.map(|entry| entry.bytes).sum()))
}

/// Divides a tree.
pub(crate) fn split(tree: &Path) -> Result<Vec<LayerList>> {
    let entries = entries(tree)?;
    let total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let mut lists: Vec<LayerList> = (0..NUMBER).map(|_| LayerList::default()).collect();
    let mut linked = HashMap::new();
    let (mut layer, mut bytes, mut limit) = (0, 0, total * SHARES[0] / 100);
    for entry in entries {
        while bytes >= limit && layer + 1 < NUMBER {
            layer += 1;
            limit += total * SHARES[layer] / 100;
        }
        bytes += entry.bytes;
        // All names of a file belong into one layer.
        let its = entry.shared.map_or(layer, |inode| *linked.entry(inode).or_insert(layer));
        lists[its].0.extend(entry.path.ancestors().filter(|path| !path.as_os_str().is_empty()).map(Path::to_path_buf));
    }
    Ok(lists)
}

/// Writes the tar file of each layer into a directory.
pub(crate) fn pack(tree: &Path, lists: &[LayerList], directory: &Path) -> Result<Vec<PathBuf>> {
    lists
        .iter()
        .enumerate()
        .map(|(number, list)| {
            let names: Vec<&[u8]> = list.0.iter().map(|path| path.as_os_str().as_bytes()).collect();
            let names_path = directory.join("names");
            fs::write(&names_path, names.join(&0))?;
            let tar = directory.join(format!("layer-{number}.tar"));
            let mut command = Command::new("tar");
            command.args(["--create", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--numeric-owner"]);
            command.args(["--xattrs", "--xattrs-include=security.capability", "--no-recursion", "--null"]);
            command.arg("--file").arg(&tar).arg("--directory").arg(tree).arg("--files-from").arg(&names_path);
            tool::run(&mut command)?;
            Ok(tar)
        })
        .collect()
}

/// Makes a tree that shares its files with another but for a number of them, some in every layer.
pub(crate) fn change(tree: &Path, changed: &Path, lists: &[LayerList], number: usize) -> Result<()> {
    tool::run(Command::new("cp").args(["--archive", "--link", "--no-target-directory"]).arg(tree).arg(changed))?;
    let mut left = number;
    for (index, list) in lists.iter().enumerate() {
        // Files with other contents are other objects, unless these are small or one of several copies.
        let mut candidates = Vec::new();
        for path in &list.0 {
            let metadata = fs::symlink_metadata(tree.join(path))?;
            // One name in the tree, one in the copy.
            if metadata.is_file() && metadata.len() > 64 && metadata.nlink() == 2 {
                candidates.push(path);
            }
        }
        let wanted = left / (lists.len() - index);
        ensure!(candidates.len() >= wanted && wanted > 0, "layer {index} has too few files to change {wanted} of them");
        for place in 0..wanted {
            change_file(&changed.join(candidates[place * candidates.len() / wanted]))?;
        }
        left -= wanted;
    }
    Ok(())
}

/// Gives a file other contents of the same size, and leaves the other names of it alone.
fn change_file(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path)?;
    let mut contents = fs::read(path)?;
    contents[0] ^= 0xff;
    let mut name = OsStr::new(".changed-").to_owned();
    name.push(path.file_name().unwrap_or_default());
    let new = path.with_file_name(name);
    fs::write(&new, contents)?;
    std::os::unix::fs::chown(&new, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(metadata.mode()))?;
    let time = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    utimensat(CWD, &new, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty())?;
    fs::rename(&new, path)?;
    Ok(())
}
