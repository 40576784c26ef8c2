//! `upgrade --if-unmetered`, with a NetworkManager that says what a test wants.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::place::{Place, Run};

/// Runs `osupdate upgrade --if-unmetered` where `busctl` does this.
fn upgrade(busctl: &str, further: &[&str]) -> Run {
    let place = Place::new();
    let programs = place.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let path = programs.join("busctl");
    fs::write(&path, format!("#!/bin/sh\n{busctl}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = [&["upgrade", "--if-unmetered"], further].concat();
    place.run_with(&arguments, &[("PATH", &programs)])
}

#[test]
fn nothing_is_done_over_a_metered_connection() {
    for answer in ["u 1", "u 3"] {
        let said = upgrade(&format!("echo '{answer}'"), &[]).done();
        assert_eq!(said, "Nothing is done: the network connection is metered.\n");
    }
    let json = upgrade("echo 'u 1'", &["--json"]).json();
    assert_eq!(json, json!({"version": 1, "state": "metered", "reboot_needed": false}));
}

#[test]
fn any_other_connection_is_used_and_so_is_one_that_nobody_knows_anything_of() {
    for busctl in ["echo 'u 0'", "echo 'u 4'", "echo 'no such name' >&2; exit 1"] {
        let said = upgrade(busctl, &[]).failed(1);
        // It went on, and this is no system that could be upgraded.
        assert!(!said.contains("metered") && said.contains("error: "), "{said}");
    }
}
