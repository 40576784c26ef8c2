//! Images as the tools of others push them, in every compression that they have.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::docker_registry::{DockerRegistry, have, have_registry};
use crate::place::{Place, Run};

/// Compressions as the tools call them; `None` is none.
const COMPRESSIONS: [Option<&str>; 4] = [Some("gzip"), Some("zstd"), Some("zstd:chunked"), None];
const IMAGE: &str = "localhost/os:1";

/// A tool with a store of images below the directory of the test.
fn tool(name: &str, place: &Place) -> Command {
    let mut command = Command::new(name);
    let store = place.path().join("store");
    command.arg("--root").arg(store.join("storage")).arg("--runroot").arg(store.join("run"));
    command.args(["--storage-driver", "vfs"]);
    command
}

fn done(command: &mut Command) -> String {
    Run::of(command).done().trim().to_owned()
}

/// Makes an image in the store with buildah.
fn build(place: &Place) {
    let tree = place.path().join("tree");
    for (path, contents) in [
        ("usr/lib/os-release", b"ID=test\n".to_vec()),
        // Compresses to several blocks.
        ("usr/share/large", (0..600_000_u32).flat_map(|i| (i / 3).to_le_bytes()).collect()),
        ("usr/bin/tool", vec![7; 5_000]),
    ] {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    let container = done(tool("buildah", place).args(["from", "scratch"]));
    done(tool("buildah", place).args(["add", "--quiet", &container]).arg(&tree).arg("/"));
    done(tool("buildah", place).args(["commit", "--quiet", &container, IMAGE]));
}

/// Pushes the image; false if the tool cannot do that.
fn push(place: &Place, registry: &DockerRegistry, name: &str, compression: Option<&str>, to: &str) -> bool {
    let to = format!("docker://{}/{to}", registry.address);
    let run = match (name, compression) {
        ("skopeo", compression) => {
            // What is not compressed stays so if nothing may change.
            let source = place.path().join("plain");
            if !source.exists() {
                let target = format!("dir:{}", source.display());
                done(tool("buildah", place).args(["push", "--quiet", "-D", IMAGE, &target]));
            }
            let mut command = Command::new(name);
            command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
            match compression {
                Some(format) => command.args(["--dest-compress-format", format]),
                None => command.arg("--preserve-digests"),
            };
            Run::of(command.arg(format!("dir:{}", source.display())).arg(&to))
        }
        (_, Some(format)) => {
            let format = format!("--compression-format={format}");
            Run::of(tool(name, place).args(["push", "--quiet", "--tls-verify=false", &format, IMAGE, &to]))
        }
        // They compress whatever they push to a registry.
        (_, None) => return false,
    };
    run.done();
    true
}

/// The media types of the layers that a registry has, and whether they are zstd:chunked.
fn layers(place: &Place, tag: &str) -> (Vec<String>, bool) {
    let manifest: Value = serde_json::from_str(&place.run(&["image", "inspect", tag, "--manifest"]).done()).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let media_types = layers.iter().map(|layer| layer["mediaType"].as_str().unwrap().to_owned()).collect();
    // The name of the annotation has changed over time.
    let chunked = |layer: &Value| {
        let annotations = layer["annotations"].as_object();
        annotations.is_some_and(|all| all.keys().any(|key| key.ends_with("zstd-chunked.manifest-checksum")))
    };
    (media_types, layers.iter().all(chunked))
}

#[test]
fn images_pushed_by_skopeo_buildah_and_podman_are_one_image() {
    if !have_registry() || !have(&["buildah"]) {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: buildah needs root to make an image without user namespaces");
        return;
    }
    let tools: Vec<_> = ["skopeo", "buildah", "podman"].into_iter().filter(|tool| have(&[tool])).collect();
    let place = Place::with_repository();
    build(&place);
    let mut image_digests = Vec::new();
    for tool in tools {
        // A registry for each, so that no tool finds what another has pushed.
        for compression in COMPRESSIONS {
            let registry = DockerRegistry::start();
            if !push(&place, &registry, tool, compression, "os:1") {
                continue;
            }
            let what = format!("{tool}, {compression:?}");
            let fresh = Place::with_repository();
            let reference = format!("docker://{}/os:1", registry.address);
            let pulled = fresh.run(&["image", "pull", &reference, "--plain-http", "--tag", "os", "--json"]).json();
            image_digests.push(pulled["image_digest"].clone());
            let (media_types, chunked) = layers(&fresh, "os");
            let expected = match compression {
                Some("gzip") => "gzip",
                Some(_) => "zstd",
                None => "tar",
            };
            assert!(media_types.iter().all(|media_type| media_type.ends_with(expected)), "{what}: {media_types:?}");
            assert_eq!(chunked, compression == Some("zstd:chunked"), "{what}");
            assert_clean(&fresh, &what);
        }
    }
    assert!(image_digests.len() >= 2 * COMPRESSIONS.len());
    assert!(image_digests.iter().all(|digest| digest.is_string() && *digest == image_digests[0]), "{image_digests:?}");
}

fn assert_clean(place: &Place, what: &str) {
    let check = place.run(&["repo", "fsck"]).done();
    assert!(check.contains("nothing is wrong"), "{what}: {check}");
}
