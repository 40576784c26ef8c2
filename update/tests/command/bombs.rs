//! Layers that become far more than they are, from a registry.

use std::fs;
use std::time::{Duration, Instant};

use osupdate_core::oci::Platform;
use serde_json::json;

use crate::docker_registry::have;
use crate::layout::sha256;
use crate::place::{Place, Run};
use crate::server::{Server, reply};

/// A zstd frame of zeros, 32,000 times smaller than they are (RFC 8878, blocks of the kind RLE).
fn zeros(mebibytes: u32) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    let blocks = mebibytes * 8;
    for block in 1..=blocks {
        let header = u32::from(block == blocks) | 1 << 1 | (128 << 10) << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[test]
fn a_layer_that_swells_without_end_is_refused_in_little_memory() {
    if !have(&["time"]) {
        return;
    }
    let layer = zeros(4200);
    assert!(layer.len() < 150_000);
    let config = json!({
        "architecture": Platform::host().architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [sha256(b"whatever")]},
    })
    .to_string();
    let descriptor = |media_type: &str, blob: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{media_type}"), "digest": sha256(blob), "size": blob.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config.as_bytes()),
        "layers": [descriptor("layer.v1.tar+zstd", &layer)],
    })
    .to_string();
    let layer_digest = sha256(&layer);
    let server = Server::start(move |request, _| match &request.path {
        path if path.contains("/manifests/") => {
            reply("200 OK", &["Content-Type: application/vnd.oci.image.manifest.v1+json"], manifest.as_bytes())
        }
        path if path.ends_with(&layer_digest) => reply("200 OK", &[], &layer),
        _ => reply("200 OK", &[], config.as_bytes()),
    });

    let place = Place::with_repository();
    let reference = format!("docker://{}/os:1", server.address);
    let pull = place.command(&["image", "pull", "--repo", "repo", "--plain-http", &reference]);
    let mut measured = std::process::Command::new("time");
    measured.args(["--format=%M", "--output=kibibytes"]).arg(pull.get_program()).args(pull.get_args());
    measured.current_dir(place.path()).env("HOME", place.path());
    let start = Instant::now();
    let message = Run::of(&mut measured).failed(1);
    assert!(message.contains(&server.address), "{message}");
    assert!(message.contains("more than 4294967296 bytes between two files"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    let kibibytes = fs::read_to_string(place.path().join("kibibytes")).unwrap();
    let kibibytes: u64 = kibibytes.lines().last().unwrap().trim().parse().unwrap();
    assert!(kibibytes < 256 << 10, "{kibibytes} KiB of memory");
    assert_eq!(place.run(&["image", "list"]).done(), "no images\n");
}
