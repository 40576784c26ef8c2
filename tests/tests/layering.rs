//! Dependencies between our crates go one way; a new edge is a decision, made here.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

const ALLOWED: &[(&str, &[&str])] = &[
    ("osupdate-sys", &[]),
    ("osupdate-core", &["osupdate-sys"]),
    ("osupdate-fuse", &["osupdate-core"]),
    ("osupdate-efi", &["osupdate-core"]),
    ("osupdate-record", &[]),
    ("osupdate-deploy", &["osupdate-core", "osupdate-efi", "osupdate-record"]),
    ("osupdate-initramfs", &["osupdate-core", "osupdate-record"]),
    (
        "osupdate",
        &["osupdate-core", "osupdate-deploy", "osupdate-efi", "osupdate-fuse", "osupdate-record", "osupdate-sys"],
    ),
    ("osupdate-tests", &["osupdate-core"]),
    ("osupdate-fuzz", &["osupdate-core", "osupdate-efi"]),
];

/// Crates that have no place in an initramfs.
const NOT_IN_INITRAMFS: &[&str] = &["tokio", "reqwest", "rustls", "hyper", "clap", "indicatif"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo metadata starts");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn names<'a>(values: &'a Value, key: &str) -> Vec<&'a str> {
    values.as_array().expect("an array").iter().map(|value| value[key].as_str().expect("a name")).collect()
}

#[test]
fn our_crates_depend_on_each_other_in_one_direction_only() {
    let metadata = metadata();
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    for package in metadata["packages"].as_array().unwrap() {
        if !members.contains(package["id"].as_str().unwrap()) {
            continue;
        }
        let name = package["name"].as_str().unwrap();
        let (_, allowed) = ALLOWED
            .iter()
            .find(|(crate_name, _)| *crate_name == name)
            .unwrap_or_else(|| panic!("{name} is a new crate: say here what it may depend on"));
        for dependency in names(&package["dependencies"], "name") {
            let ours = ALLOWED.iter().any(|(crate_name, _)| *crate_name == dependency);
            assert!(!ours || allowed.contains(&dependency), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn the_initramfs_has_no_network_and_no_async_runtime() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let id_of = |name: &str| {
        metadata["packages"].as_array().unwrap().iter().find(|p| p["name"] == name).expect("our crate")["id"].clone()
    };
    let mut reached = BTreeSet::new();
    let mut queue = vec![id_of("osupdate-initramfs").as_str().unwrap().to_owned()];
    while let Some(id) = queue.pop() {
        if !reached.insert(id.clone()) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == *id).expect("a node for every package");
        for dependency in node["deps"].as_array().unwrap() {
            let built_in = dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
            if built_in {
                queue.push(dependency["pkg"].as_str().unwrap().to_owned());
            }
        }
    }
    let names: Vec<&str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| reached.contains(package["id"].as_str().unwrap()))
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"osupdate-core"), "the walk found {names:?}");
    for name in NOT_IN_INITRAMFS {
        assert!(!names.contains(name), "the initramfs must not contain {name}");
    }
}
