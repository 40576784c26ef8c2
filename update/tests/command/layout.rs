//! Small OCI images in layout directories, made by hand with `tar` and `gzip`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An OCI layout directory that images are added to.
pub(crate) struct Layout {
    pub(crate) path: PathBuf,
    index: Vec<Value>,
}

impl Layout {
    pub(crate) fn create(path: &Path) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        Self { path: path.to_owned(), index: Vec::new() }
    }

    fn blob(&self, bytes: &[u8]) -> (String, usize) {
        let digest = sha256(bytes);
        fs::write(self.path.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
        (digest, bytes.len())
    }

    /// Adds an image for `architecture`, one gzip layer for each list of files, and returns its descriptor.
    pub(crate) fn image(&self, architecture: &str, layers: &[&[(&str, &[u8])]]) -> Value {
        let tars: Vec<_> = layers.iter().map(|files| tar(files)).collect();
        self.image_of(architecture, &tars)
    }

    /// The same of archives.
    pub(crate) fn image_of(&self, architecture: &str, tars: &[Vec<u8>]) -> Value {
        let (mut diff_ids, mut descriptors) = (Vec::new(), Vec::new());
        for tar in tars {
            diff_ids.push(sha256(tar));
            let (digest, size) = self.blob(&gzip(tar));
            let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            descriptors.push(json!({"mediaType": media_type, "digest": digest, "size": size}));
        }
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Labels": {"org.opencontainers.image.version": "1.2.3"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let (digest, size) = self.blob(config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size},
            "layers": descriptors,
        });
        let (digest, size) = self.blob(manifest.to_string().as_bytes());
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        })
    }

    /// The archives of the first image of a layout, decompressed.
    pub(crate) fn layers(path: &Path) -> Vec<Vec<u8>> {
        let blob =
            |digest: &Value| fs::read(path.join("blobs").join(digest.as_str().unwrap().replace(':', "/"))).unwrap();
        let index: Value = serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0]["digest"])).unwrap();
        let gunzip = |layer: &Value| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("layer.gz");
            fs::write(&file, blob(&layer["digest"])).unwrap();
            Command::new("gzip").args(["--decompress", "--stdout"]).arg(&file).output().unwrap().stdout
        };
        manifest["layers"].as_array().unwrap().iter().map(gunzip).collect()
    }

    /// Adds an artifact of one blob that belongs to a manifest, and returns its descriptor.
    pub(crate) fn artifact(&self, artifact_type: &str, subject: &Value, blob: &[u8]) -> Value {
        self.artifact_of(artifact_type, subject, b"{}", &[blob])
    }

    /// The same of a configuration and some blobs.
    pub(crate) fn artifact_of(&self, artifact_type: &str, subject: &Value, config: &[u8], blobs: &[&[u8]]) -> Value {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let (config_digest, config_size) = self.blob(config);
        let layers: Vec<_> = blobs
            .iter()
            .map(|blob| {
                let (digest, size) = self.blob(blob);
                json!({"mediaType": "text/plain", "digest": digest, "size": size})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "artifactType": artifact_type,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config_digest, "size": config_size},
            "layers": layers,
            "subject": {"mediaType": media_type, "digest": subject, "size": 1},
        });
        let (digest, size) = self.blob(manifest.to_string().as_bytes());
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// Adds a signature as cosign makes it, of which nothing is good, and returns its descriptor.
    pub(crate) fn signature(&self, document: &[u8]) -> Value {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let ((digest, size), (config_digest, config_size)) =
            (self.blob(document), self.blob(b"{\"architecture\": \"\"}"));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config_size,
            },
            "layers": [{
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": digest, "size": size,
                "annotations": {"dev.cosignproject.cosign/signature": "AAAA"},
            }],
        });
        let (digest, size) = self.blob(manifest.to_string().as_bytes());
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// Adds a manifest list of images and returns its descriptor.
    pub(crate) fn list(&self, images: &[&Value]) -> Value {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let list = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": images});
        let (digest, size) = self.blob(list.to_string().as_bytes());
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// Gives an image or list a name.
    pub(crate) fn tag(&mut self, name: &str, descriptor: &Value) {
        let mut descriptor = descriptor.clone();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.index.push(descriptor);
        let index = json!({"schemaVersion": 2, "manifests": self.index});
        fs::write(self.path.join("index.json"), index.to_string()).unwrap();
    }
}

pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    for (path, contents) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    let output = Command::new("tar")
        .args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--mode=u=rwX,go=rX", "--directory"])
        .arg(dir.path())
        .arg(".")
        .output()
        .unwrap();
    assert!(output.status.success(), "tar failed");
    output.stdout
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("layer");
    fs::write(&file, bytes).unwrap();
    let output = Command::new("gzip").args(["--stdout", "--no-name"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "gzip failed");
    output.stdout
}
