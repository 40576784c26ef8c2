//! Checks that stored images are complete.

use std::collections::BTreeSet;
use std::fmt;

use super::digest::ContentDigest;
use super::label::is_image_label;
use super::manifest::{CheckedArtifact, CheckedConfig, CheckedManifest};
use super::proof::{self, ProofError};
use super::store::{StoreError, config_label, find_manifest, manifest_name};
use super::tags::{manifest_of_target, tag_refs};
use crate::digest::Digest;
use crate::repository::Repository;
use crate::splitstream::{ContentType, Reader};

/// Label of a configuration that names the EROFS image of its files.
const SEAL_LABEL: &str = "containers.composefs.fsverity";

/// What can be wrong with a stored image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ImageFindingKind {
    /// The name of a tag is not one.
    InvalidRefName,
    /// A tag stands for nothing, or not for an image.
    RefResolveFailed,
    /// The manifest cannot be read.
    ManifestReadFailed,
    /// The manifest has another digest.
    ManifestDigestMismatch,
    /// The manifest is not one.
    ManifestParseFailed,
    /// The manifest stream does not refer to the configuration.
    ConfigRefMissing,
    /// The configuration cannot be read.
    ConfigReadFailed,
    /// The configuration has another digest.
    ConfigDigestMismatch,
    /// The configuration is not one.
    ConfigParseFailed,
    /// A layer is not referred to.
    LayerRefMissing,
    /// The stream of a layer is not there.
    LayerStreamMissing,
    /// The stream of a layer cannot be read.
    LayerCheckFailed,
    /// The contents of a file are not there.
    LayerObjectMissing,
    /// The contents of a layer have another digest than its name.
    LayerContentsMismatch,
    /// The EROFS image that the configuration's label `containers.composefs.fsverity` names is not there.
    SealImageMissing,
    /// A layer of an artifact is not referred to.
    ArtifactLayerRefMissing,
    /// A layer of an artifact is not there, incomplete, or another one.
    ArtifactLayerObjectMissing,
    /// An EROFS image that the configuration refers to is not there, or has no name.
    ImageMissing,
}

impl ImageFindingKind {
    /// The name of the kind, as other tools have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidRefName => "invalid-ref-name",
            Self::RefResolveFailed => "ref-resolve-failed",
            Self::ManifestReadFailed => "manifest-read-failed",
            Self::ManifestDigestMismatch => "manifest-digest-mismatch",
            Self::ManifestParseFailed => "manifest-parse-failed",
            Self::ConfigRefMissing => "config-ref-missing",
            Self::ConfigReadFailed => "config-read-failed",
            Self::ConfigDigestMismatch => "config-digest-mismatch",
            Self::ConfigParseFailed => "config-parse-failed",
            Self::LayerRefMissing => "layer-ref-missing",
            Self::LayerStreamMissing => "layer-stream-missing",
            Self::LayerCheckFailed => "layer-check-failed",
            Self::LayerObjectMissing => "layer-object-missing",
            Self::LayerContentsMismatch => "layer-contents-mismatch",
            Self::SealImageMissing => "seal-image-missing",
            Self::ArtifactLayerRefMissing => "artifact-layer-ref-missing",
            Self::ArtifactLayerObjectMissing => "artifact-layer-object-missing",
            Self::ImageMissing => "image-missing",
        }
    }
}

/// One thing that is wrong with a stored image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFinding {
    /// What it is.
    pub kind: ImageFindingKind,
    /// The tag, document, layer or object.
    pub subject: String,
    /// More about it; may be empty.
    pub detail: String,
}

impl fmt::Display for ImageFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.subject)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// Checks all tagged images, and the tags.
///
/// # Errors
/// When the refs cannot be read.
pub fn verify_images(repository: &Repository) -> Result<Vec<ImageFinding>, StoreError> {
    let mut check = Check { repository, findings: Vec::new() };
    let mut manifests = BTreeSet::new();
    for (name, tag, target) in tag_refs(repository)? {
        let Some(tag) = tag.filter(|tag| !tag.is_empty() && !tag.starts_with('@')) else {
            check.found(ImageFindingKind::InvalidRefName, name, "");
            continue;
        };
        match manifest_of_target(&tag, &target) {
            Ok(digest) if repository.stream(&target)?.is_some() => {
                manifests.insert(digest);
            }
            Ok(_) => check.found(ImageFindingKind::RefResolveFailed, tag, format!("there is no {target}")),
            Err(error) => check.found(ImageFindingKind::RefResolveFailed, tag, error),
        }
    }
    for digest in manifests {
        check.image(&digest);
    }
    Ok(check.findings)
}

/// Checks one image or artifact: documents against their digests, layers and their objects, EROFS images. Layers that are not
/// known to be verified are read in full and compared with their diff_ids; of the others, it is for
/// [`Repository::fsck`] to tell whether an object has changed since.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such image; what is wrong with one that is there, is found.
pub fn verify_image(repository: &Repository, name: &str) -> Result<Vec<ImageFinding>, StoreError> {
    let digest = find_manifest(repository, name)?;
    let mut check = Check { repository, findings: Vec::new() };
    check.image(&digest);
    Ok(check.findings)
}

struct Check<'a> {
    repository: &'a Repository,
    findings: Vec<ImageFinding>,
}

impl Check<'_> {
    fn found(&mut self, kind: ImageFindingKind, subject: impl fmt::Display, detail: impl fmt::Display) {
        self.findings.push(ImageFinding { kind, subject: subject.to_string(), detail: detail.to_string() });
    }

    fn image(&mut self, digest: &ContentDigest) {
        use ImageFindingKind as Kind;
        let stream = match self.repository.stream(&manifest_name(digest)) {
            Ok(Some(stream)) => stream,
            Ok(None) => return self.found(Kind::ManifestReadFailed, digest, "it is not there"),
            Err(error) => return self.found(Kind::ManifestReadFailed, digest, error),
        };
        let kinds = (Kind::ManifestReadFailed, Kind::ManifestDigestMismatch);
        let Some((stream, json)) = self.document(&stream, ContentType::Manifest, digest, kinds) else { return };
        match CheckedArtifact::parse(&json) {
            Ok(artifact) if !artifact.is_image() => return self.artifact(digest, &artifact, &stream),
            _ => {}
        }
        let manifest = match CheckedManifest::parse(&json) {
            Ok(manifest) => manifest,
            Err(error) => return self.found(Kind::ManifestParseFailed, digest, Chain(&error)),
        };
        let config = &manifest.config.digest;
        let Some(config_stream) = stream.named_refs().get(&config_label(config)) else {
            return self.found(Kind::ConfigRefMissing, digest, "");
        };
        let kinds = (Kind::ConfigReadFailed, Kind::ConfigDigestMismatch);
        let Some((stream, json)) = self.document(config_stream, ContentType::Config, config, kinds) else { return };
        match CheckedConfig::parse(&json, manifest.layers.len()) {
            Ok(config) => {
                for diff_id in &config.diff_ids {
                    self.layer(diff_id, stream.named_refs().get(&diff_id.to_string()));
                }
                self.seal(&config);
            }
            Err(error) => self.found(Kind::ConfigParseFailed, config, Chain(&error)),
        }
        for (label, image) in stream.named_refs() {
            if is_image_label(label) && !matches!(self.repository.has_image(image), Ok(true)) {
                self.found(Kind::ImageMissing, image, label);
            }
        }
    }

    /// The image that a label of the configuration says it is sealed with.
    fn seal(&mut self, config: &CheckedConfig) {
        let labels = config.config.config().as_ref().and_then(|config| config.labels().as_ref());
        let Some(seal) = labels.and_then(|labels| labels.get(SEAL_LABEL)) else { return };
        if !matches!(self.repository.image(seal), Ok(Some(image)) if self.has_object(&image)) {
            self.found(ImageFindingKind::SealImageMissing, seal, "");
        }
    }

    fn artifact(&mut self, digest: &ContentDigest, artifact: &CheckedArtifact, stream: &Reader) {
        use ImageFindingKind as Kind;
        let config = &artifact.config.digest;
        match stream.named_refs().get(&config_label(config)) {
            Some(config_stream) => {
                let kinds = (Kind::ConfigReadFailed, Kind::ConfigDigestMismatch);
                self.document(config_stream, ContentType::Config, config, kinds);
            }
            None => self.found(Kind::ConfigRefMissing, digest, ""),
        }
        for layer in &artifact.layers {
            let layer = &layer.digest;
            let Some(stream) = stream.named_refs().get(&layer.to_string()) else {
                self.found(Kind::ArtifactLayerRefMissing, layer, "");
                continue;
            };
            let proof = match self.repository.open_stream(stream, None) {
                Ok(stream) => proof::prove(self.repository, &stream, layer),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = proof {
                self.found(Kind::ArtifactLayerObjectMissing, layer, Chain(&error));
            }
        }
    }

    /// Reads a document and compares its digest.
    fn document(
        &mut self,
        stream: &Digest,
        content_type: ContentType,
        digest: &ContentDigest,
        (unreadable, mismatch): (ImageFindingKind, ImageFindingKind),
    ) -> Option<(Reader, Vec<u8>)> {
        let stream = match self.repository.open_stream(stream, Some(content_type)) {
            Ok(stream) => stream,
            Err(error) => {
                self.found(unreadable, digest, Chain(&error));
                return None;
            }
        };
        let [object] = stream.object_refs() else {
            self.found(unreadable, digest, "its stream does not refer to exactly one object");
            return None;
        };
        match self.repository.read_object(object) {
            Ok(json) if digest.matches(&json) => Some((stream, json)),
            Ok(_) => {
                self.found(mismatch, digest, "");
                None
            }
            Err(error) => {
                self.found(unreadable, digest, Chain(&error));
                None
            }
        }
    }

    fn layer(&mut self, diff_id: &ContentDigest, stream: Option<&Digest>) {
        use ImageFindingKind as Kind;
        let Some(stream) = stream else { return self.found(Kind::LayerRefMissing, diff_id, "") };
        if !self.has_object(stream) {
            return self.found(Kind::LayerStreamMissing, diff_id, stream);
        }
        let reader = match self.repository.open_stream(stream, Some(ContentType::Layer)) {
            Ok(reader) => reader,
            Err(error) => return self.found(Kind::LayerCheckFailed, diff_id, Chain(&error)),
        };
        let missing: Vec<_> = reader.object_refs().iter().filter(|object| !self.has_object(object)).collect();
        for object in &missing {
            self.found(Kind::LayerObjectMissing, diff_id, object);
        }
        if proof::is_remembered(self.repository, stream, diff_id) {
            if let Some(error) = reader.chunks().find_map(Result::err) {
                self.found(Kind::LayerCheckFailed, diff_id, Chain(&error));
            }
        } else if missing.is_empty() {
            match proof::prove(self.repository, &reader, diff_id) {
                Ok(()) => {}
                Err(error @ ProofError::Contents { .. }) => {
                    self.found(Kind::LayerContentsMismatch, diff_id, Chain(&error));
                }
                Err(error) => self.found(Kind::LayerCheckFailed, diff_id, Chain(&error)),
            }
        }
    }

    fn has_object(&self, digest: &Digest) -> bool {
        matches!(self.repository.has_object(digest), Ok(true))
    }
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
