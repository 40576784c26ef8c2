//! The JSON of every command on images and repositories, pinned: fields may be added, with the fixture and CLI.md, but never
//! renamed, removed or given another type.
//!
//! `json-v1.json` has for every command the types of what it printed here. `?` follows the type of a value that may be null.

use std::fs;
use std::process::Stdio;

use osupdate_efi::authenticode::fake::Authority;
use osupdate_efi::pe::fake::pe;
use serde_json::{Map, Value, json};

use crate::docker_registry::have;
use crate::place::{Place, Run};
use crate::rootfs;

const FIXTURE: &str = include_str!("json-v1.json");

/// Compares a value with its pinned form; what differs is added to `differences`.
fn compare(path: &str, form: &Value, value: &Value, differences: &mut Vec<String>) {
    match (form, value) {
        (Value::Object(fields), Value::Object(values)) => {
            for (name, form) in fields {
                match values.get(name) {
                    Some(value) => compare(&format!("{path}.{name}"), form, value, differences),
                    None => differences.push(format!("{path}.{name} is gone")),
                }
            }
            for name in values.keys().filter(|name| !fields.contains_key(*name)) {
                differences.push(format!("{path}.{name} is not in the fixture"));
            }
        }
        (Value::Array(form), Value::Array(values)) => {
            for value in values {
                compare(&format!("{path}[]"), form.first().unwrap_or(&Value::Null), value, differences);
            }
        }
        (Value::String(form), value) => {
            let found = match value {
                Value::Null if form.ends_with('?') => return,
                Value::Null => "null",
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                // Documents of OCI are theirs.
                Value::Object(_) => "object",
            };
            if form.trim_end_matches('?') != found {
                differences.push(format!("{path} is {found}, not {form}"));
            }
        }
        (form, value) => differences.push(format!("{path} is {value}, not {form}")),
    }
}

/// Runs every command once; its words without arguments, and what it printed.
fn run_all(place: &Place) -> Vec<(&'static str, Value)> {
    let mut seen = Vec::new();
    let mut run = |command: &'static str, arguments: &[&str]| {
        let words: Vec<_> = command.split(' ').chain(arguments.iter().copied()).chain(["--json"]).collect();
        let run = place.run(&words);
        assert!(matches!(run.status, 0 | 3), "{words:?}: {}", run.stderr);
        let value: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(value["version"], 1, "{words:?}");
        seen.push((command, value.clone()));
        value
    };
    run("repo init", &["--unverified"]);
    let pulled = run("image pull", &["oci:image", "--tag", "test", "--bootable"]);
    run("image list", &["--all"]);
    let inspected = run("image inspect", &["test"]);
    run("image push", &["test", "oci:pushed:1"]);
    run("image digest", &["test"]);
    run("image tag", &["test", "other"]);
    run("image untag", &["other"]);
    run("image objects", &["test"]);
    let diff_id = inspected["config"]["rootfs"]["diff_ids"][1].as_str().unwrap().to_owned();
    run("image layer", &[&diff_id]);
    run("repo gc", &["--dry-run"]);
    run("repo why", &["test"]);
    run("repo publish", &["tree-of-images", "test"]);
    let digest = pulled["image_digest"].as_str().unwrap();
    let object = place.path().join(format!("repo/objects/{}/{}", &digest[..2], &digest[2..]));
    fs::copy(&object, place.path().join("image.erofs")).unwrap();
    fs::create_dir_all(place.path().join("tree/usr")).unwrap();
    fs::write(place.path().join("tree/usr/file"), "x").unwrap();
    run("image create", &["./tree", "name"]);
    run("image diff", &["./tree", "test"]);
    run("image lint", &["./tree"]);
    rootfs::make(&place.path().join("rootfs"));
    run("image seal", &["--rootfs", "rootfs", "--output", "uki.efi"]);
    run("image dump", &["./tree"]);
    run("image mkfs", &["./tree", "tree.erofs"]);
    let mut damaged = fs::read(place.path().join("tree.erofs")).unwrap();
    damaged.truncate(4096);
    fs::write(place.path().join("damaged.erofs"), damaged).unwrap();
    run("image fsck", &["./damaged.erofs"]);
    // Findings, for their form.
    fs::remove_file(&object).unwrap();
    fs::write(&object, "damaged").unwrap();
    run("repo fsck", &[]);
    fs::copy(place.path().join("image.erofs"), &object).unwrap();

    let key = Authority::new("db");
    fs::write(place.path().join("os.efi"), key.signer().sign(&pe(&[(".text", b"code")])).unwrap()).unwrap();
    fs::write(place.path().join("db.crt"), key.certificate().der()).unwrap();
    let verified = place.run_bare(&["uki", "verify", "os.efi", "--certificate", "db.crt", "--json"]).json();
    seen.push(("uki verify", verified));
    fs::write(place.path().join("program"), pe(&[(".text", b"code")])).unwrap();
    let line = format!("composefs=?{}", "ab".repeat(32));
    let signatures = r#".pcrsig:{"sha256": [{"pcrs": [11], "pkfp": "", "pol": "", "sig": ""}]}"#;
    let mut build = vec!["uki", "build", "--stub", "program", "--linux", "program", "--output", "built.efi", "--json"];
    build.extend(["--os-release", "NAME=x", "--cmdline", &line, "--section", signatures]);
    seen.push(("uki build", place.run_bare(&build).json()));
    let built = fs::read(place.path().join("built.efi")).unwrap();
    fs::write(place.path().join("built.efi"), key.signer().sign(&built).unwrap()).unwrap();
    let inspected = place.run_bare(&["uki", "inspect", "built.efi", "--pcrs", "--json"]);
    assert_eq!(inspected.status, 3, "the signatures are for something else: {}", inspected.stderr);
    seen.push(("uki inspect", serde_json::from_str(&inspected.stdout).unwrap()));

    drop(place.run_bare(&["repo", "init", "--unverified", "--repo", "other"]).done());
    let copied = place.run_bare(&["repo", "copy", "repo", "test", "--repo", "other", "--json"]).json();
    seen.push(("repo copy", copied));
    let layer = place.command(&["image", "layer", &diff_id, "--repo", "repo"]).output().unwrap();
    fs::write(place.path().join("layer.tar"), layer.stdout).unwrap();
    for (command, argument, input) in
        [("image import", "base", "image.erofs"), ("image import-layer", diff_id.as_str(), "layer.tar")]
    {
        let words: Vec<_> = command.split(' ').chain([argument, "--json", "--repo", "repo"]).collect();
        let file = fs::File::open(place.path().join(input)).unwrap();
        seen.push((command, Run::of(place.command(&words).stdin(Stdio::from(file))).json()));
    }
    seen
}

#[test]
fn forms_are_as_they_were() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let fixture: Map<String, Value> = serde_json::from_str(FIXTURE).unwrap();
    let document = include_str!("../../CLI.md");
    let mut differences = Vec::new();
    for (command, mut value) in run_all(&Place::new()) {
        let Some(form) = fixture.get(command) else {
            differences.push(format!("{command} is not in the fixture"));
            continue;
        };
        value.as_object_mut().unwrap().remove("version");
        compare(command, form, &value, &mut differences);
        for field in form.as_object().unwrap().keys() {
            if !document.contains(&format!("`{field}`")) {
                differences.push(format!("{command}.{field} is not in CLI.md"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn other_forms_are_noticed() {
    let mut differences = Vec::new();
    let form = json!({"a": "string", "b": "number?", "c": ["bool"], "d": "string"});
    let value = json!({"a": null, "b": null, "c": [true, 1], "e": 1});
    compare("x", &form, &value, &mut differences);
    assert_eq!(
        differences,
        ["x.a is null, not string", "x.c[] is number, not bool", "x.d is gone", "x.e is not in the fixture"]
    );
}
