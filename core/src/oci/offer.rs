//! [`Offer`]: an image at its origin that was looked at and not pulled yet.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};

use super::digest::ContentDigest;
use super::manifest::{BlobDescriptor, CheckedConfig, CheckedManifest};
use super::platform::Platform;
use super::pull::{PullError, fetch_config};
use super::release::Release;
use super::source::{ImageSource, LayerBytes, RemoteSource, SourceError};
use super::store::layer_name;
use crate::published::PublishedSource;
use crate::repository::{FileError, Repository};

/// An image as its origin offers it now: manifest and configuration, fetched and checked.
///
/// It is an [`ImageSource`] itself, so that what is pulled is what was looked at, even if a tag is moved in between.
#[allow(missing_debug_implementations, reason = "a source has nothing to show")]
pub struct Offer<'a> {
    source: &'a dyn ImageSource,
    json: Vec<u8>,
    manifest: CheckedManifest,
    config_json: Vec<u8>,
    config: CheckedConfig,
    release: Release,
}

impl<'a> Offer<'a> {
    /// Fetches manifest and configuration. Refuses what is not an image for `platform`.
    ///
    /// # Errors
    /// As [`super::pull()`], for the same reasons.
    pub fn fetch(source: &'a dyn ImageSource, platform: &Platform) -> Result<Self, PullError> {
        let json = source.manifest().map_err(PullError::FetchManifest)?;
        let manifest = CheckedManifest::parse(&json)?;
        let config_json = fetch_config(source, &manifest.config)?;
        let config = CheckedConfig::parse(&config_json, manifest.layers.len())?;
        platform.check(&config.config.architecture().to_string(), &config.config.os().to_string())?;
        let release = Release::of(&manifest.manifest, &config.config);
        Ok(Self { source, json, manifest, config_json, config, release })
    }

    /// The bytes of the manifest: what is signed.
    pub fn manifest_json(&self) -> &[u8] {
        &self.json
    }

    /// Digest of the manifest.
    pub fn manifest_digest(&self) -> &ContentDigest {
        &self.manifest.digest
    }

    /// The version that the image is labelled with; not one that could do something to a terminal.
    pub fn version(&self) -> Option<&str> {
        self.release.version.as_deref()
    }

    /// What it says of its version and its times.
    pub fn release(&self) -> &Release {
        &self.release
    }

    pub(super) fn source(&self) -> &dyn ImageSource {
        self.source
    }

    pub(super) fn json(&self) -> &[u8] {
        &self.json
    }

    pub(super) fn config_digest(&self) -> &ContentDigest {
        &self.manifest.config.digest
    }

    pub(super) fn config_json(&self) -> &[u8] {
        &self.config_json
    }

    /// Its layers with their diff_ids.
    pub(super) fn layers(&self) -> impl Iterator<Item = (&BlobDescriptor, &ContentDigest)> {
        self.manifest.layers.iter().map(|(layer, _)| layer).zip(&self.config.diff_ids)
    }

    /// Sum of the sizes of all layers as they are transferred.
    pub fn layer_bytes(&self) -> u64 {
        self.manifest.layers.iter().fold(0, |bytes: u64, (layer, _)| bytes.saturating_add(layer.size))
    }

    /// Sum of the sizes of those layers that the repository does not have, without what has arrived of them in a pull that
    /// was interrupted.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub fn missing_bytes(&self, repository: &Repository) -> Result<u64, FileError> {
        let mut bytes = 0_u64;
        let mut seen = BTreeSet::new();
        for (layer, diff_id) in self.layers() {
            if seen.insert(diff_id) && repository.stream(&layer_name(diff_id))?.is_none() {
                let arrived = repository.partial_blob_bytes(&layer.digest.to_string())?;
                bytes = bytes.saturating_add(layer.size.saturating_sub(arrived));
            }
        }
        Ok(bytes)
    }
}

impl ImageSource for Offer<'_> {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        Ok(self.json.clone())
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        if descriptor.digest == self.manifest.config.digest {
            return Ok(Box::new(Cursor::new(&self.config_json)));
        }
        self.source.blob(descriptor)
    }

    fn layer(&self, descriptor: &BlobDescriptor, diff_id: &ContentDigest) -> Result<LayerBytes<'_>, SourceError> {
        self.source.layer(descriptor, diff_id)
    }

    fn remote(&self) -> Option<&dyn RemoteSource> {
        self.source.remote()
    }

    fn published(&self) -> Option<&dyn PublishedSource> {
        self.source.published()
    }
}
