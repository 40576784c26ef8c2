//! A table of images and policies: what skopeo decides is what we decide.

use std::fs;
use std::path::Path;

use osupdate::transport::{SourceOptions, open_source};
use osupdate::trust::{Policy, TrustError};
use osupdate_core::oci::Platform;
use serde_json::{Value, json};

use super::sigstore::{P256, Pair};
use super::{Lab, have_tools, signed_by, signed_by_as};
use crate::layout::Layout;

#[test]
fn every_case_is_decided_as_by_skopeo() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let (key, other) = (lab.gpg.key("a", None, "ed25519", "never"), lab.gpg.key("b", None, "ed25519", "never"));
    let (file, other_file) = (lab.gpg.export(&key, &[]), lab.gpg.export(&other, &[]));
    let host = lab.registry.address.clone();
    let signed = lab.push_signed("one", "team/os:1", &key);
    let unsigned = lab.push("two", "team/plain:1", &[]);
    let docker = lab.push("one", "team/docker:1", &["--format=v2s2", "--sign-by", &key]);
    let as_vendor = lab.push("two", "mirror/os:1", &["--sign-by", &key, "--sign-identity", "vendor.example/os:1"]);
    let digest = crate::layout::sha256(&lab.manifest(&signed));
    let by_digest = format!("docker://{host}/team/os@{digest}");

    // A list, of which each image is signed, and one where only the list is.
    let dir = lab.path("lists");
    let mut layout = Layout::create(&dir);
    let here = layout.image(&Platform::host().architecture, &[&[("usr/lib/os-release", b"list")]]);
    let elsewhere = layout.image("pdp11", &[&[("usr/lib/os-release", b"list")]]);
    let list = layout.list(&[&elsewhere, &here]);
    layout.tag("list", &list);
    let copy = |name: &str| {
        let target = format!("docker://{host}/{name}");
        let mut command = lab.skopeo();
        command.args(["--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false", "--sign-by", &key]);
        let source = format!("oci:{}:list", dir.display());
        let output = command.args([&source, &target]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target
    };
    let all_signed = copy("team/list:1");
    let list_signed = copy("team/list-only:1");
    fs::remove_dir_all(lab.signatures(&list_signed)).unwrap();
    let list_digest = list["digest"].as_str().unwrap();
    let list_by_digest = format!("docker://{host}/team/list@{list_digest}");
    let images = [&signed, &unsigned, &docker, &as_vendor, &by_digest, &all_signed, &list_signed, &list_by_digest];

    let identity = |json: Value| signed_by_as(&file, json);
    let reject = json!([{"type": "reject"}]);
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    let requirements = [
        accept.clone(),
        reject.clone(),
        json!([{"type": "insecureAcceptAnything"}, {"type": "reject"}]),
        signed_by(&[&file]),
        signed_by(&[&other_file]),
        signed_by(&[&other_file, &file]),
        json!([signed_by(&[&file])[0], {"type": "insecureAcceptAnything"}]),
        json!([signed_by(&[&file])[0], signed_by(&[&other_file])[0]]),
        identity(json!({"type": "matchExact"})),
        identity(json!({"type": "matchRepository"})),
        identity(json!({"type": "exactReference", "dockerReference": "vendor.example/os:1"})),
        identity(json!({"type": "exactReference", "dockerReference": format!("{host}/team/os:1")})),
        identity(json!({"type": "exactRepository", "dockerRepository": "vendor.example/os"})),
        identity(json!({"type": "exactRepository", "dockerRepository": format!("{host}/team/os")})),
        identity(
            json!({"type": "remapIdentity", "prefix": format!("{host}/mirror"), "signedPrefix": "vendor.example"}),
        ),
        identity(json!({"type": "remapIdentity", "prefix": format!("{host}/mir"), "signedPrefix": "vendor.example"})),
        identity(json!({"type": "remapIdentity", "prefix": host, "signedPrefix": "vendor.example"})),
        json!([{"type": "sigstoreSigned", "keyPath": Pair::make(&lab, &P256).public}]),
    ];
    let mut accepted = 0;
    for image in images {
        for requirement in &requirements {
            accepted += usize::from(lab.check(image, requirement).is_ok());
        }
    }
    // Neither everything nor nothing.
    assert!((40..100).contains(&accepted), "{accepted}");

    let parent = host.split_once(':').unwrap().0;
    let scopes = [
        format!("{host}/team/os:1"),
        format!("{host}/team/os@{digest}"),
        format!("{host}/team/os"),
        format!("{host}/team"),
        format!("{host}/tea"),
        host.clone(),
        parent.to_owned(),
        "*.localhost".to_owned(),
        String::new(),
    ];
    for scope in &scopes {
        for (default, scoped) in [(&reject, &accept), (&accept, &reject)] {
            for transport in ["docker", "oci", "atomic"] {
                if transport != "docker" && !scope.is_empty() {
                    continue;
                }
                let mut policy = json!({"default": default, "transports": {transport: {}}});
                policy["transports"][transport][scope] = scoped.clone();
                let policy = lab.file(policy.to_string());
                for image in [&signed, &by_digest, &unsigned] {
                    let (ours, skopeo) = (lab.ours(image, &policy), lab.skopeos(image, &policy));
                    assert_eq!(ours.is_ok(), skopeo.is_ok(), "{image}, {scope}: {ours:?}, {skopeo:?}");
                }
            }
        }
    }
}

#[test]
fn files_have_the_scopes_that_skopeo_gives_them() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let key = lab.gpg.key("a", None, "ed25519", "never");
    let file = lab.gpg.export(&key, &[]);
    let root = lab.path("images").canonicalize().unwrap().parent().unwrap().to_owned();
    let source = format!("oci:{}:one", root.join("images").display());
    let mut references = vec![("oci", root.join("images"), source.clone())];
    for (transport, name, tag) in [("oci-archive", "o.tar", ":one"), ("docker-archive", "d.tar", ""), ("dir", "d", "")]
    {
        let path = root.join(name);
        let reference = format!("{transport}:{}{tag}", path.display());
        let copied = lab.skopeo().args(["--insecure-policy", "copy", "--quiet", &source, &reference]).status().unwrap();
        assert!(copied.success());
        references.push((transport, path, reference));
    }
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    let wanted = [&accept, &json!([{"type": "reject"}]), &signed_by(&[&file])];
    for (transport, path, reference) in &references {
        let paths = [path.as_path(), root.as_path(), Path::new("/srv")];
        let scopes = paths.map(|path| path.to_str().unwrap()).into_iter().filter(|_| *transport != "docker-archive");
        for scope in scopes.chain([""]) {
            for wanted in wanted {
                let mut policy = json!({"default": [{"type": "reject"}], "transports": {*transport: {}}});
                policy["transports"][transport][scope] = wanted.clone();
                let policy = lab.file(policy.to_string());
                let (ours, skopeo) = (lab.ours(reference, &policy), lab.skopeos(reference, &policy));
                assert_eq!(ours.is_ok(), skopeo.is_ok(), "{reference}, {scope}, {wanted}: {ours:?}, {skopeo:?}");
                // An archive that is named by its path only is what it contains.
                if transport.ends_with("-archive") {
                    assert_eq!(lab.ours(path.to_str().unwrap(), &policy).is_ok(), ours.is_ok(), "{reference}, {scope}");
                }
            }
        }
    }
    // What is below the store of another program only it knows.
    let mut policy = json!({"default": accept, "transports": {"containers-storage": {}}});
    policy["transports"]["containers-storage"]["[overlay@/x]h.example/os"] = json!([{"type": "reject"}]);
    let policy = Policy::load(&lab.paths(&lab.file(policy.to_string()))).unwrap();
    let source = open_source(&source.parse().unwrap(), &SourceOptions::default()).unwrap();
    let error = policy.check(&"containers-storage:h.example/os".parse().unwrap(), &source, b"{}").unwrap_err();
    assert!(matches!(error, TrustError::Unsupported { .. }), "{error}");
}

#[test]
fn policies_that_skopeo_refuses_to_read_are_refused() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let image = lab.push("one", "os:1", &[]);
    let reject = r#"[{"type": "reject"}]"#;
    for policy in [
        "".to_owned(),
        "{}".to_owned(),
        r#"{"default": []}"#.to_owned(),
        format!(r#"{{"default": {reject}, "x": 1}}"#),
        format!(r#"{{"default": {reject}, "default": {reject}}}"#),
        format!(r#"{{"default": {reject}}} x"#),
        format!(r#"{{"default": {reject}, "transports": null}}"#),
        format!(r#"{{"default": {reject}, "transports": {{"docker": {{"a": []}}}}}}"#),
        format!(r#"{{"default": {reject}, "transports": {{"docker": {{"a": {reject}, "a": {reject}}}}}}}"#),
        format!(r#"{{"default": {reject}, "transports": {{"oci": {{"relative": {reject}}}}}}}"#),
        format!(r#"{{"default": {reject}, "transports": {{"dir": {{"/": {reject}}}}}}}"#),
        format!(r#"{{"default": {reject}, "transports": {{"docker-archive": {{"/a": {reject}}}}}}}"#),
        r#"{"default": [{"type": "reject", "x": 1}]}"#.to_owned(),
        r#"{"default": [{"type": "unknown"}]}"#.to_owned(),
        r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}"#.to_owned(),
        r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/a", "keyData": "YQ=="}]}"#.to_owned(),
        r#"{"default": [{"type": "signedBy", "keyType": "unknown", "keyPath": "/a"}]}"#.to_owned(),
        r#"{"default": [{"type": "sigstoreSigned"}]}"#.to_owned(),
        r#"{"default": [{"type": "sigstoreSigned", "keyPath": "/a", "keyType": "GPGKeys"}]}"#.to_owned(),
    ] {
        let path = lab.file(&policy);
        let ours = Policy::load(&lab.paths(&path));
        assert!(ours.is_err(), "{policy}");
        let target = lab.path("target");
        let mut command = lab.skopeo();
        command.arg("--policy").arg(&path).args(["copy", "--src-tls-verify=false", &image]);
        let output = command.arg(format!("dir:{}", target.display())).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("Error loading trust policy"), "{policy}: {message}");
    }
}
