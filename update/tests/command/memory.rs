//! What a pull from a registry needs of memory does not depend on the size of the image.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use osupdate_core::oci::Platform;
use serde_json::json;

use crate::docker_registry::have;
use crate::layout::sha256;
use crate::place::Place;
use crate::server::{Server, reply};

/// Most that the program may need, in KiB, debug build included.
const PEAK_MAX_KIB: u64 = 64 << 10;

/// A tar header.
fn header(name: &str, typeflag: u8, size: usize) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(if typeflag == b'5' { b"0000755\0" } else { b"0000644\0" });
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = typeflag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A layer compressed with zstd and its diff_id: many files, all alike so that the disk has little to do.
fn layer(number: usize, files: usize, contents: &[u8]) -> (Vec<u8>, String) {
    let mut archive = header("usr/", b'5', 0);
    for file in 0..files {
        archive.extend(header(&format!("usr/l{number}f{file}"), b'0', contents.len()));
        archive.extend_from_slice(contents);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    (zstd::stream::encode_all(&archive[..], 1).unwrap(), sha256(&archive))
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut random = crate::faulty_proxy::Random::new(7);
    (0..length / 8).flat_map(|_| random.below(u64::MAX).to_le_bytes()).collect()
}

#[test]
fn a_large_image_needs_little_memory() {
    if !have(&["/usr/bin/time"]) {
        return;
    }
    // Files that are handed over whole, files that are too large for that, many tiny ones, and bytes that really are fetched.
    let layers = [
        layer(0, 400, &vec![1; 1 << 20]),
        layer(1, 8, &vec![2; 16 << 20]),
        layer(2, 20_000, &[3; 100]),
        layer(3, 1, &noise(48 << 20)),
    ];
    let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut add = |media_type: &str, bytes: Vec<u8>| {
        let digest = sha256(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        blobs.insert(digest, bytes);
        descriptor
    };
    let diff_ids: Vec<_> = layers.iter().map(|(_, diff_id)| diff_id.clone()).collect();
    let config = json!({
        "architecture": Platform::host().architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = add("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
    let layers: Vec<_> =
        layers.into_iter().map(|(blob, _)| add("application/vnd.oci.image.layer.v1.tar+zstd", blob)).collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}).to_string();
    let server = Server::start(move |request, _| match request.path.rsplit_once("/blobs/") {
        Some((_, digest)) => reply("200 OK", &[], &blobs[digest]),
        None => reply("200 OK", &[&format!("Content-Type: {media_type}")], manifest.as_bytes()),
    });

    let place = Place::with_repository();
    let reference = format!("docker://{}/os:1", server.address);
    let osupdate = place.command(&["image", "pull", &reference, "--plain-http", "--quiet", "--repo", "repo"]);
    let mut command = Command::new("/usr/bin/time");
    command.args(["--format=%M", "--output=peak"]).arg(osupdate.get_program()).args(osupdate.get_args());
    command.env_clear().env("HOME", place.path()).current_dir(place.path());
    let status = command.stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
    let peak: u64 = fs::read_to_string(place.path().join("peak")).unwrap().trim().parse().unwrap();
    println!("peak resident set: {peak} KiB");
    assert!(peak <= PEAK_MAX_KIB, "{peak} KiB");
}
