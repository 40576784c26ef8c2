//! Images in OCI layout directories.

use std::fs;
use std::path::Path;

use osupdate_core::oci::{ContentDigest, ImageSource, Layout, LayoutError, Platform};
use serde_json::{Value, json};

use crate::fixture::chain;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn platform(architecture: &str) -> Platform {
    Platform { architecture: architecture.into(), os: "linux".into(), variant: None }
}

/// A layout directory; blobs are any text.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Stores a blob and returns its descriptor.
    fn blob(&self, media_type: &str, text: &str) -> Value {
        let digest = ContentDigest::sha256(text.as_bytes());
        fs::write(self.path().join("blobs/sha256").join(digest.hex()), text).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": text.len()})
    }

    fn manifest(&self, text: &str) -> Value {
        self.blob(MANIFEST, text)
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        fs::write(self.path().join("index.json"), index).unwrap();
    }

    fn open(&self, name: Option<&str>, architecture: &str) -> Result<String, LayoutError> {
        let layout = Layout::open(self.path(), name, &platform(architecture))?;
        Ok(String::from_utf8(layout.manifest().unwrap()).unwrap())
    }
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    descriptor
}

fn for_machine(mut descriptor: Value, architecture: &str, variant: Option<&str>) -> Value {
    descriptor["platform"] = json!({"os": "linux", "architecture": architecture, "variant": variant});
    descriptor
}

#[test]
fn images_are_found_by_name() {
    let dir = Directory::new();
    dir.index(&[named(dir.manifest("one"), "1"), named(dir.manifest("two"), "2")]);
    assert_eq!(dir.open(Some("1"), "amd64").unwrap(), "one");
    assert_eq!(dir.open(Some("2"), "amd64").unwrap(), "two");
    let error = dir.open(Some("3"), "amd64").unwrap_err().to_string();
    assert!(error.starts_with("there is no image \"3\" in ") && error.ends_with("; it has 1, 2"), "{error}");
    let error = dir.open(None, "amd64").unwrap_err().to_string();
    assert!(error.ends_with(" does not hold exactly one image, name one of them: it has 1, 2"), "{error}");
    dir.index(&[dir.manifest("one")]);
    assert_eq!(dir.open(None, "amd64").unwrap(), "one");
    dir.index(&[]);
    assert!(matches!(dir.open(None, "amd64"), Err(LayoutError::Ambiguous { .. })));
}

#[test]
fn images_are_selected_by_platform_also_in_nested_indexes() {
    let dir = Directory::new();
    let attestation = json!({"os": "unknown", "architecture": "unknown"});
    let mut unknown = dir.manifest("attestation");
    unknown["platform"] = attestation;
    let nested = [
        unknown,
        for_machine(dir.manifest("new"), "amd64", Some("v3")),
        for_machine(dir.manifest("base"), "amd64", None),
        for_machine(dir.manifest("arm"), "arm64", Some("v8")),
    ];
    dir.index(&nested);
    assert_eq!(dir.open(None, "amd64").unwrap(), "base");
    let nested = dir.blob(INDEX, &json!({"schemaVersion": 2, "manifests": nested}).to_string());
    dir.index(&[named(nested, "os")]);
    assert_eq!(dir.open(Some("os"), "amd64").unwrap(), "base");
    assert_eq!(dir.open(None, "arm64").unwrap(), "arm");
    let error = dir.open(None, "riscv64").unwrap_err();
    let expected =
        "there is no image for linux/riscv64, only for linux/amd64, linux/amd64/v3, linux/arm64/v8, unknown/unknown";
    assert_eq!(chain(&error)[1], expected);
}

/// A manifest of an image without layers, its configuration beside it.
fn image(dir: &Directory, architecture: &str) -> String {
    let config = json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    let config = dir.blob("application/vnd.oci.image.config.v1+json", &config.to_string());
    json!({"schemaVersion": 2, "config": config, "layers": []}).to_string()
}

fn artifact(dir: &Directory) -> String {
    let config = dir.blob("application/vnd.oci.empty.v1+json", "{}");
    json!({"schemaVersion": 2, "config": config, "layers": []}).to_string()
}

#[test]
fn images_are_selected_by_what_their_configurations_say_where_the_index_says_nothing() {
    let dir = Directory::new();
    let (amd64, arm64) = (image(&dir, "amd64"), image(&dir, "arm64"));
    let all = [dir.manifest(&artifact(&dir)), dir.manifest(&arm64), dir.manifest("damaged"), dir.manifest(&amd64)];
    dir.index(&all);
    assert_eq!(dir.open(None, "amd64").unwrap(), amd64);
    assert_eq!(dir.open(None, "arm64").unwrap(), arm64);
    let error = dir.open(None, "riscv64").unwrap_err();
    assert_eq!(chain(&error)[1], "there is no image for linux/riscv64, only for linux/amd64, linux/arm64");
}

#[test]
fn what_has_no_name_beside_an_image_that_has_belongs_to_it() {
    let dir = Directory::new();
    dir.index(&[dir.manifest(&artifact(&dir)), named(dir.manifest("image"), "os")]);
    assert_eq!(dir.open(None, "amd64").unwrap(), "image");
    // An artifact alone is what is meant.
    dir.index(&[dir.manifest(&artifact(&dir))]);
    assert_eq!(dir.open(None, "amd64").unwrap(), artifact(&dir));
}

#[test]
fn what_is_no_layout_is_refused() {
    let dir = Directory::new();
    let error = |path: &str| Layout::open(&dir.path().join(path), None, &platform("amd64")).unwrap_err();
    assert!(matches!(error("none"), LayoutError::NoDirectory { .. }));
    assert!(matches!(error("oci-layout"), LayoutError::NotDirectory { .. }));
    assert!(matches!(error("blobs"), LayoutError::NotLayout { .. }));
    assert!(matches!(dir.open(None, "amd64"), Err(LayoutError::Read { .. })));
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(matches!(dir.open(None, "amd64"), Err(LayoutError::Version { .. })));
}

#[test]
fn a_changed_manifest_is_refused() {
    let dir = Directory::new();
    let descriptor = dir.manifest("one");
    let path = dir.path().join("blobs/sha256").join(ContentDigest::sha256(b"one").hex());
    dir.index(&[descriptor]);
    fs::write(&path, "eno").unwrap();
    assert!(matches!(dir.open(None, "amd64"), Err(LayoutError::Damaged { path: named }) if named == path));
}
