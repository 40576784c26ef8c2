//! The files with trusted keys.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::error::KeyError;
use super::policy::KeySource;

/// Largest file of keys. A distribution's whole keyring has less than 1 MiB.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// Most files in a directory of keys.
const FILES_MAX: usize = 256;

/// Bytes that should be keys.
#[derive(Debug)]
pub(super) struct KeyFile {
    /// The file; `None` if they are in the policy itself.
    pub(super) path: Option<PathBuf>,
    /// The contents.
    pub(super) bytes: Vec<u8>,
}

impl KeyFile {
    /// Where it is, for people.
    pub(super) fn place(&self) -> String {
        place(self.path.as_deref())
    }
}

/// Where a key is, for people.
pub(super) fn place(path: Option<&Path>) -> String {
    path.map_or_else(|| "the policy's keyData".to_owned(), |path| path.display().to_string())
}

impl KeySource {
    /// Where the keys are, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Files(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                paths.join(", ")
            }
            Self::Inline(_) => place(None),
        }
    }

    /// Reads all files. Of a directory those in it, in the order of their names, but not those that begin with a dot.
    pub(super) fn read(&self) -> Result<Vec<KeyFile>, KeyError> {
        let mut files = Vec::new();
        match self {
            Self::Inline(keys) => {
                files.extend(keys.iter().map(|bytes| KeyFile { path: None, bytes: bytes.clone() }));
            }
            Self::Files(paths) => {
                for path in paths {
                    if path.is_dir() {
                        for path in list(path)? {
                            files.push(read(path)?);
                        }
                    } else {
                        files.push(read(path.clone())?);
                    }
                }
            }
        }
        Ok(files)
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, KeyError> {
    let failed = |source| KeyError::Read { path: directory.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if !entry.file_name().as_encoded_bytes().starts_with(b".") && !path.is_dir() {
            paths.push(path);
        }
    }
    if paths.len() > FILES_MAX {
        return Err(KeyError::Size { place: directory.display().to_string(), max: FILES_MAX as u64, unit: "files" });
    }
    paths.sort();
    Ok(paths)
}

fn read(path: PathBuf) -> Result<KeyFile, KeyError> {
    let mut bytes = Vec::new();
    let result = fs::File::open(&path).and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes));
    match result {
        Err(source) => Err(KeyError::Read { path, source }),
        Ok(_) if bytes.len() as u64 > FILE_MAX_BYTES => {
            Err(KeyError::Size { place: path.display().to_string(), max: FILE_MAX_BYTES, unit: "bytes" })
        }
        Ok(_) => Ok(KeyFile { path: Some(path), bytes }),
    }
}
