//! The program as users and scripts meet it: exit statuses, messages, JSON.

use std::fs;
use std::process::Command;

use osupdate_core::oci::Platform;
use serde_json::{Value, json};

use crate::docker_registry::{DockerRegistry, have, have_registry};
use crate::place::Place;

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let place = Place::new();
    for (arguments, part) in [
        (&["image", "pull"][..], "<REFERENCE>"),
        (&["image", "pull", "debian:13"], "has no registry host"),
        (&["image", "pull", "ostree:x"], "transport \"ostree\" is not supported"),
        (&["image", "digest"], "<IMAGE|--source <REFERENCE>|--rootfs <DIRECTORY>>"),
        (&["image", "digest", "x", "--source", "oci:x"], "cannot be used with"),
        (&["repo", "nonsense"], "unrecognized subcommand"),
    ] {
        let message = place.run(arguments).failed(2);
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
}

#[test]
fn a_repository_that_is_not_there_is_named_with_the_command_that_makes_it() {
    let place = Place::new();
    for arguments in [&["image", "list"][..], &["image", "pull", "oci:image"], &["repo", "fsck"]] {
        let message = place.run(arguments).failed(1);
        assert_eq!(
            message,
            "error: there is no repository at repo\n  hint: make one with: osupdate repo init --repo repo\n"
        );
    }
}

#[test]
fn making_a_repository_twice_is_no_error_but_of_another_kind_is() {
    let place = Place::with_repository();
    let again = place.run(&["repo", "init", "--unverified", "--json"]).json();
    assert_eq!(again, json!({"version": 1, "path": "repo", "digest": "sha512", "verified": false, "created": false}));
    let message = place.run(&["repo", "init", "--unverified", "--digest", "sha256"]).failed(1);
    assert!(message.starts_with("error: repo is already a repository with sha512"), "{message}");
}

#[test]
fn an_image_is_pulled_listed_inspected_and_untagged() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let tag = format!("oci:{}/image", place.path().display());
    let pulled = place.run(&["image", "pull", "oci:image", "--bootable", "--json"]).json();
    let mut fields: Vec<_> = pulled.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let summary =
        ["architecture", "boot_image_digest", "config_digest", "image_digest", "image_version", "manifest_digest"];
    assert_eq!(fields, [&summary[..], &["reference", "signatures", "tag", "version"]].concat());
    assert_eq!((&pulled["tag"], &pulled["image_version"]), (&json!(tag), &json!("1.2.3")));
    assert_ne!(pulled["image_digest"], pulled["boot_image_digest"]);

    let again = place.run(&["image", "pull", "oci:image", "--progress", "plain"]);
    assert_eq!(again.stderr.matches("already here").count(), 2, "{}", again.stderr);
    assert!(again.done().contains("boot image"));

    let listed = place.run(&["image", "list", "--json"]).json();
    assert_eq!(
        listed["images"],
        json!([{
            "tag": tag,
            "manifest_digest": pulled["manifest_digest"],
            "readable": true,
            "bootable": true,
            "image_version": "1.2.3",
            "architecture": Platform::host().architecture,
            "layers": 2,
            "created": null,
            "artifact_type": null,
            "referrers": 0,
        }])
    );
    for name in ["oci:image", &tag, pulled["manifest_digest"].as_str().unwrap()] {
        let inspected = place.run(&["image", "inspect", name, "--json"]).json();
        for field in summary {
            assert_eq!(inspected[field], pulled[field]);
        }
        assert_eq!(inspected["config"]["os"], "linux");
        assert_eq!(inspected["manifest"]["layers"].as_array().unwrap().len(), 2);
    }

    assert!(place.run(&["image", "tag", "oci:image", "os"]).done().ends_with(" is now os\n"));
    assert_eq!(place.run(&["image", "untag", "oci:image"]).done(), format!("removed tag {tag}\n"));
    let message = place.run(&["image", "untag", "oci:image"]).failed(1);
    assert!(message.starts_with("error: there is no tag \"oci:image\""), "{message}");
    let message = place.run(&["image", "inspect", "so"]).failed(1);
    assert_eq!(message, "error: there is no image \"so\" in the repository\n  hint: there are: os\n");
}

#[test]
fn digests_are_the_same_whether_stored_or_not() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let pulled = place.run(&["image", "pull", "oci:image", "--bootable", "--json"]).json();
    let boot = pulled["boot_image_digest"].as_str().unwrap();
    let stored = place.run(&["image", "digest", "oci:image", "--json"]).json();
    let fetched = place.run(&["image", "digest", "--source", "oci:image", "--json"]).json();
    assert_eq!(stored, fetched);
    assert_eq!(
        stored,
        json!({
            "version": 1,
            "manifest_digest": pulled["manifest_digest"],
            "image_digest": pulled["image_digest"],
            "boot_image_digest": boot,
            "kernel_argument": format!("composefs.digest=v1-sha512-12:{boot}"),
            "not_bootable": null,
            "format": 1,
            "algorithm": "sha512",
        })
    );
    let argument = place.run(&["image", "digest", "oci:image", "--kernel-argument"]).done();
    assert_eq!(argument, format!("composefs.digest=v1-sha512-12:{boot}\n"));
    let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn progress_as_json_is_one_object_per_line() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let run = place.run(&["image", "pull", "oci:image", "--progress", "json"]);
    let events: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |event: &str| events.iter().filter(|value| value["event"] == event).count();
    assert_eq!((count("started"), count("finished")), (2, 2), "{}", run.stderr);
    assert!(events.iter().all(|event| event["version"] == 1));
    assert_eq!(place.run(&["image", "pull", "oci:image", "--quiet"]).stderr, "");
}

#[test]
fn damage_is_found_with_status_3() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let pulled = place.run(&["image", "pull", "oci:image", "--json"]).json();
    let clean = place.run(&["repo", "fsck", "--json"]).json();
    assert_eq!((&clean["ok"], &clean["findings"]), (&json!(true), &json!([])));
    assert!(clean["objects_checked"].as_u64().unwrap() >= 3);

    let image = pulled["image_digest"].as_str().unwrap();
    let object = place.path().join(format!("repo/objects/{}/{}", &image[..2], &image[2..]));
    let mut bytes = fs::read(&object).unwrap();
    bytes[2000] ^= 1;
    fs::remove_file(&object).unwrap();
    fs::write(&object, bytes).unwrap();
    let run = place.run(&["repo", "fsck", "--json"]);
    assert_eq!(run.status, 3, "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let kinds: Vec<_> = report["findings"].as_array().unwrap().iter().map(|finding| &finding["kind"]).collect();
    assert!(kinds.contains(&&json!("object-digest-mismatch")), "{kinds:?}");
    let run = place.run(&["repo", "fsck"]);
    assert_eq!(run.status, 3);
    assert!(run.stdout.contains("object-digest-mismatch: objects/"), "{}", run.stdout);
}

#[test]
fn garbage_is_what_no_tag_needs() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    drop(place.run(&["image", "pull", "oci:image"]).done());
    let kept = place.run(&["repo", "gc", "--json"]).json();
    assert_eq!((&kept["objects_removed"], &kept["dry_run"]), (&json!(0), &json!(false)));
    drop(place.run(&["image", "untag", "oci:image"]).done());
    let planned = place.run(&["repo", "gc", "--dry-run", "--json"]).json();
    assert_eq!((&planned["objects_removed"], &planned["objects_kept"]), (&kept["objects_kept"], &json!(0)));
    assert!(place.run(&["repo", "gc"]).done().starts_with("removed "));
    assert_eq!(place.run(&["image", "list"]).done(), "no images\n");
    let nothing = place.run(&["repo", "gc", "--json"]).json();
    assert_eq!(nothing["objects_removed"], 0);
}

#[test]
fn a_mounted_image_has_the_files() {
    if !have(&["tar", "gzip", "umount"]) || !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let place = Place::with_repository();
    drop(place.run(&["image", "pull", "oci:image", "--bootable"]).done());
    let directory = place.path().join("mnt");
    let message = place.run(&["image", "mount", "oci:image", "mnt"]).failed(1);
    let expected = "error: cannot mount oci:image\n  caused by: cannot attach the mount to mnt\n";
    assert!(message.starts_with(expected), "{message}");
    fs::create_dir(&directory).unwrap();
    for (arguments, leftover) in [
        (&["image", "mount", "oci:image", "mnt"][..], true),
        (&["image", "mount", "oci:image", "mnt", "--boot"], false),
    ] {
        drop(place.run(arguments).done());
        let large = fs::read(directory.join("usr/share/large"));
        let has_leftover = directory.join("boot/leftover").exists();
        // What is mounted stays, even without a tag.
        drop(place.run(&["image", "untag", "oci:image"]).done());
        drop(place.run(&["repo", "gc"]).done());
        let still = fs::read(directory.join("usr/share/large"));
        drop(place.run(&["image", "pull", "oci:image", "--bootable"]).done());
        let write = fs::write(directory.join("new"), "x");
        assert!(Command::new("umount").arg(&directory).status().unwrap().success());
        assert_eq!(large.unwrap(), [7; 10_000]);
        assert_eq!(still.unwrap(), [7; 10_000]);
        assert_eq!(has_leftover, leftover);
        assert_eq!(write.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
}

#[test]
fn registries_fail_with_the_next_step() {
    if !have_registry() {
        return;
    }
    let place = Place::with_repository();
    let registry = DockerRegistry::start();
    registry.push(&format!("oci:{}/image:1", place.path().display()), "team/os:1", &[]);
    let pull = |name: &str, options: &[&str]| {
        let reference = format!("docker://{}/{name}", registry.address);
        place.run(&[&["image", "pull", &reference, "--progress", "plain"][..], options].concat())
    };
    let address = &registry.address;

    let message = pull("team/os:1", &[]).failed(1);
    assert!(message.contains(&format!("caused by: server {address} does not speak TLS")), "{message}");
    assert!(message.ends_with("hint: if it is a plain-HTTP server that you trust, say so with --plain-http\n"));
    let message = pull("team/os:2", &["--plain-http"]).failed(1);
    assert_eq!(
        message,
        format!(
            "error: cannot pull docker://{address}/team/os:2\n  \
             caused by: cannot fetch the manifest of the image\n  \
             caused by: repository team/os in registry {address} has no tag 2\n  \
             hint: tags that it has: 1\n"
        )
    );
    let message = pull("team/so:1", &["--plain-http"]).failed(1);
    assert!(message.contains(&format!("registry {address} has no repository team/so")), "{message}");

    // A damaged blob in the registry's storage, then a whole one.
    let data = registry.directory().join("data/docker/registry/v2/blobs/sha256");
    let manifest = place.run(&["image", "digest", "--source", "oci:image", "--json"]).json()["manifest_digest"].clone();
    let manifest = manifest.as_str().unwrap().trim_start_matches("sha256:");
    let manifest = fs::read(data.join(&manifest[..2]).join(manifest).join("data")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"][1]["digest"].as_str().unwrap();
    let hex = layer.trim_start_matches("sha256:");
    let blob = data.join(&hex[..2]).join(hex).join("data");
    let good = fs::read(&blob).unwrap();
    let mut bad = good.clone();
    bad[20] ^= 0x40;
    fs::write(&blob, bad).unwrap();
    let message = pull("team/os:1", &["--plain-http"]).failed(1);
    assert!(message.contains(&format!("cannot import layer {layer}")), "{message}");
    assert_eq!(place.run(&["image", "list"]).done(), "no images\n");
    fs::write(&blob, good).unwrap();
    assert!(pull("team/os:1", &["--plain-http"]).done().starts_with(&format!("docker://{address}/team/os:1\n")));
}

#[test]
fn a_registry_with_tls_is_trusted_by_its_certificate() {
    if !have_registry() || !have(&["openssl"]) {
        return;
    }
    let place = Place::with_repository();
    let registry = DockerRegistry::start_with_tls();
    registry.push(&format!("oci:{}/image:1", place.path().display()), "os:1", &[]);
    let reference = format!("{}/os:1", registry.address);
    let message = place.run(&["image", "pull", &reference]).failed(1);
    assert!(message.contains("the certificate of server"), "{message}");
    assert!(message.contains(&format!("/etc/containers/certs.d/{}/ca.crt", registry.address)), "{message}");
    let certificate = registry.directory().join("certificate.pem");
    drop(place.run_with(&["image", "pull", &reference], &[("SSL_CERT_FILE", &certificate)]).done());
}

#[test]
fn changes_to_a_mount_go_to_its_upper_directory() {
    if !have(&["tar", "gzip", "umount", "mount"]) || !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let place = Place::with_repository();
    drop(place.run(&["image", "pull", "oci:image", "--tag", "test"]).done());
    // On a file system that can be an upper layer, whatever the test runs on.
    for directory in ["mnt", "changes"] {
        fs::create_dir(place.path().join(directory)).unwrap();
    }
    let changes = place.path().join("changes");
    let umount = |directory: &str| {
        assert!(Command::new("umount").arg(place.path().join(directory)).status().unwrap().success());
    };
    assert!(Command::new("mount").args(["-t", "tmpfs", "changes"]).arg(&changes).status().unwrap().success());
    fs::create_dir(changes.join("upper")).unwrap();
    fs::create_dir(changes.join("work")).unwrap();
    let directories = ["--upperdir", "changes/upper", "--workdir", "changes/work"];
    let mount = |options: &[&str]| place.run(&[&["image", "mount", "test", "mnt"], options].concat());
    let written = mount(&[&directories[..], &["--read-write"]].concat());
    let new = place.path().join("mnt/usr/new");
    let write = fs::write(&new, "x");
    drop(written.done());
    umount("mnt");
    let again = mount(&directories);
    let (read, refused) = (fs::read_to_string(&new), fs::write(&new, "y"));
    drop(again.done());
    umount("mnt");
    let upper = fs::read_to_string(changes.join("upper/usr/new"));
    umount("changes");
    write.unwrap();
    assert_eq!((read.unwrap(), upper.unwrap()), ("x".to_owned(), "x".to_owned()));
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert!(mount(&["--read-write"]).failed(2).contains("--upperdir"));
    assert!(mount(&directories[..2]).failed(2).contains("--workdir"));
}

#[test]
fn the_digest_that_a_boot_image_must_have_is_found_or_all_others_are_told() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let digest = place.run(&["image", "digest", "--source", "oci:image", "--json"]).json()["boot_image_digest"].clone();
    let digest = digest.as_str().unwrap();
    let nothing = "0".repeat(128);
    let message = place.run(&["image", "pull", "oci:image", "--expected-digest", &nothing]).failed(1);
    assert!(message.contains(&format!("{digest} (V1, allowlist-only)")), "{message}");
    assert!(place.run(&["image", "list"]).done().contains("no images"));
    let pulled = place.run(&["image", "pull", "oci:image", "--expected-digest", digest, "--json"]).json();
    assert_eq!(pulled["boot_image_digest"], digest);
    let kept = place.run(&["image", "pull", "oci:image", "--xattrs", "keep-user-xattrs", "--json"]).json();
    // It has no such attributes.
    assert_eq!(kept["boot_image_digest"], digest);
    place.run(&["image", "pull", "oci:image", "--expected-digest", "xyz"]).failed(2);
}

#[test]
fn an_artifact_is_pulled_listed_and_inspected() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let image = place.run(&["image", "pull", "oci:image", "--tag", "os", "--json"]).json();
    let mut layout = crate::layout::Layout::create(&place.path().join("sbom"));
    let artifact = layout.artifact("application/vnd.example.packages", &image["manifest_digest"], b"packages");
    layout.tag("1", &artifact);
    let pulled = place.run(&["image", "pull", "oci:sbom", "--tag", "sbom", "--json"]).json();
    assert_eq!(pulled["artifact_type"], "application/vnd.example.packages");
    assert_eq!(pulled["subject"], image["manifest_digest"]);
    let listed = place.run(&["image", "list", "--json"]).json();
    let rows: Vec<_> = listed["images"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&rows[0]["tag"], &rows[0]["referrers"], &rows[0]["artifact_type"]),
        (&json!("os"), &json!(1), &json!(null))
    );
    assert_eq!((&rows[1]["tag"], &rows[1]["artifact_type"]), (&json!("sbom"), &pulled["artifact_type"]));
    assert!(place.run(&["image", "list"]).done().contains("artifact"));
    let inspected = place.run(&["image", "inspect", "os", "--json"]).json();
    assert_eq!(inspected["referrers"], json!([pulled["manifest_digest"]]));
    let inspected = place.run(&["image", "inspect", "sbom"]).done();
    assert!(inspected.contains("8 B, text/plain"), "{inspected}");
    let message = place.run(&["image", "pull", "oci:sbom", "--bootable"]).failed(1);
    assert!(message.contains("is an artifact and not an image"), "{message}");
    assert!(place.run(&["repo", "fsck"]).done().contains("ok"));
    place.run(&["image", "untag", "sbom"]).done();
    place.run(&["image", "untag", "os"]).done();
    place.run(&["repo", "gc"]).done();
    assert!(
        place.run(&["image", "inspect", pulled["manifest_digest"].as_str().unwrap()]).failed(1).contains("no image")
    );
}
