//! The same image by every way that it can come here, as skopeo, buildah and podman write it; and archives that lie.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::docker_registry::have;
use crate::layout::{Layout, gzip, sha256, tar};
use crate::place::{Place, Run};

/// A store of containers in a directory of its own.
fn store(place: &Place) -> std::path::PathBuf {
    let path = place.path().join("storage.conf");
    let [root, run] = ["store", "store-run"].map(|name| place.path().join(name));
    let text = format!("[storage]\ndriver = \"vfs\"\ngraphroot = {root:?}\nrunroot = {run:?}\n");
    fs::write(&path, text).unwrap();
    path
}

/// Runs one of the container tools on that store; returns what it prints.
#[track_caller]
fn tool(place: &Place, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(place.path()).env("CONTAINERS_STORAGE_CONF", store(place));
    command.env("STORAGE_DRIVER", "vfs").env("BUILDAH_ISOLATION", "chroot").env("TMPDIR", place.path());
    Run::of(&mut command).done()
}

#[track_caller]
fn skopeo(place: &Place, arguments: &[&str]) {
    drop(tool(place, "skopeo", &[&["--insecure-policy"], arguments].concat()));
}

/// Pulls an image into a repository of its own; returns what the program says of it.
#[track_caller]
fn pull(place: &Place, reference: &str) -> Value {
    let name = format!("repo-{}", sha256(reference.as_bytes()).trim_start_matches("sha256:"));
    drop(place.run_bare(&["repo", "init", "--unverified", "--repo", &name]).done());
    let arguments = ["image", "pull", "--bootable", "--json", "--repo", &name, reference];
    let pulled = place.run_with(&arguments, &[("CONTAINERS_STORAGE_CONF", &store(place))]).json();
    drop(place.run_bare(&["repo", "fsck", "--repo", &name]).done());
    pulled
}

#[test]
fn the_same_image_by_every_transport_has_the_same_boot_digest() {
    if !have(&["tar", "gzip", "skopeo"]) {
        return;
    }
    let place = Place::new();
    let original = pull(&place, "oci:image:1");
    let copies: [(&[&str], &str, &[&str]); 5] = [
        (&[], "oci-archive:oci.tar:v1", &["oci-archive:oci.tar", "oci-archive:oci.tar:v1", "oci.tar", "./oci.tar:v1"]),
        (&["--dest-oci-accept-uncompressed-layers"], "oci-archive:plain.tar", &["plain.tar"]),
        (
            &[],
            "docker-archive:docker.tar:localhost/os:1",
            &["docker-archive:docker.tar", "docker-archive:docker.tar:localhost/os:1", "docker.tar"],
        ),
        (&["--dest-compress-format=zstd"], "dir:directory", &["dir:directory"]),
        (&[], "containers-storage:localhost/os:1", &["containers-storage:localhost/os:1"]),
    ];
    for (options, destination, references) in copies {
        skopeo(&place, &[&["copy", "-q"], options, &["oci:image:1", destination]].concat());
        for reference in references {
            let pulled = pull(&place, reference);
            assert_eq!(pulled["boot_image_digest"], original["boot_image_digest"], "{reference}");
            // Where the manifest is kept, it is the same image by all its digests.
            if !reference.contains("docker") && !reference.contains("plain") && !reference.starts_with("dir:") {
                assert_eq!(pulled["manifest_digest"], original["manifest_digest"], "{reference}");
            }
        }
    }
    // The commands that look at images take them, too.
    let digest = |image: &str| place.run(&["image", "digest", "--bootable", "--hex", image]).done();
    let expected = format!("{}\n", original["boot_image_digest"].as_str().unwrap());
    for image in ["./oci.tar", "docker.tar", "dir:directory", "oci-archive:oci.tar:v1", "./docker.tar:localhost/os:1"] {
        assert_eq!(digest(image), expected, "{image}");
    }
    drop(place.run(&["image", "diff", "oci.tar", "docker-archive:docker.tar"]).done());
    let dump = place.run(&["image", "dump", "./docker.tar", "/usr/lib/os-release"]).done();
    assert!(dump.starts_with("/usr/lib/os-release "), "{dump}");
}

#[test]
fn images_that_buildah_and_podman_have_made_are_pulled() {
    if !have(&["tar", "gzip", "buildah"]) {
        return;
    }
    let place = Place::new();
    fs::write(place.path().join("Containerfile"), "FROM scratch\nCOPY image /usr/share/image\nLABEL a=b\n").unwrap();
    // It is not asked for: its package brings a network configuration that buildah heeds, too.
    let has_podman = Path::new("/usr/bin/podman").exists();
    if !has_podman {
        println!("skipped in part: podman is not installed");
    }
    let pushed = |reference: &str| tool(&place, "buildah", &["push", "-q", "localhost/built:1", reference]);
    drop(tool(&place, "buildah", &["build", "-q", "--layers", "--tag", "localhost/built:1", "."]));
    drop(pushed("oci-archive:built-oci.tar:1"));
    drop(pushed("docker-archive:built-docker.tar:localhost/built:1"));
    let mut references =
        vec!["containers-storage:localhost/built:1", "built-oci.tar", "built-docker.tar:localhost/built:1"];
    if has_podman {
        for (format, file) in [("docker-archive", "saved-docker.tar"), ("oci-archive", "saved-oci.tar")] {
            drop(tool(&place, "podman", &["save", "-q", "--format", format, "--output", file, "localhost/built:1"]));
        }
        references.extend(["saved-docker.tar", "saved-oci.tar"]);
    }
    let digests: Vec<String> = references
        .iter()
        .map(|reference| {
            let arguments = ["image", "digest", "--hex", "--source", reference];
            place.run_with(&arguments, &[("CONTAINERS_STORAGE_CONF", &store(&place))]).done()
        })
        .collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?} of {references:?}");
}

#[test]
fn a_repository_is_repaired_from_an_archive() {
    if !have(&["tar", "gzip", "skopeo"]) {
        return;
    }
    let place = Place::with_repository();
    skopeo(&place, &["copy", "-q", "oci:image:1", "docker-archive:docker.tar:os:1"]);
    drop(place.run(&["image", "pull", "docker.tar"]).done());
    let objects = place.run(&["image", "objects", "docker.tar", "--json"]);
    let objects = objects.json()["objects"].clone();
    let victim = objects[0].as_str().unwrap();
    fs::remove_file(place.path().join(format!("repo/objects/{}/{}", &victim[..2], &victim[2..]))).unwrap();
    assert_eq!(place.run(&["repo", "fsck"]).status, 3);
    let said = place.run(&["repo", "fsck", "--repair", "./docker.tar"]).done();
    assert!(said.contains("nothing is wrong now"), "{said}");
}

/// Writes an archive of a directory's files.
fn archive(place: &Place, name: &str, files: &[(&str, &[u8])]) {
    fs::write(place.path().join(name), tar(files)).unwrap();
}

#[test]
fn what_is_no_image_archive_is_told_what_it_is() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    archive(&place, "files.tar", &[("etc/passwd", b"")]);
    fs::write(place.path().join("files.tar.gz"), gzip(&tar(&[("oci-layout", b"{}")]))).unwrap();
    fs::write(place.path().join("text.tar"), "no archive at all, but long enough to be a header".repeat(20)).unwrap();
    fs::create_dir(place.path().join("empty")).unwrap();
    let says = |reference: &str| place.run(&["image", "pull", reference]).failed(1);
    for (reference, expected) in [
        ("oci:missing", "missing, and an OCI image layout is one: with oci-layout"),
        ("oci:files.tar", "files.tar is a file, and an OCI image layout is a directory; oci-archive:"),
        ("oci:empty", "empty is not an OCI image layout, there is no oci-layout file in it"),
        ("missing.tar", "there is no file"),
        ("./empty", "empty is not a regular file, expected the tar archive of an image"),
        ("files.tar", "it has neither the file oci-layout nor the file manifest.json"),
        ("oci-archive:files.tar", "it has no file oci-layout"),
        ("docker-archive:files.tar", "it has no file manifest.json"),
        ("./files.tar.gz", "gzip --decompress --keep"),
        ("text.tar", "it is not a good tar archive"),
        ("dir:empty", "empty is not the directory of an image, there is no manifest.json in it"),
        ("dir:missing", "missing is not the directory of an image"),
    ] {
        let said = says(reference);
        assert!(said.contains(expected), "{reference}: {said}");
    }
    let usage = place.run(&["image", "pull", "sif:x"]).failed(2);
    assert!(usage.contains("containers-storage:"), "{usage}");
}

#[test]
fn without_skopeo_the_package_is_named() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let said = place.run_with(&["image", "pull", "docker-daemon:os:1"], &[("PATH", Path::new("/nowhere"))]).failed(1);
    assert!(said.contains("skopeo is not installed"), "{said}");
    assert!(said.contains("hint: install the package skopeo"), "{said}");
}

#[test]
fn an_image_that_the_store_does_not_have_is_named() {
    if !have(&["tar", "gzip", "skopeo"]) {
        return;
    }
    let place = Place::with_repository();
    let arguments = ["image", "pull", "containers-storage:localhost/nothing:1"];
    let said = place.run_with(&arguments, &[("CONTAINERS_STORAGE_CONF", &store(&place))]).failed(1);
    assert!(said.contains("skopeo cannot open containers-storage:localhost/nothing:1"), "{said}");
}

#[test]
fn a_store_with_another_file_than_the_image_is_refused() {
    if !have(&["tar", "gzip", "skopeo"]) {
        return;
    }
    let place = Place::with_repository();
    skopeo(&place, &["copy", "-q", "oci:image:1", "containers-storage:localhost/os:1"]);
    let layers = fs::read_dir(place.path().join("store/vfs/dir")).unwrap();
    let changed = layers
        .map(|layer| layer.unwrap().path().join("usr/lib/os-release"))
        .filter(|file| file.exists())
        .map(|file| fs::write(file, b"ID=evil\n").unwrap());
    assert!(changed.count() > 0, "no layer has the file");
    let arguments = ["image", "pull", "containers-storage:localhost/os:1"];
    let said = place.run_with(&arguments, &[("CONTAINERS_STORAGE_CONF", &store(&place))]).failed(1);
    assert!(said.contains("cannot import layer"), "{said}");
    assert_eq!(place.run(&["image", "list", "--json"]).json()["images"], json!([]));
    drop(place.run(&["repo", "fsck"]).done());
}

/// An archive as `docker save` writes it, with one layer of these files.
fn saved(layers: &[(&str, &[u8])], diff_ids: &[String], tags: &Value) -> Vec<(String, Vec<u8>)> {
    let config = json!({
        "architecture": osupdate_core::oci::Platform::host().architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let names: Vec<&str> = layers.iter().map(|(name, _)| *name).collect();
    let list = json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]);
    let mut files = vec![
        ("config.json".to_owned(), config.to_string().into_bytes()),
        ("manifest.json".to_owned(), list.to_string().into_bytes()),
    ];
    files.extend(layers.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())));
    files
}

fn write_saved(place: &Place, name: &str, files: &[(String, Vec<u8>)]) {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    archive(place, name, &files);
}

#[test]
fn layers_of_a_docker_archive_are_verified_compressed_or_not() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let layer = tar(&[("usr/lib/os-release", b"ID=test\n"), ("usr/large", &[7; 3000])]);
    let diff_ids = [sha256(&layer)];
    let pull = |name: &str| place.run(&["image", "pull", "--json", name]);
    write_saved(&place, "plain.tar", &saved(&[("l/layer.tar", &layer)], &diff_ids, &json!(["os:1"])));
    write_saved(&place, "zipped.tar", &saved(&[("l.tar.gz", &gzip(&layer))], &diff_ids, &Value::Null));
    let plain = pull("plain.tar").json();
    assert_eq!(pull("zipped.tar").json()["image_digest"], plain["image_digest"]);
    assert_eq!(pull("./plain.tar:os:1").json()["manifest_digest"], plain["manifest_digest"]);
    let said = pull("./plain.tar:os:2").failed(1);
    assert!(said.contains("there is no image \"os:2\" in") && said.contains("it has os:1"), "{said}");

    // The same layer by two names, one of them a link, as older versions of Docker write it.
    let twice = saved(
        &[("l.tar.gz", &gzip(&layer)), ("m/l.tar.gz", b"")],
        &[diff_ids.clone(), diff_ids.clone()].concat(),
        &Value::Null,
    );
    let directory = place.path().join("twice");
    fs::create_dir_all(directory.join("m")).unwrap();
    for (name, bytes) in &twice[..3] {
        fs::write(directory.join(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink("../l.tar.gz", directory.join("m/l.tar.gz")).unwrap();
    let made = Command::new("tar")
        .args(["--create", "--file=twice.tar", "--directory=twice", "."])
        .current_dir(place.path())
        .status();
    assert!(made.unwrap().success());
    assert_eq!(pull("twice.tar").json()["image_digest"], plain["image_digest"]);

    let other = [sha256(b"another layer")];
    write_saved(&place, "lie.tar", &saved(&[("layer", &layer)], &other, &Value::Null));
    let said = pull("lie.tar").failed(1);
    assert!(said.contains("cannot import layer"), "{said}");
    write_saved(&place, "few.tar", &saved(&[], &other, &Value::Null));
    let said = pull("few.tar").failed(1);
    assert!(said.contains("the manifest has 0 layers, its configuration describes 1"), "{said}");
    let mut missing = saved(&[("layer", &layer)], &diff_ids, &Value::Null);
    missing.truncate(2);
    write_saved(&place, "missing.tar", &missing);
    let said = pull("missing.tar").failed(1);
    assert!(said.contains("there is no layer in the archive"), "{said}");
    drop(place.run(&["repo", "fsck"]).done());
}

#[test]
fn archives_that_lie_are_refused() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let mut layout = Layout::create(&place.path().join("other"));
    let files: &[(&str, &[u8])] = &[("usr/lib/os-release", b"ID=other\n")];
    let image = layout.image(&osupdate_core::oci::Platform::host().architecture, &[files]);
    layout.tag("1", &image);
    let tar = |arguments: &[&str]| {
        let status = Command::new("tar").args(arguments).current_dir(place.path()).status().unwrap();
        assert!(status.success());
    };
    // Two lists of images: which one counts, no two readers would agree on.
    tar(&["--create", "--file=twice.tar", "--directory=image", "."]);
    tar(&["--append", "--file=twice.tar", "--directory=other", "./index.json"]);
    let said = place.run(&["image", "pull", "twice.tar"]).failed(1);
    assert!(said.contains("it is in the archive more than once"), "{said}");
    // Files outside of the archive are never read.
    fs::create_dir(place.path().join("links")).unwrap();
    std::os::unix::fs::symlink(place.path().join("image/oci-layout"), place.path().join("links/oci-layout")).unwrap();
    tar(&["--create", "--file=links.tar", "--directory=links", "."]);
    let said = place.run(&["image", "pull", "links.tar"]).failed(1);
    assert!(said.contains("it has neither"), "{said}");
    // Cut anywhere, it is refused, and nothing is left that is wrong.
    tar(&["--create", "--file=whole.tar", "--directory=image", "."]);
    let whole = fs::read(place.path().join("whole.tar")).unwrap();
    for at in (0..9).map(|part| whole.len() / 16 * part) {
        fs::write(place.path().join("cut.tar"), &whole[..at]).unwrap();
        let said = place.run(&["image", "pull", "cut.tar"]).failed(1);
        assert!(said.contains("cut.tar"), "{said}");
    }
    // So is one of whose blobs a byte is another.
    for at in (1024..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(place.path().join("damaged.tar"), &damaged).unwrap();
        let run = place.run(&["image", "pull", "damaged.tar"]);
        if run.status != 0 {
            assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{}", run.stderr);
        }
    }
    drop(place.run(&["repo", "fsck"]).done());
}
