//! The programs that are timed.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use osupdate_tests::images::target;
use osupdate_tests::tool;

/// The command for the digest of a directory.
pub(crate) const DIGEST: [&str; 4] = ["image", "digest", "--quiet", "--hex"];

/// What is there. Repositories are made without fs-verity by all of them, so that file systems and kernels without it will do.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) osupdate: Program,
    /// cfsctl of the series 0.9.
    pub(crate) cfsctl: Option<Program>,
    /// The C tool.
    pub(crate) mkcomposefs: Option<Program>,
    /// Whether this osupdate can tell the digest of a directory.
    pub(crate) digests_directories: bool,
}

#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

impl Program {
    fn probe(path: PathBuf) -> Result<Self> {
        let version = tool::run(Command::new(&path).arg("--version"))?;
        Ok(Self { path, version: version.trim().to_owned() })
    }

    /// The same program under another name, as a symlink in `work`.
    pub(crate) fn named(&self, name: &str, work: &Path) -> Result<Self> {
        let path = work.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => symlink(&self.path, &path)?,
        }
        Ok(Self { path, version: self.version.clone() })
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.path);
        command.args(args);
        command
    }
}

impl Programs {
    /// Finds them; says which are not there.
    pub(crate) fn find(work: &Path) -> Result<Self> {
        let ours = env::var_os("OSUPDATE").map_or_else(|| target().join("release/osupdate"), PathBuf::from);
        let osupdate = Program::probe(ours).context("osupdate is not built: cargo build --release -p osupdate")?;
        let cfsctl = peer("CFSCTL", "cfsctl").map(Program::probe).transpose()?;
        if let Some(cfsctl) = &cfsctl {
            let known = cfsctl.version.starts_with("cfsctl 0.9.");
            ensure!(known, "{} is {}, the options are those of 0.9", cfsctl.path.display(), cfsctl.version);
        }
        // It does not tell its version.
        let version = "mkcomposefs".to_owned();
        let mkcomposefs = peer("MKCOMPOSEFS", "mkcomposefs").map(|path| Program { path, version });
        let empty = work.join("probe");
        fs::create_dir_all(empty.join("usr"))?;
        let digests_directories = tool::run(osupdate.command(DIGEST).arg(&empty)).is_ok();
        if !digests_directories {
            eprintln!("bench: this osupdate cannot tell the digest of a directory: that row is left out");
        }
        Ok(Self { osupdate, cfsctl, mkcomposefs, digests_directories })
    }
}

/// Where a program is that need not be there: named by a variable, or on PATH.
fn peer(variable: &str, name: &str) -> Option<PathBuf> {
    let path = env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from).or_else(|| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
    });
    if path.is_none() {
        eprintln!("bench: {name} is neither on PATH nor named by {variable}: its figures are left out");
    }
    path
}
