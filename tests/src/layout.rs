//! OCI image layouts, with layers as they are.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Makes an image of uncompressed layers; their tar files are moved into it.
pub fn write(directory: &Path, tars: &[PathBuf], tag: &str) -> Result<()> {
    fs::create_dir_all(directory.join("blobs/sha256"))?;
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for tar in tars {
        let (digest, size) = sha256_of(tar)?;
        fs::rename(tar, blob_path(directory, &digest))?;
        layers.push(json!({ "mediaType": LAYER, "digest": digest, "size": size }));
        diff_ids.push(digest);
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = write_json(directory, CONFIG, &config)?;
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
    let mut manifest = write_json(directory, MANIFEST, &manifest)?;
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    fs::write(directory.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())?;
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Writes an image of a layout to a new one, with a layer on top.
pub fn add_layer(source: &Path, tag: &str, tar: &[u8], directory: &Path) -> Result<()> {
    let index = read_json(&source.join("index.json"))?;
    let images = index["manifests"].as_array().context("the index names no manifest")?;
    let is_meant = |image: &&Value| image["annotations"]["org.opencontainers.image.ref.name"] == tag;
    let image = images.iter().find(is_meant).with_context(|| format!("the layout has no image {tag}"))?;
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        Ok(blob_path(source, descriptor["digest"].as_str().context("a descriptor without digest")?))
    };
    let mut manifest = read_json(&blob(image)?)?;
    let mut config = read_json(&blob(&manifest["config"])?)?;
    fs::create_dir_all(directory.join("blobs/sha256"))?;
    for layer in manifest["layers"].as_array().context("the manifest has no layers")? {
        let digest = layer["digest"].as_str().context("a layer without digest")?;
        fs::copy(blob(layer)?, blob_path(directory, digest))?;
    }
    let digest = name(&Sha256::digest(tar));
    fs::write(blob_path(directory, &digest), tar)?;
    let push = |list: &mut Value, item: Value| list.as_array_mut().map(|list| list.push(item));
    push(&mut manifest["layers"], json!({ "mediaType": LAYER, "digest": digest, "size": tar.len() }));
    push(&mut config["rootfs"]["diff_ids"], digest.into());
    push(&mut config["history"], json!({ "created_by": "a layer on top" }));
    manifest["config"] = write_json(directory, CONFIG, &config)?;
    let mut manifest = write_json(directory, MANIFEST, &manifest)?;
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    fs::write(directory.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())?;
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// The media types of the layers of a layout's only image, lowest first.
pub fn layer_media_types(directory: &Path) -> Result<Vec<String>> {
    layers(directory, "mediaType")
}

/// The digests of the layers of a layout's only image, lowest first.
pub fn layer_digests(directory: &Path) -> Result<Vec<String>> {
    layers(directory, "digest")
}

fn layers(directory: &Path, key: &str) -> Result<Vec<String>> {
    let (_, manifest) = only_manifest(directory)?;
    let layers = manifest["layers"].as_array().context("the manifest has no layers")?;
    Ok(layers.iter().filter_map(|layer| Some(layer[key].as_str()?.to_owned())).collect())
}

/// The index of a layout, and its first manifest.
fn only_manifest(directory: &Path) -> Result<(Value, Value)> {
    let index = read_json(&directory.join("index.json"))?;
    let digest = index["manifests"][0]["digest"].as_str().context("the index names no manifest")?;
    let manifest = read_json(&blob_path(directory, digest))?;
    Ok((index, manifest))
}

/// Gives a layout's only image another manifest, which has an annotation more.
pub fn annotate(directory: &Path, key: &str, value: &str) -> Result<()> {
    let (mut index, mut manifest) = only_manifest(directory)?;
    manifest["annotations"][key] = value.into();
    let written = write_json(directory, MANIFEST, &manifest)?;
    for key in ["digest", "size"] {
        index["manifests"][0][key] = written[key].clone();
    }
    fs::write(directory.join("index.json"), index.to_string())?;
    Ok(())
}

/// Sum of the sizes of all blobs.
pub fn blob_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory.join("blobs/sha256"))? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

/// Reads every blob, so that runs find them in the page cache.
pub fn warm_up(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory.join("blobs/sha256"))? {
        io::copy(&mut File::open(entry?.path())?, &mut io::sink())?;
    }
    Ok(())
}

fn write_json(directory: &Path, media_type: &str, value: &Value) -> Result<Value> {
    let text = value.to_string();
    let digest = name(&Sha256::digest(&text));
    fs::write(blob_path(directory, &digest), &text)?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": text.len() }))
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))
}

fn sha256_of(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok((name(&hash.finalize()), size));
        }
        hash.update(&buffer[..length]);
        size += length as u64;
    }
}

fn name(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// Where a blob is.
pub fn blob_path(directory: &Path, digest: &str) -> PathBuf {
    directory.join("blobs").join(digest.replace(':', "/"))
}
