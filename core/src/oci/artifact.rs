//! Artifacts: manifests in a registry that are no images, stored as they come.
//!
//! ```text
//! streams/oci-manifest-<digest>   the manifest; refs: config:<digest>, <layer digest>...
//! streams/oci-blob-<digest>       the configuration, mostly {}; no refs
//! streams/oci-layer-<digest>      a layer: the blob, whatever it is
//! ```
//!
//! *Rationale for layers as they are:* an artifact has no diff_ids, and what looks like a layer of an image need not be one.
//! The digest of the blob is the digest of the merged stream, as it is for layers of images.
//!
//! *Rationale for the name of the configuration:* of a stream `oci-config-<digest>`, cfsctl 0.9 takes the layers from its refs, and
//! could not pull another artifact with the same configuration. It needs a name of some kind, or does not keep the document.

use std::io;
use std::sync::atomic::AtomicBool;

use oci_spec::image::ImageManifest;

use super::decompress::Blob;
use super::digest::ContentDigest;
use super::fetch::Fetch;
use super::layer::LayerError;
use super::manifest::{BlobDescriptor, CheckedArtifact};
use super::proof;
use super::pull::{PullError, fetch_config, put_document};
use super::referrers::add_referrer;
use super::source::ImageSource;
use super::store::{
    StoreError, StoredImage, config_label, find_manifest, layer_name, manifest_name, open_image, read_document,
};
use super::tags::tag_ref;
use crate::digest::Digest;
use crate::observer::{Event, Observer};
use crate::repository::{Namespace, PartialBlob, Repository};
use crate::splitstream::{ContentType, Writer};

/// An artifact that is in the repository.
#[derive(Clone, Debug)]
pub struct StoredArtifact {
    /// Digest of the manifest.
    pub manifest_digest: ContentDigest,
    /// The manifest.
    pub manifest: ImageManifest,
    /// What it is: `artifactType`, or else the media type of the configuration.
    pub artifact_type: String,
    /// The manifest that it belongs to.
    pub subject: Option<ContentDigest>,
    /// Its layers: digest of the blob and split stream.
    pub layers: Vec<(ContentDigest, Digest)>,
}

/// What a tag may stand for.
#[derive(Clone, Debug)]
pub enum Stored {
    /// An image.
    Image(Box<StoredImage>),
    /// Anything else.
    Artifact(Box<StoredArtifact>),
}

/// Opens an image or artifact by tag or digest, as [`open_image`] and [`open_artifact`] do.
///
/// # Errors
/// [`StoreError::NotFound`] if there is none.
pub fn open_any(repository: &Repository, name: &str) -> Result<Stored, StoreError> {
    let digest = find_manifest(repository, name)?;
    let stream = repository.stream(&manifest_name(&digest))?;
    let stream = stream.ok_or_else(|| StoreError::NotFound { name: name.to_owned() })?;
    let document = read_document(repository, &stream, ContentType::Manifest, &digest)?;
    let digest = digest.to_string();
    if is_artifact(&document.json) {
        Ok(Stored::Artifact(open_artifact(repository, &digest)?.into()))
    } else {
        Ok(Stored::Image(open_image(repository, &digest)?.into()))
    }
}

/// Whether a manifest is that of an artifact. Other things that are no images are left to the functions for images.
pub fn is_artifact(manifest: &[u8]) -> bool {
    CheckedArtifact::parse(manifest).is_ok_and(|manifest| !manifest.is_image())
}

/// Opens an artifact by tag, or by the digest of its manifest.
///
/// # Errors
/// [`StoreError::NotFound`] if there is none; [`StoreError::Document`] if it is incomplete.
pub fn open_artifact(repository: &Repository, name: &str) -> Result<StoredArtifact, StoreError> {
    let digest = find_manifest(repository, name)?;
    let stream = repository.stream(&manifest_name(&digest))?;
    let stream = stream.ok_or_else(|| StoreError::NotFound { name: name.to_owned() })?;
    let document = read_document(repository, &stream, ContentType::Manifest, &digest)?;
    let manifest = CheckedArtifact::parse(&document.json).map_err(|source| StoreError::Manifest { digest, source })?;
    let refs = document.stream.named_refs();
    let layer = |layer: &BlobDescriptor| match refs.get(&layer.digest.to_string()) {
        Some(stream) => Ok((layer.digest, *stream)),
        None => Err(StoreError::NoLayer { digest, diff_id: layer.digest }),
    };
    Ok(StoredArtifact {
        manifest_digest: digest,
        layers: manifest.layers.iter().map(layer).collect::<Result<_, _>>()?,
        artifact_type: manifest.artifact_type,
        subject: manifest.subject,
        manifest: manifest.manifest,
    })
}

/// Pulls an artifact: fetches what the repository does not have, verifies it, stores it, and names it. If it belongs to
/// another manifest, it is kept with that one. Durable on return.
///
/// # Errors
/// When something cannot be fetched, is not what it should be, or cannot be stored. No name and no ref has changed then.
pub fn pull_artifact(
    repository: &Repository,
    source: &dyn ImageSource,
    tag: Option<&str>,
    observer: &dyn Observer,
) -> Result<StoredArtifact, PullError> {
    repository.check_writable()?;
    let tag_ref = tag.map(tag_ref).transpose()?;
    let json = source.manifest().map_err(PullError::FetchManifest)?;
    let manifest = CheckedArtifact::parse(&json)?;
    let config_digest = manifest.config.digest;

    let mut names = Vec::new();
    let mut refs = Vec::new();
    let mut kept = Vec::new();
    let config = match stored_config(repository, &config_digest)? {
        Some(config) => config,
        None => {
            let json = fetch_config(source, &manifest.config)?;
            put_document(repository, ContentType::Config, &json, std::iter::empty())?
        }
    };
    names.push((blob_name(&config_digest), config));
    refs.push((config_label(&config_digest), config));
    for layer in &manifest.layers {
        let stream = match stored_layer(repository, &layer.digest)? {
            Some(stream) => stream,
            None => {
                let (stream, blob) = fetch_layer(repository, source, layer, observer)
                    .map_err(|source| PullError::Layer { digest: layer.digest, source })?;
                kept.extend(blob);
                stream
            }
        };
        names.push((layer_name(&layer.digest), stream));
        refs.push((layer.digest.to_string(), stream));
    }
    let name = manifest_name(&manifest.digest);
    names.push((name.clone(), put_document(repository, ContentType::Manifest, &json, refs.into_iter())?));
    let mut changed = Vec::new();
    for (name, stream) in names {
        if repository.stream(&name)? != Some(stream) {
            changed.push((name, stream));
        }
    }
    repository.publish_streams(&changed)?;
    kept.into_iter().for_each(PartialBlob::remove);
    if manifest.subject.is_some() {
        add_referrer(repository, &manifest.digest)?;
    }
    if let Some(tag_ref) = tag_ref {
        repository.set_ref(Namespace::Streams, &tag_ref, &name)?;
    }
    Ok(open_artifact(repository, &manifest.digest.to_string())?)
}

fn blob_name(digest: &ContentDigest) -> String {
    format!("oci-blob-{digest}")
}

/// The stream of a configuration. Many artifacts share one: {}.
fn stored_config(repository: &Repository, digest: &ContentDigest) -> Result<Option<Digest>, PullError> {
    let Some(stream) = repository.stream(&blob_name(digest))? else { return Ok(None) };
    Ok(read_document(repository, &stream, ContentType::Config, digest).is_ok().then_some(stream))
}

/// The stream of a blob, or of a layer of an image, with these contents.
fn stored_layer(repository: &Repository, digest: &ContentDigest) -> Result<Option<Digest>, PullError> {
    let Some(stream) = repository.stream(&layer_name(digest))? else { return Ok(None) };
    let good = match repository.open_stream(&stream, None) {
        Ok(reader) => proof::prove(repository, &reader, digest).is_ok(),
        Err(_) => false,
    };
    Ok(good.then_some(stream))
}

fn fetch_layer<'a>(
    repository: &'a Repository,
    source: &dyn ImageSource,
    layer: &BlobDescriptor,
    observer: &dyn Observer,
) -> Result<(Digest, Option<PartialBlob<'a>>), LayerError> {
    let id = layer.digest.to_string();
    let what = format!("blob {}", layer.digest.short());
    observer.event(Event::Started { id: &id, what: &what, total_bytes: Some(layer.size) });
    let fetch = Fetch { repository, source, blob: layer, id: &id, stop: &AtomicBool::new(false), observer };
    let (stream, kept) = fetch.run(|blob| import(repository, layer, blob))?;
    observer.event(Event::Finished { id: &id });
    Ok((stream, kept))
}

fn import(repository: &Repository, layer: &BlobDescriptor, mut blob: Blob<'_>) -> Result<Digest, LayerError> {
    let mut object = repository.new_object()?;
    let copied = io::copy(&mut blob, &mut object);
    if let Some(fault) = blob.fault(&layer.digest) {
        let error = copied.err().unwrap_or_else(|| io::ErrorKind::InvalidData.into());
        return Err(LayerError::of_fault(fault, layer.size, error));
    }
    copied.map_err(LayerError::Write)?;
    let object = object.finish()?;
    let mut stream = Writer::new(repository.algorithm(), ContentType::Blob).map_err(LayerError::Write)?;
    stream.external(object.digest, object.size_bytes).map_err(LayerError::Write)?;
    Ok(repository.put_object(&stream.finish().map_err(LayerError::Write)?)?.digest)
}
