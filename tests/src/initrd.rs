//! Archives that add files to an initramfs, or replace files in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::tool;

/// Packs these files and directories, named from `root` on, as the kernel unpacks them: a cpio archive in the form `newc`.
pub fn archive(root: &Path, paths: &[PathBuf]) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let archive = directory.path().join("archive.cpio");
    let mut bsdtar = Command::new("bsdtar");
    bsdtar.args(["--format", "newc", "-cf"]).arg(&archive).arg("-C").arg(root).args(paths);
    tool::run(&mut bsdtar)?;
    fs::read(&archive).with_context(|| format!("reading {}", archive.display()))
}
