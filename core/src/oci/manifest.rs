//! Manifests, configurations and indexes of images, in OCI's and Docker's media types.
//!
//! What is fetched is checked here before anything is done with it: sizes are bounded, and only manifests of images in
//! layers of tar are let through.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use thiserror::Error;

use super::decompress::Compression;
use super::digest::{ContentDigest, ParseContentDigestError};
use super::platform::Platform;

/// Most bytes of a manifest or index that are read.
pub const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// Most bytes of an image configuration that are read.
pub const CONFIG_MAX_BYTES: u64 = 16 << 20;

/// Media types of image manifests.
pub const MANIFEST_MEDIA_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Media types of indexes (manifest lists).
pub const INDEX_MEDIA_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const CONFIG_MEDIA_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Media type of what sigstore signs.
const SIGNATURE_MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Why a document is not the manifest or configuration of an image that can be stored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is longer than any real one.
    #[error("the {document} has {size} bytes, the most is {max}")]
    TooLarge {
        /// "manifest" or "configuration".
        document: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// It is not JSON of the right form.
    #[error("the {document} cannot be parsed")]
    Json {
        /// "manifest", "index" or "configuration".
        document: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Docker's first format, or one from the future.
    #[error("manifest schema version {0} is not supported, only 2 is; push the image again with a current tool")]
    SchemaVersion(u64),
    /// It lists manifests, where one manifest is expected.
    #[error("expected the manifest of one image, found an index of several")]
    Index,
    /// It is not an image that holds files.
    #[error("this is not an OS image but an artifact, its configuration has media type {0}")]
    Artifact(String),
    /// A layer is in a form that is not known.
    #[error("layer {digest} has media type {media_type}, which is not supported")]
    LayerMediaType {
        /// Digest of the blob.
        digest: ContentDigest,
        /// Its media type.
        media_type: String,
    },
    /// A digest in the document is malformed.
    #[error("the {document} has a digest that is not one")]
    Digest {
        /// "manifest" or "configuration".
        document: &'static str,
        /// What is wrong.
        source: ParseContentDigestError,
    },
    /// The configuration does not describe the layers.
    #[error("the manifest has {layers} layers, its configuration describes {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// No image for this kind of machine.
    #[error("there is no image for {wanted}, only for {}", list(available))]
    Platform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<String>,
    },
}

fn list(available: &[String]) -> String {
    if available.is_empty() { "nothing".to_owned() } else { available.join(", ") }
}

/// A blob as a manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobDescriptor {
    /// Form of the contents.
    pub media_type: String,
    /// Hash of the bytes as they are stored.
    pub digest: ContentDigest,
    /// Number of these bytes.
    pub size: u64,
}

impl TryFrom<&Descriptor> for BlobDescriptor {
    type Error = ParseContentDigestError;

    fn try_from(descriptor: &Descriptor) -> Result<Self, Self::Error> {
        Ok(Self {
            media_type: descriptor.media_type().to_string(),
            digest: descriptor.digest().to_string().parse()?,
            size: descriptor.size(),
        })
    }
}

/// A manifest with the parts that are used later, checked.
#[derive(Clone, Debug)]
pub(crate) struct CheckedManifest {
    pub(crate) digest: ContentDigest,
    pub(crate) manifest: ImageManifest,
    pub(crate) config: BlobDescriptor,
    pub(crate) layers: Vec<(BlobDescriptor, Compression)>,
}

impl CheckedManifest {
    /// Parses a manifest and refuses what is not an image of tar layers.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        check_size("manifest", bytes.len() as u64, MANIFEST_MAX_BYTES)?;
        check_form(bytes)?;
        let manifest: ImageManifest = json("manifest", bytes)?;
        let blob = |descriptor: &Descriptor| {
            BlobDescriptor::try_from(descriptor)
                .map_err(|source| ManifestError::Digest { document: "manifest", source })
        };
        let config = blob(manifest.config())?;
        if !CONFIG_MEDIA_TYPES.contains(&config.media_type.as_str()) {
            return Err(ManifestError::Artifact(config.media_type));
        }
        check_size("configuration", config.size, CONFIG_MAX_BYTES)?;
        let mut layers = Vec::with_capacity(manifest.layers().len());
        for descriptor in manifest.layers() {
            let layer = blob(descriptor)?;
            match Compression::of_media_type(&layer.media_type) {
                Some(compression) => layers.push((layer, compression)),
                None => {
                    return Err(ManifestError::LayerMediaType { digest: layer.digest, media_type: layer.media_type });
                }
            }
        }
        Ok(Self { digest: ContentDigest::sha256(bytes), manifest, config, layers })
    }
}

/// The manifest of anything at all, as far as artifacts are looked into.
#[derive(Clone, Debug)]
pub(crate) struct CheckedArtifact {
    pub(crate) digest: ContentDigest,
    pub(crate) manifest: ImageManifest,
    pub(crate) config: BlobDescriptor,
    pub(crate) layers: Vec<BlobDescriptor>,
    /// `artifactType`, or else the media type of the configuration.
    pub(crate) artifact_type: String,
    /// The manifest that it belongs to.
    pub(crate) subject: Option<ContentDigest>,
}

impl CheckedArtifact {
    /// Parses a manifest; whether it is an image is for [`CheckedArtifact::is_image`] to tell.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        check_size("manifest", bytes.len() as u64, MANIFEST_MAX_BYTES)?;
        check_form(bytes)?;
        let manifest: ImageManifest = json("manifest", bytes)?;
        let blob = |descriptor: &Descriptor| {
            BlobDescriptor::try_from(descriptor)
                .map_err(|source| ManifestError::Digest { document: "manifest", source })
        };
        let config = blob(manifest.config())?;
        check_size("configuration", config.size, CONFIG_MAX_BYTES)?;
        let subject = manifest.subject().as_ref().map(&blob).transpose()?.map(|subject| subject.digest);
        Ok(Self {
            digest: ContentDigest::sha256(bytes),
            layers: manifest.layers().iter().map(blob).collect::<Result<_, _>>()?,
            artifact_type: manifest.artifact_type().as_ref().map_or(config.media_type.clone(), ToString::to_string),
            subject,
            config,
            manifest,
        })
    }

    /// An image has a configuration that says how its layers are used. Signatures of sigstore have one, too, but no layers.
    pub(crate) fn is_image(&self) -> bool {
        let is_signature = |layer: &BlobDescriptor| layer.media_type == SIGNATURE_MEDIA_TYPE;
        CONFIG_MEDIA_TYPES.contains(&self.config.media_type.as_str())
            && (self.layers.is_empty() || !self.layers.iter().all(is_signature))
    }
}

/// A configuration with its diff_ids, checked.
#[derive(Clone, Debug)]
pub(crate) struct CheckedConfig {
    pub(crate) config: ImageConfiguration,
    pub(crate) diff_ids: Vec<ContentDigest>,
}

impl CheckedConfig {
    /// Parses the configuration of an image with this many layers.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, ManifestError> {
        let config: ImageConfiguration = json("configuration", bytes)?;
        let diff_ids: Result<Vec<ContentDigest>, _> = config.rootfs().diff_ids().iter().map(|id| id.parse()).collect();
        let diff_ids = diff_ids.map_err(|source| ManifestError::Digest { document: "configuration", source })?;
        if diff_ids.len() != layers {
            return Err(ManifestError::LayerCount { layers, diff_ids: diff_ids.len() });
        }
        Ok(Self { config, diff_ids })
    }
}

/// Tells an index, an old manifest and other things apart before the parser complains of a missing field.
fn check_form(bytes: &[u8]) -> Result<(), ManifestError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Form {
        schema_version: u64,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let form: Form = json("manifest", bytes)?;
    if form.schema_version != 2 {
        return Err(ManifestError::SchemaVersion(form.schema_version));
    }
    match form.media_type.as_deref() {
        Some(media_type) if INDEX_MEDIA_TYPES.contains(&media_type) => Err(ManifestError::Index),
        None if form.manifests.is_some() => Err(ManifestError::Index),
        Some(media_type) if !MANIFEST_MEDIA_TYPES.contains(&media_type) => {
            Err(ManifestError::Artifact(media_type.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Parses an index (manifest list).
///
/// # Errors
/// When it is too long or not one.
pub fn parse_index(bytes: &[u8]) -> Result<ImageIndex, ManifestError> {
    check_size("index", bytes.len() as u64, MANIFEST_MAX_BYTES)?;
    json("index", bytes)
}

fn json<'a, T: Deserialize<'a>>(document: &'static str, bytes: &'a [u8]) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { document, source })
}

fn check_size(document: &'static str, size: u64, max: u64) -> Result<(), ManifestError> {
    if size > max { Err(ManifestError::TooLarge { document, size, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn signatures_of_sigstore_are_artifacts() {
        let of = |layers: &[&str]| {
            let layers: Vec<_> = layers
                .iter()
                .map(|kind| format!(r#"{{"mediaType":"application/vnd.{kind}","size":1,"digest":"{DIGEST}"}}"#))
                .collect();
            let manifest = format!(
                r#"{{"schemaVersion":2,"layers":[{}],"config":{{"mediaType":"application/vnd.oci.image.config.v1+json",
                "size":2,"digest":"{DIGEST}"}}}}"#,
                layers.join(",")
            );
            CheckedArtifact::parse(manifest.as_bytes()).unwrap().is_image()
        };
        let (layer, signature) = ("oci.image.layer.v1.tar", "dev.cosign.simplesigning.v1+json");
        assert!(of(&[]) && of(&[layer]) && of(&[layer, signature]));
        assert!(!of(&[signature]) && !of(&[signature, signature]));
    }

    #[test]
    fn documents_as_docker_writes_them_are_read() {
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",
            "config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":2,"digest":"{DIGEST}"}},
            "layers":[
            {{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":1,"digest":"{DIGEST}"}},
            {{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","size":2,"digest":"{DIGEST}",
              "urls":["https://example.org/layer"]}}]}}"#
        );
        let manifest = CheckedManifest::parse(manifest.as_bytes()).unwrap();
        let compressions: Vec<_> = manifest.layers.iter().map(|(_, compression)| *compression).collect();
        assert_eq!(compressions, [Compression::Gzip, Compression::Gzip]);

        let config = format!(
            r#"{{"architecture":"amd64","config":{{"Hostname":"","Domainname":"","User":"","AttachStdin":false,
            "Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":["PATH=/bin"],"Cmd":null,"Image":"sha256:00",
            "ExposedPorts":{{"80/tcp":{{}}}},"Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,
            "Labels":null,"Healthcheck":{{"Test":["NONE"]}},"ArgsEscaped":true}},"container":"00",
            "container_config":{{"Hostname":"x"}},"created":"2023-01-01T00:00:00.000000000Z","docker_version":"20.10",
            "history":[{{"created":"2023-01-01T00:00:00Z","created_by":"/bin/sh","empty_layer":true}}],"os":"linux",
            "variant":"","rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}}}}"#
        );
        let config = CheckedConfig::parse(config.as_bytes(), 1).unwrap();
        assert_eq!(config.diff_ids, [DIGEST.parse().unwrap()]);
        let minimal =
            format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}}}}"#);
        assert!(CheckedConfig::parse(minimal.as_bytes(), 1).is_ok());
        assert!(matches!(CheckedConfig::parse(minimal.as_bytes(), 2), Err(ManifestError::LayerCount { .. })));
    }
}
