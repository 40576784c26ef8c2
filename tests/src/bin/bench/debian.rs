//! The real input: a Debian system of about two gigabytes and 31,000 files.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use osupdate_tests::images::top;
use osupdate_tests::tool;
use sha2::{Digest as _, Sha256};

use crate::input::Input;
use crate::say;

/// What is installed on top of the base system of `examples/bls`: a kernel and programs, languages, data of all sizes.
const PACKAGES: &[&str] = &[
    "adwaita-icon-theme",
    "chromium",
    "clang-19",
    "fonts-noto-cjk",
    "git",
    "libreoffice-calc-nogui",
    "linux-image-amd64",
    "postgresql",
    "python3-scipy",
    "vim",
];

/// Raise when the input is made in another way.
const RECIPE: &str = "1";

/// The image, made in the cache if it is not there.
pub(crate) fn input(cache: &Path) -> Result<Input> {
    let base = top().join("examples/bls/base");
    let mut hash = Sha256::new();
    hash.update(RECIPE);
    hash.update(fs::read(&base)?);
    hash.update(PACKAGES.join(" "));
    let key: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let directory = cache.join(format!("debian-{key}"));
    // Kept until all is made of it: it takes longest.
    let tar = cache.join(format!("debian-{key}.tar"));
    let log = cache.join("tree.log");
    let input = Input::get(directory, |tree| {
        if tar.exists() {
            return extract(&tar, tree);
        }
        say(&format!(
            "making the Debian tree, once, in some ten minutes (what is said meanwhile goes to {})",
            log.display()
        ));
        fs::write(&log, "")?;
        let new = cache.join("new.tar");
        tool::run_logged(Command::new(&base).arg(&new).args(PACKAGES), &log)?;
        fs::rename(&new, &tar)?;
        extract(&tar, tree)
    })?;
    if tar.exists() {
        fs::remove_file(&tar)?;
    }
    Ok(input)
}

fn extract(tar: &Path, tree: &Path) -> Result<()> {
    let mut extract = Command::new("tar");
    extract.args(["--extract", "--preserve-permissions", "--numeric-owner", "--xattrs", "--xattrs-include=*"]);
    tool::run(extract.arg("--file").arg(tar).arg("--directory").arg(tree))?;
    Ok(())
}
