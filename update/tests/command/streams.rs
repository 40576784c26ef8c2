//! Streams and layers: printed, counted, imported.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use osupdate_core::oci::Platform;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::docker_registry::have;
use crate::layout::Layout;
use crate::place::{Place, Run};

/// Runs `osupdate` with this standard input; the bytes it prints need not be text.
fn pipe(place: &Place, arguments: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
    let mut command = place.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.args(["--repo", "repo"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The program need not read all of it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    (output.status.code().unwrap(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A place with an image that was pulled as `test`, and its diff_ids.
fn place() -> (Place, Vec<String>) {
    let place = Place::with_repository();
    drop(place.run(&["image", "pull", "oci:image", "--tag", "test"]).done());
    let inspected = place.run(&["image", "inspect", "test", "--json"]).json();
    let diff_ids = inspected["config"]["rootfs"]["diff_ids"].as_array().unwrap();
    let diff_ids = diff_ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    (place, diff_ids)
}

#[test]
fn a_layer_is_restored_bit_for_bit_and_counted() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let (place, diff_ids) = place();
    for diff_id in &diff_ids {
        let (status, tar, stderr) = pipe(&place, &["image", "layer", diff_id], b"");
        assert_eq!((status, stderr.as_str(), &digest(&tar)), (0, "", diff_id));
        let name = format!("oci-layer-{diff_id}");
        let (status, cat, _) = pipe(&place, &["repo", "cat", &name], b"");
        assert!((status, &cat) == (0, &tar));
        let facts = place.run(&["image", "layer", diff_id, "--json"]).json();
        assert_eq!(facts["size_bytes"], json!(tar.len()));
        let archive = place.path().join("layer.tar");
        fs::write(&archive, &tar).unwrap();
        let listed = Run::of(Command::new("tar").arg("--list").arg("--file").arg(&archive)).done();
        assert_eq!(facts["entries"], json!(listed.lines().count()));
    }
    // The large file is all of the second layer that is not in its stream.
    let facts = place.run(&["image", "layer", &diff_ids[1], "--json"]).json();
    assert_eq!((&facts["external_objects"], &facts["external_bytes"]), (&json!(1), &json!(10_000)));
    let dump = place.run(&["image", "layer", &diff_ids[1], "--dumpfile"]).done();
    assert!(dump.contains("\n/usr/share/large 10000 100644 1 0 0 0 0.0 "), "{dump}");
}

#[test]
fn whiteouts_of_a_layer_are_shown_in_its_dumpfile() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let mut layout = Layout::create(&place.path().join("removing"));
    let layers: [&[(&str, &[u8])]; 2] = [&[("usr/a", b"a"), ("usr/b", b"b")], &[("usr/.wh.a", b""), ("usr/c", b"c")]];
    let image = layout.image(&Platform::host().architecture, &layers);
    layout.tag("1", &image);
    drop(place.run(&["image", "pull", "oci:removing", "--tag", "test"]).done());
    let inspected = place.run(&["image", "inspect", "test", "--json"]).json();
    let diff_id = inspected["config"]["rootfs"]["diff_ids"][1].as_str().unwrap();
    let dump = place.run(&["image", "layer", diff_id, "--dumpfile"]).done();
    let names: Vec<_> = dump.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["/", "/usr", "/usr/.wh.a", "/usr/c"]);
}

#[test]
fn a_damaged_layer_is_not_passed_off_as_good() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let (place, diff_ids) = place();
    let large = [7; 10_000];
    let object = walk(&place.path().join("repo/objects")).into_iter().find(|path| fs::read(path).unwrap() == large);
    let object = object.unwrap();
    fs::remove_file(&object).unwrap();
    fs::write(&object, [8; 10_000]).unwrap();
    let (status, _, stderr) = pipe(&place, &["image", "layer", &diff_ids[1]], b"");
    assert_eq!(status, 1);
    assert!(stderr.starts_with("error: "), "{stderr}");
    let message = place.run(&["image", "layer", &digest(b"no layer")]).failed(1);
    assert!(message.contains("there is no layer") && message.contains("hint: the diff_ids"), "{message}");
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_layer_is_imported_only_under_its_own_digest() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let (place, diff_ids) = place();
    let (_, tar, _) = pipe(&place, &["image", "layer", &diff_ids[1]], b"");
    drop(Run::of(Command::new("rm").args(["-r", "repo"]).current_dir(place.path())).done());
    drop(place.run(&["repo", "init", "--unverified"]).done());

    let (status, _, stderr) = pipe(&place, &["image", "import-layer", &diff_ids[0]], &tar);
    assert_eq!(status, 1);
    assert!(
        stderr.contains(&format!("error: the archive has the digest {}, not {}", diff_ids[1], diff_ids[0])),
        "{stderr}"
    );
    let (status, _, stderr) = pipe(&place, &["image", "import-layer", &diff_ids[1]], b"\x1f\x8b not a tar archive");
    assert_eq!(status, 1);
    assert!(stderr.contains("hint: a compressed archive must be unpacked"), "{stderr}");
    assert!(!place.path().join("repo/streams").exists());

    let arguments = ["image", "import-layer", &diff_ids[1], "--ref", "base/layer", "--json"];
    let (status, report, stderr) = pipe(&place, &arguments, &tar);
    assert_eq!(status, 0, "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!((&report["diff_id"], &report["ref"]), (&json!(diff_ids[1]), &json!("base/layer")));
    drop(place.run(&["repo", "gc"]).done());
    let (_, again, _) = pipe(&place, &["repo", "cat", "refs/base/layer"], b"");
    assert!(again == tar);
    // A pull takes it as it is.
    let pulled = place.run(&["image", "pull", "oci:image", "--progress", "plain"]);
    assert_eq!(pulled.stderr.matches("already here").count(), 1, "{}", pulled.stderr);
}

#[test]
fn documents_are_printed_byte_by_byte() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let (place, _) = place();
    let inspected = place.run(&["image", "inspect", "test", "--json"]).json();
    for (option, field, prefix) in
        [("--manifest", "manifest_digest", "oci-manifest-"), ("--config", "config_digest", "oci-config-")]
    {
        let of_document = inspected[field].as_str().unwrap();
        let (status, document, _) = pipe(&place, &["image", "inspect", "test", option], b"");
        assert_eq!((status, digest(&document).as_str()), (0, of_document));
        let (status, cat, _) = pipe(&place, &["repo", "cat", &format!("{prefix}{of_document}")], b"");
        assert!((status, cat) == (0, document));
    }
    let message = place.run(&["repo", "cat", "oci-config-sha256:00"]).failed(1);
    assert!(message.starts_with("error: there is no stream \"oci-config-sha256:00\""), "{message}");
    let message = place.run(&["image", "inspect", "test", "--config", "--manifest"]).failed(2);
    assert!(message.contains("cannot be used with"), "{message}");
}

#[test]
fn an_image_made_elsewhere_is_imported_if_its_objects_are_here() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let (place, _) = place();
    let pulled = place.run(&["image", "inspect", "test", "--json"]).json();
    let image = pulled["image_digest"].as_str().unwrap();
    let path = place.path().join(format!("repo/objects/{}/{}", &image[..2], &image[2..]));
    let erofs = fs::read(path).unwrap();
    let (status, report, stderr) = pipe(&place, &["image", "import", "my/base", "--json"], &erofs);
    assert_eq!(status, 0, "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!((&report["ref"], &report["image_digest"]), (&json!("my/base"), &json!(image)));
    let objects = place.run(&["image", "objects", "refs/my/base"]).done();
    assert_eq!(objects, place.run(&["image", "objects", "test"]).done());
    assert_eq!(objects.lines().count(), 1, "{objects}");
    // The ref keeps it without the tag.
    drop(place.run(&["image", "untag", "test"]).done());
    drop(place.run(&["repo", "gc"]).done());
    assert_eq!(place.run(&["image", "objects", "refs/my/base"]).done(), objects);

    for (input, part) in [(&b"nonsense"[..], "not a composefs image"), (b"", "not a composefs image")] {
        let (status, _, stderr) = pipe(&place, &["image", "import", "bad"], input);
        assert_eq!(status, 1);
        assert!(stderr.contains(part), "{stderr}");
    }
    drop(place.run_bare(&["repo", "init", "--unverified", "--repo", "other"]).done());
    let mut command = place.command(&["image", "import", "bad", "--repo", "other"]);
    command.stdin(fs::File::open(place.path().join(format!("repo/objects/{}/{}", &image[..2], &image[2..]))).unwrap());
    let message = Run::of(&mut command).failed(1);
    assert!(message.contains("the repository does not have 1 of the image's objects"), "{message}");
    assert!(message.contains("hint: store the files first"), "{message}");
}

#[test]
fn a_held_repository_is_not_collected() {
    let place = Place::with_repository();
    let program = env!("CARGO_BIN_EXE_osupdate");
    let collect = [program, "repo", "gc", "--repo", "repo", "--lock-timeout", "0"];
    let run = place.run(&[&["repo", "hold", "--repo", "repo"], &collect[..]].concat());
    assert_eq!(run.status, 1);
    assert!(run.stderr.contains("is in use by process"), "{}", run.stderr);
    assert!(run.stderr.contains("failed with exit status: 1"), "{}", run.stderr);
    // Others may read and write.
    let listed = place.run(&["repo", "hold", "--repo", "repo", program, "image", "list", "--repo", "repo"]).done();
    assert_eq!(listed, "no images\n");
    assert!(place.run(&["repo", "hold", "--repo", "repo", "no-such-program"]).failed(1).contains("cannot run no-such"));
}
