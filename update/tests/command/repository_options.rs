//! Which repository a command works on, and what it demands of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::docker_registry::have;
use crate::place::{Place, Run};

#[test]
fn a_repository_of_the_user_is_made_and_found_below_home() {
    let place = Place::new();
    let made = place.run_bare(&["repo", "init", "--user", "--unverified", "--digest", "sha256", "--json"]).json();
    let path = place.path().join(".var/lib/composefs");
    assert_eq!((&made["path"], &made["digest"]), (&json!(path), &json!("sha256")));
    assert_eq!(place.run_bare(&["image", "list", "--user"]).done(), "no images\n");
    let message = place.run_bare(&["image", "list", "--user", "--repo", "x"]).failed(2);
    assert!(message.contains("cannot be used with"), "{message}");
}

#[test]
fn demands_on_the_repository_are_enforced() {
    let place = Place::with_repository();
    assert_eq!(place.run(&["image", "list", "--digest", "sha512"]).done(), "no images\n");
    let message = place.run(&["image", "list", "--digest", "sha256"]).failed(1);
    assert_eq!(message, "error: the repository repo has sha512 digests, not sha256\n");
    let message = place.run(&["repo", "fsck", "--require-verity"]).failed(1);
    assert_eq!(
        message,
        "error: the kernel does not verify what is read from the repository repo\n  \
         hint: only a repository that was made without --unverified has fs-verity\n"
    );
}

#[test]
fn the_repository_of_the_system_is_only_there_on_such_systems() {
    let place = Place::new();
    if Path::new("/sysroot").exists() {
        println!("skipped: this is an osupdate system");
        return;
    }
    let message = place.run_bare(&["image", "list", "--system"]).failed(1);
    assert_eq!(
        message,
        "error: this is not an osupdate system: there is no /sysroot\n  \
         hint: name the repository with --repo PATH, or take that of the user with --user\n"
    );
}

#[test]
fn users_other_than_root_read_what_they_may_and_are_told_what_they_may_not() {
    if !have(&["setpriv"]) || !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become somebody else");
        return;
    }
    let place = Place::with_repository();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(place.path());
    // Where the program was built may be closed to others.
    fs::copy(env!("CARGO_BIN_EXE_osupdate"), place.path().join("osupdate")).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "./osupdate"]).args(arguments);
        Run::of(command.current_dir(place.path()).env_clear().env("HOME", "/nonexistent"))
    };
    assert_eq!(
        as_nobody(&["image", "list"]).failed(1),
        "error: there is no repository at /nonexistent/.var/lib/composefs\n  \
         hint: name the repository with --repo PATH, or make one with: osupdate repo init\n"
    );
    let message = as_nobody(&["image", "list", "--repo", "repo"]).failed(1);
    assert!(
        message.starts_with("error: cannot open repo\n") && message.ends_with("hint: run it as root\n"),
        "{message}"
    );
    open(&place.path().join("repo"));
    assert_eq!(as_nobody(&["image", "list", "--repo", "repo"]).done(), "no images\n");
    assert_eq!(
        as_nobody(&["image", "untag", "x", "--repo", "repo"]).failed(1),
        "error: no permission to write to the repository repo\n  \
         hint: run it as root, or work on a repository of your own: --user\n"
    );
}
