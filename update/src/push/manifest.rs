//! A manifest of which some layers are replaced by others with the same contents. What else is in it stays, known or not; it is
//! byte by byte the same if nothing is replaced.

use osupdate_core::oci::{BlobDescriptor, Compression, ContentDigest};
use serde_json::Value;
use thiserror::Error;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Why a manifest cannot be changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EditError {
    /// It is not JSON.
    #[error("it is not JSON")]
    Json(#[from] serde_json::Error),
    /// It is not a manifest.
    #[error("it has no {0} of the known form")]
    Form(&'static str),
}

/// A manifest, as JSON that may be changed.
#[derive(Debug)]
pub(crate) struct Manifest {
    bytes: Vec<u8>,
    json: Value,
    media_type: String,
    config: BlobDescriptor,
    layers: Vec<BlobDescriptor>,
    changed: bool,
}

impl Manifest {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, EditError> {
        let json: Value = serde_json::from_slice(bytes)?;
        let config = descriptor(&json["config"]).ok_or(EditError::Form("configuration"))?;
        let layers = json["layers"].as_array().ok_or(EditError::Form("layers"))?;
        let layers = layers.iter().map(|layer| descriptor(layer).ok_or(EditError::Form("layers")));
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
            config,
            media_type: json["mediaType"].as_str().unwrap_or(OCI_MANIFEST).to_owned(),
            bytes: bytes.to_vec(),
            json,
            changed: false,
        })
    }

    pub(crate) fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest that it had.
    pub(crate) fn stored_digest(&self) -> ContentDigest {
        ContentDigest::sha256(&self.bytes)
    }

    pub(crate) fn config(&self) -> &BlobDescriptor {
        &self.config
    }

    pub(crate) fn layers(&self) -> &[BlobDescriptor] {
        &self.layers
    }

    /// Replaces a layer by the same in another compression. Annotations go, which are about the bytes of the old one; so do
    /// addresses where it is.
    pub(crate) fn replace_layer(
        &mut self,
        number: usize,
        compression: Compression,
        digest: &ContentDigest,
        size_bytes: u64,
    ) -> Result<(), EditError> {
        // Docker's manifests know no zstd.
        if compression == Compression::Zstd && self.media_type == DOCKER_MANIFEST {
            self.become_oci()?;
        }
        let media_type = layer_media_type(compression, self.media_type == DOCKER_MANIFEST);
        let layer = self.json["layers"].get_mut(number).ok_or(EditError::Form("layers"))?;
        *layer = serde_json::json!({"mediaType": media_type, "digest": digest, "size": size_bytes});
        self.changed = true;
        Ok(())
    }

    /// Adds a layer on top.
    pub(crate) fn add_layer(
        &mut self,
        compression: Compression,
        digest: &ContentDigest,
        size_bytes: u64,
    ) -> Result<(), EditError> {
        let layers = self.json["layers"].as_array_mut().ok_or(EditError::Form("layers"))?;
        layers.push(Value::Null);
        let number = layers.len() - 1;
        self.replace_layer(number, compression, digest, size_bytes)
    }

    /// Replaces the configuration by another one of the same kind.
    pub(crate) fn replace_config(&mut self, digest: &ContentDigest, size_bytes: u64) {
        self.config.digest = *digest;
        self.config.size = size_bytes;
        self.json["config"]["digest"] = digest.to_string().into();
        self.json["config"]["size"] = size_bytes.into();
        self.changed = true;
    }

    /// Sets an annotation.
    pub(crate) fn annotate(&mut self, name: &str, value: &str) {
        if !self.json["annotations"].is_object() {
            self.json["annotations"] = Value::Object(serde_json::Map::new());
        }
        self.json["annotations"][name] = value.into();
        self.changed = true;
    }

    fn become_oci(&mut self) -> Result<(), EditError> {
        for layer in self.json["layers"].as_array_mut().ok_or(EditError::Form("layers"))? {
            if layer.is_null() {
                continue;
            }
            let compression = layer["mediaType"].as_str().and_then(Compression::of_media_type);
            layer["mediaType"] = layer_media_type(compression.ok_or(EditError::Form("layers"))?, false).into();
        }
        self.json["config"]["mediaType"] = OCI_CONFIG.into();
        self.json["mediaType"] = OCI_MANIFEST.into();
        self.media_type = OCI_MANIFEST.to_owned();
        Ok(())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        if self.changed { self.json.to_string().into_bytes() } else { self.bytes }
    }
}

fn descriptor(json: &Value) -> Option<BlobDescriptor> {
    Some(BlobDescriptor {
        media_type: json["mediaType"].as_str()?.to_owned(),
        digest: json["digest"].as_str()?.parse().ok()?,
        size: json["size"].as_u64()?,
    })
}

fn layer_media_type(compression: Compression, docker: bool) -> String {
    match (docker, compression) {
        (true, Compression::None) => DOCKER_LAYER.to_owned(),
        (true, Compression::Gzip) => format!("{DOCKER_LAYER}.gzip"),
        (_, Compression::Zstd) => format!("{OCI_LAYER}+zstd"),
        (false, Compression::None) => OCI_LAYER.to_owned(),
        (false, Compression::Gzip) => format!("{OCI_LAYER}+gzip"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn text(media_type: &str, config: &str, layer: &str) -> String {
        format!(
            "{{ \"schemaVersion\": 2, \"mediaType\": \"{media_type}\", \"x\": {{\"b\": 1, \"a\": 2}},\n\"config\": {{\"mediaType\": \"{config}\", \
             \"size\": 2, \"digest\": \"{DIGEST}\"}}, \"layers\": [{{\"mediaType\": \"{layer}\", \"size\": 1, \"digest\": \"{DIGEST}\", \
             \"annotations\": {{\"of\": \"chunks\"}}}}, {{\"mediaType\": \"{layer}\", \"size\": 1, \"digest\": \"{DIGEST}\"}}]}}\n"
        )
    }

    #[test]
    fn what_is_not_changed_stays_byte_by_byte() {
        let text = text(OCI_MANIFEST, OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip");
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.layers().len(), 2);
        assert_eq!(manifest.into_bytes(), text.as_bytes());
    }

    #[test]
    fn a_layer_is_replaced_and_the_rest_is_kept() {
        let text = text(OCI_MANIFEST, OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd");
        let mut manifest = Manifest::parse(text.as_bytes()).unwrap();
        let digest = ContentDigest::sha256(b"x");
        manifest.replace_layer(0, Compression::Gzip, &digest, 7).unwrap();
        assert!(manifest.replace_layer(2, Compression::Gzip, &digest, 7).is_err());
        let json: Value = serde_json::from_slice(&manifest.into_bytes()).unwrap();
        assert_eq!(json["x"], serde_json::json!({"a": 2, "b": 1}));
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert_eq!(json["layers"][0], serde_json::json!({"mediaType": layer, "digest": digest, "size": 7}));
        assert_eq!(json["layers"][1]["digest"], DIGEST);
    }

    #[test]
    fn manifests_of_docker_stay_so_unless_they_cannot() {
        let config = "application/vnd.docker.container.image.v1+json";
        let text = text(DOCKER_MANIFEST, config, "application/vnd.docker.image.rootfs.diff.tar.gzip");
        let replaced = |compression| {
            let mut manifest = Manifest::parse(text.as_bytes()).unwrap();
            manifest.replace_layer(1, compression, &ContentDigest::sha256(b"x"), 7).unwrap();
            let media_type = manifest.media_type().to_owned();
            let json: Value = serde_json::from_slice(&manifest.into_bytes()).unwrap();
            assert_eq!(json["mediaType"], *media_type);
            [
                &json["mediaType"],
                &json["config"]["mediaType"],
                &json["layers"][0]["mediaType"],
                &json["layers"][1]["mediaType"],
            ]
            .map(|value| value.as_str().unwrap().to_owned())
        };
        let gzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert_eq!(replaced(Compression::Gzip), [DOCKER_MANIFEST, config, gzip, gzip]);
        let oci = "application/vnd.oci.image.layer.v1.tar";
        let expected = [OCI_MANIFEST, OCI_CONFIG, &format!("{oci}+gzip"), &format!("{oci}+zstd")];
        assert_eq!(replaced(Compression::Zstd), expected);
    }
}
