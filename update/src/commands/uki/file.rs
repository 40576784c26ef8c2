//! Files that UKIs are made of, and those that are made.

use std::convert::Infallible;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

pub(super) use super::sign::{hex, read_program as read};
use crate::cli::Context;

/// Text, or `@` and the path of a file that has it.
#[derive(Clone, Debug)]
pub(super) enum TextOrFile {
    Text(String),
    File(PathBuf),
}

impl FromStr for TextOrFile {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.strip_prefix('@').map_or_else(|| Self::Text(text.to_owned()), |path| Self::File(path.into())))
    }
}

impl TextOrFile {
    /// The contents of the file as they are, or the text.
    pub(super) fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Text(text) => Ok(text.as_bytes().to_vec()),
            Self::File(path) => read(path),
        }
    }
}

/// Reads several files.
pub(super) fn read_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Vec<u8>>> {
    paths.iter().map(|path| read(path)).collect()
}

#[derive(Serialize)]
struct Report<'a> {
    file: &'a Path,
    size_bytes: usize,
    sha256: String,
}

/// Writes what was made; the file is there as a whole or not at all. Tells its SHA-256 and its path.
pub(super) fn write(path: &Path, bytes: &[u8], context: &Context) -> anyhow::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = || format!("cannot write {}", path.display());
    let mut file = tempfile::NamedTempFile::new_in(parent).with_context(cannot)?;
    file.write_all(bytes).with_context(cannot)?;
    let mode = 0o666 & !umask();
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).with_context(cannot)?;
    file.as_file().sync_all().with_context(cannot)?;
    file.persist(path).map_err(|error| error.error).with_context(cannot)?;
    let report = Report { file: path, size_bytes: bytes.len(), sha256: sha256(bytes) };
    context.output.write(&report, |out| writeln!(out, "{}  {}", report.sha256, path.display()))
}

/// What new files of this process do not get.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    mask.as_raw_mode()
}

/// SHA-256, hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
