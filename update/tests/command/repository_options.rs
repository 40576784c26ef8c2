//! Which repository a command works on, and what it demands of it.

use serde_json::json;

use crate::place::Place;

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
    if std::path::Path::new("/sysroot").exists() {
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
