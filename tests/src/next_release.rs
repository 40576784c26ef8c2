//! systemd-boot and its stubs as the next release of Debian will have them: newer than those in the images.
//!
//! They come from testing, by the code name that it keeps when it becomes stable: what is there changes, but never back to a
//! version that tests do not know. Tests ask for at least 258, and name no version.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::images::{cache, top};
use crate::tool;

/// The release.
const SUITE: &str = "forky";

/// A directory with `usr/lib/systemd/boot/efi` of that release; fetched once. `None`, said on standard error, if it cannot be had
/// and `OSUPDATE_REQUIRE_TOOLS` is not set.
pub fn get() -> Result<Option<PathBuf>> {
    let directory = cache().join(format!("systemd-boot-{SUITE}"));
    if directory.exists() {
        return Ok(Some(directory));
    }
    let unfinished = directory.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("removing {}", unfinished.display()))?;
    }
    fs::create_dir_all(cache())?;
    let fetched =
        tool::run(Command::new(top().join("tests/unpack")).arg(SUITE).arg(&unfinished).arg("systemd-boot-efi"));
    match fetched {
        Ok(_) => fs::rename(&unfinished, &directory).context("keeping systemd-boot")?,
        Err(error) if std::env::var_os("OSUPDATE_REQUIRE_TOOLS").is_some() => {
            bail!("systemd-boot of Debian {SUITE} cannot be had: {error:#}");
        }
        Err(error) => {
            eprintln!("skipped: systemd-boot of Debian {SUITE} cannot be had: {error:#}");
            return Ok(None);
        }
    }
    Ok(Some(directory))
}
