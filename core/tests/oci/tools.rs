//! Other programs that tests run.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether these programs are installed; says so if not. With `OSUPDATE_REQUIRE_TOOLS` in the environment, a missing one
/// fails the test.
pub(crate) fn have(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|program| find(program).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(env::var_os("OSUPDATE_REQUIRE_TOOLS").is_none(), "{missing:?} are not installed");
    println!("skipped: {missing:?} are not installed");
    false
}

/// Like [`have`] for a program that distributions do not have: it is not required.
pub(crate) fn have_peer(program: &str) -> bool {
    let found = find(program).is_some();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

fn find(program: &str) -> Option<PathBuf> {
    let is_program =
        |path: &PathBuf| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 1 != 0);
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(is_program)
}

/// Runs a program in a directory; returns what it prints. Fails the test if it fails.
#[track_caller]
pub(crate) fn output(dir: &Path, program: &str, arguments: &[impl AsRef<OsStr>]) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} failed: {message}");
    output.stdout
}
