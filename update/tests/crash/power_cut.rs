//! What a power cut may leave of changes that were not synced. Two extremes, applied to the directory as the program
//! left it: every new name is there but the files are empty; and every new name is gone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::tracer::Call;

/// What is lost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// The data of files that have their names.
    Data,
    /// The names.
    Names,
}

/// What had a name before.
#[derive(Clone)]
enum Before {
    Nothing,
    Symlink(PathBuf),
    File(Vec<u8>),
}

/// What is not known to be on disk after these calls.
#[derive(Default)]
struct Unsynced {
    /// Regular files whose data is not.
    data: Vec<PathBuf>,
    /// Names that are not, with what was there before.
    names: BTreeMap<PathBuf, Before>,
}

impl Unsynced {
    fn after(calls: &[Call]) -> Self {
        let mut unsynced = Self::default();
        // Files without names that were synced before they got one.
        let mut synced = Vec::new();
        for call in calls.iter().filter(|call| call.done) {
            match call.name {
                "syncfs" => unsynced = Self::default(),
                "fsync" | "fdatasync" => {
                    synced.push(call.path.clone());
                    unsynced.data.retain(|path| *path != call.path);
                    // A synced directory keeps its names, nothing more.
                    unsynced.names.retain(|path, _| path.parent() != Some(&call.path));
                }
                "linkat" => {
                    unsynced.names.insert(call.path.clone(), Before::Nothing);
                    if !call.from.as_ref().is_some_and(|from| synced.contains(from)) {
                        unsynced.data.push(call.path.clone());
                    }
                }
                "openat" => {
                    unsynced.names.insert(call.path.clone(), Before::Nothing);
                    unsynced.data.push(call.path.clone());
                }
                "symlinkat" => {
                    unsynced.names.insert(call.path.clone(), Before::Nothing);
                }
                "renameat" => {
                    let from = call.from.clone().unwrap_or_default();
                    unsynced.names.remove(&from);
                    let before = match (&call.replaced, &call.contents) {
                        (Some(target), _) => Before::Symlink(target.clone()),
                        (None, Some(contents)) => Before::File(contents.clone()),
                        (None, None) => Before::Nothing,
                    };
                    unsynced.names.entry(call.path.clone()).or_insert(before);
                    if let Some(data) = unsynced.data.iter_mut().find(|path| **path == from) {
                        *data = call.path.clone();
                    }
                }
                "unlinkat" => {
                    unsynced.names.remove(&call.path);
                    unsynced.data.retain(|path| *path != call.path);
                }
                _ => {}
            }
        }
        unsynced
    }
}

/// Applies the loss to a copy of the directory that the calls were made in.
pub(crate) fn cut(calls: &[Call], below: &Path, copy: &Path, loss: Loss) {
    let unsynced = Unsynced::after(calls);
    let in_copy = |path: &Path| copy.join(path.strip_prefix(below).unwrap());
    match loss {
        Loss::Data => {
            for path in unsynced.data.iter().map(|path| in_copy(path)).filter(|path| path.exists()) {
                fs::write(path, b"").unwrap();
            }
        }
        Loss::Names => {
            for (path, before) in &unsynced.names {
                let path = in_copy(path);
                if path.symlink_metadata().is_err() {
                    continue;
                }
                fs::remove_file(&path).unwrap();
                match before {
                    Before::Nothing => {}
                    Before::Symlink(target) => symlink(target, &path).unwrap(),
                    Before::File(contents) => fs::write(&path, contents).unwrap(),
                }
            }
        }
    }
}
