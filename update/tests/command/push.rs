//! `image push`: what is restored, what the destination has afterwards, and who must agree with it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::docker_registry::{DockerRegistry, have, have_registry};
use crate::place::{Place, Run};
use crate::server::{Server, reply};

/// A place whose repository has the image `oci:image`, bootable.
fn place() -> Place {
    let place = Place::with_repository();
    pull(&place, "oci:image", "test");
    place
}

fn pull(place: &Place, reference: &str, tag: &str) -> Value {
    place.run(&["image", "pull", reference, "--tag", tag, "--bootable", "--plain-http", "--json"]).json()
}

fn push(place: &Place, words: &[&str]) -> Value {
    place.run(&[&["image", "push"], words, &["--plain-http", "--json"]].concat()).json()
}

/// What is made of an image, whatever its manifest is.
fn identity(summary: &Value) -> [Value; 3] {
    ["config_digest", "image_digest", "boot_image_digest"].map(|field| {
        assert!(summary[field].is_string(), "{field}: {summary}");
        summary[field].clone()
    })
}

/// The blobs of a layout, by name.
fn blobs(place: &Place, layout: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(place.path().join(layout).join("blobs/sha256")).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

fn diff_ids(report: &Value) -> Vec<&str> {
    report["layers"].as_array().unwrap().iter().map(|layer| layer["diff_id"].as_str().unwrap()).collect()
}

fn states(report: &Value) -> Vec<&str> {
    report["layers"].as_array().unwrap().iter().map(|layer| layer["state"].as_str().unwrap()).collect()
}

#[test]
fn an_image_comes_back_from_a_directory_as_it_was() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = place();
    let inspected = place.run(&["image", "inspect", "test", "--json"]).json();
    for compression in ["none", "gzip", "zstd"] {
        let out = format!("oci:out-{compression}:1");
        let pushed = push(&place, &["test", &out, "--compression", compression]);
        assert_eq!(pushed["config_digest"], inspected["config_digest"]);
        let expected = inspected["config"]["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!(diff_ids(&pushed), expected.iter().map(|id| id.as_str().unwrap()).collect::<Vec<_>>());
        let fresh = Place::with_repository();
        let from = format!("oci:{}/out-{compression}:1", place.path().display());
        let back = pull(&fresh, &from, "back");
        assert_eq!(identity(&back), identity(&inspected), "{compression}");
        assert_eq!(back["manifest_digest"], pushed["manifest_digest"]);
        fresh.run(&["repo", "fsck"]).done();
    }
    // The same again is the same, byte by byte.
    push(&place, &["test", "oci:again:1", "--compression", "zstd"]);
    assert_eq!(blobs(&place, "again"), blobs(&place, "out-zstd"));
}

#[test]
fn what_is_not_compressed_is_pushed_as_it_was_pulled() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = place();
    push(&place, &["test", "oci:plain:1", "--compression", "none"]);
    let pulled = pull(&place, "oci:plain:1", "plain");
    let pushed = push(&place, &["plain", "oci:copy:1", "--preserve-digest"]);
    assert_eq!(pushed["manifest_digest"], pulled["manifest_digest"]);
    assert_eq!(pushed["same_manifest"], true);
    assert_eq!(states(&pushed), ["sent", "sent"]);
    assert_eq!(blobs(&place, "copy"), blobs(&place, "plain"));
}

#[test]
fn another_digest_is_told_or_refused() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = place();
    let run = place.run(&["image", "push", "test", "oci:out:1"]);
    assert!(
        run.stderr.contains("2 of 2 layers were compressed anew, so the manifest is another one"),
        "{}",
        run.stderr
    );
    assert!(run.done().contains("0 were there, 0 sent as they are, 2 compressed anew"));
    let error = place.run(&["image", "push", "test", "oci:other:1", "--preserve-digest"]).failed(1);
    assert!(error.contains("the image would have another digest, as 2 of its layers"), "{error}");
    assert!(!place.path().join("other/index.json").exists());
    // Where its blobs are, it stays what it is.
    let pushed = push(&place, &["test", "oci:image:2", "--preserve-digest"]);
    assert_eq!((states(&pushed), pushed["sent_bytes"].clone()), (vec!["present", "present"], 0.into()));
    let index: Value = serde_json::from_slice(&fs::read(place.path().join("image/index.json")).unwrap()).unwrap();
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 2);
    assert_eq!(manifests[0]["digest"], manifests[1]["digest"]);
}

#[test]
fn a_name_in_a_directory_moves_and_others_stay() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = place();
    for (name, compression) in [("a", "none"), ("b", "gzip"), ("a", "zstd")] {
        push(&place, &["test", &format!("oci:out:{name}"), "--compression", compression]);
    }
    let index: Value = serde_json::from_slice(&fs::read(place.path().join("out/index.json")).unwrap()).unwrap();
    let names: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|manifest| manifest["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["b", "a"]);
    pull(&place, "oci:out:a", "a");
    fs::create_dir(place.path().join("full")).unwrap();
    fs::write(place.path().join("full/file"), "x").unwrap();
    let error = place.run(&["image", "push", "test", "oci:full:1"]).failed(1);
    assert!(error.contains("full is neither empty nor an OCI image layout"), "{error}");
    let error = place.run(&["image", "push", "test", "dir:elsewhere"]).failed(1);
    assert!(error.contains("where they are: docker://, oci:, oci-archive:"), "{error}");
}

#[test]
fn an_archive_has_the_image() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = place();
    let pushed = push(&place, &["test", "oci-archive:os.tar:1"]);
    let back = pull(&place, "oci-archive:os.tar:1", "back");
    assert_eq!(back["manifest_digest"], pushed["manifest_digest"]);
    push(&place, &["test", "oci-archive:again.tar:1"]);
    assert!(fs::read(place.path().join("os.tar")).unwrap() == fs::read(place.path().join("again.tar")).unwrap());
    let error = place.run(&["image", "push", "test", "oci-archive:os.tar:1"]).failed(1);
    assert!(error.contains("os.tar is there already"), "{error}");
    let left = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.starts_with('.')).count(), 0);
}

#[test]
fn a_registry_takes_images_that_others_understand() {
    if !have_registry() {
        return;
    }
    let place = place();
    let registry = DockerRegistry::start();
    let reference = format!("docker://{}/os:1", registry.address);
    let pushed = push(&place, &["test", &reference]);
    assert_eq!(states(&pushed), ["compressed", "compressed"]);
    let skopeo = |words: &[&str]| Run::of(Command::new("skopeo").args(words)).done();
    let raw = skopeo(&["inspect", "--tls-verify=false", "--raw", &reference]);
    assert_eq!(crate::layout::sha256(raw.as_bytes()), pushed["manifest_digest"].as_str().unwrap());
    let copy = format!("oci:{}/copy:1", place.path().display());
    skopeo(&["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &reference, &copy]);
    let (ours, back, copied) =
        (pull(&place, "oci:image", "test"), pull(&place, &reference, "back"), pull(&place, "oci:copy:1", "copied"));
    assert_eq!(identity(&back), identity(&ours));
    assert_eq!(identity(&copied), identity(&ours));
    // What is there is not sent again.
    let again = push(&place, &["back", &reference, "--preserve-digest"]);
    assert_eq!((states(&again), again["sent_bytes"].clone()), (vec!["present", "present"], 0.into()));
    // A registry takes blobs over from a repository beside it, compressed as they are there.
    let pulled = place.run(&["image", "pull", &reference, "--plain-http", "--json"]).json();
    let beside = format!("docker://{}/beside/os:2", registry.address);
    let mounted = push(&place, &[&reference, &beside, "--preserve-digest"]);
    assert_eq!(mounted["manifest_digest"], pulled["manifest_digest"]);
    assert_eq!(states(&mounted), ["present", "present"]);
    assert_eq!(skopeo(&["inspect", "--tls-verify=false", "--raw", &beside]), raw);
}

#[test]
fn a_registry_that_wants_a_login_gets_one() {
    if !have_registry() {
        return;
    }
    let place = place();
    let registry = DockerRegistry::start_with_login();
    let reference = format!("docker://{}/os:1", registry.address);
    let words = ["image", "push", "test", &reference, "--plain-http"];
    let error = place.run(&words).failed(1);
    assert!(error.contains("denies access to") && error.contains("needs a login"), "{error}");
    let auth = place.path().join("auth.json");
    fs::write(&auth, format!(r#"{{"auths": {{"{}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#, registry.address)).unwrap();
    place.run_with(&words, &[("REGISTRY_AUTH_FILE", &auth)]).done();
    let pulled = ["image", "pull", &reference, "--plain-http"];
    place.run_with(&pulled, &[("REGISTRY_AUTH_FILE", &auth)]).done();
}

#[test]
fn a_token_is_asked_for_pushing_and_breaks_are_survived() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = place();
    let tokens = Server::start(|_, _| reply("200 OK", &[], br#"{"token": "abc"}"#));
    let realm = format!("http://{}/token", tokens.address);
    // Every other attempt to send a blob fails.
    let sent = AtomicUsize::new(0);
    let registry = Server::start(move |request, _| {
        let challenge = |scope: &str| {
            let challenge =
                format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:os:{scope}\"");
            reply("401 Unauthorized", &[&challenge], b"")
        };
        match (request.method.as_str(), request.header("authorization")) {
            (_, None) => challenge("pull,push"),
            ("HEAD", _) => reply("404 Not Found", &[], b""),
            ("POST", _) => reply("202 Accepted", &["Location: /v2/os/upload?state=1"], b""),
            ("PATCH", _) if sent.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => {
                reply("503 Service Unavailable", &[], b"")
            }
            ("PATCH", _) => reply("202 Accepted", &["Location: /v2/os/upload?state=2"], b""),
            _ => reply("201 Created", &[], b""),
        }
    });
    let reference = format!("docker://{}/os:1", registry.address);
    let run = place.run(&["image", "push", "test", &reference, "--plain-http"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    let scopes: Vec<_> = tokens.requests().iter().map(|request| request.path.contains("pull%2Cpush")).collect();
    assert!(!scopes.is_empty() && scopes.iter().all(|is_for_push| *is_for_push));
    let puts: Vec<_> =
        registry.requests().into_iter().filter(|request| request.method == "PUT").map(|request| request.path).collect();
    assert_eq!(puts.len(), 4, "{puts:?}");
    assert!(puts[..3].iter().all(|path| path.starts_with("/v2/os/upload?state=2&digest=sha256%3A")), "{puts:?}");
    assert_eq!(puts[3], "/v2/os/manifests/1");
}
