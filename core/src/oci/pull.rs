//! Pulling: an image from its source into the repository.
//!
//! Everything is fetched, verified and built before the image has a name: layers in parallel, then the EROFS images, then the
//! streams of configuration and manifest, each written once. Names become durable together; the tag comes last. What is
//! interrupted before leaves objects without names, which the next collection of garbage removes, and, if the source is far
//! away, what has arrived of layers, with which the next pull goes on; layers that are complete may have names then.

mod arrived;
mod images;
mod layers;

use std::collections::BTreeMap;
use std::io;

use thiserror::Error;

use super::digest::ContentDigest;
use super::files::read_bounded;
use super::label::{is_boot_label, is_image_label};
use super::layer::LayerError;
use super::manifest::{BlobDescriptor, CONFIG_MAX_BYTES, CheckedConfig, CheckedManifest, ManifestError};
use super::platform::Platform;
use super::proof;
use super::source::{ImageSource, SourceError};
use super::store::{
    StoreError, StoredImage, TreeError, config_label, config_name, layer_name, manifest_name, manifests_with_config,
    open_manifest, read_document,
};
use super::tags::tag_ref;
use crate::boot::BootError;
use crate::digest::Digest;
use crate::erofs::{self, Format};
use crate::observer::Observer;
use crate::published::FetchTreeError;
use crate::repository::{
    FileError, ImageError, Namespace, NotWritable, ObjectError, PublishError, RefError, Repository, SpaceError,
};
use crate::splitstream::{ContentType, Writer};
use crate::transform::XattrFilter;
use arrived::Arrived;
use images::Images;
pub use images::TriedImage;

/// What to pull an image for.
#[derive(Clone, Copy, Debug, Default)]
pub struct PullOptions<'a> {
    /// Also build the image that is booted.
    pub bootable: bool,
    /// Extended attributes in the image that is booted.
    pub xattrs: XattrFilter,
    /// Of all ways in which composefs tools make the boot image of these layers, take the one that gives this digest, which
    /// may be sealed in a UKI. Implies `bootable`.
    pub expected_boot_image: Option<Digest>,
    /// Tag the image gets.
    pub tag: Option<&'a str>,
    /// Further ref below `streams/refs/` that keeps the image.
    pub keep_as: Option<&'a str>,
    /// Refuse an image for another kind of machine before its layers are fetched.
    pub platform: Option<&'a Platform>,
}

/// Why an image was not pulled.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PullError {
    /// The manifest was not delivered.
    #[error("cannot fetch the manifest of the image")]
    FetchManifest(#[source] SourceError),
    /// The manifest or configuration is not that of an image that can be stored.
    #[error("the image cannot be used")]
    Manifest(#[from] ManifestError),
    /// The configuration was not delivered.
    #[error("cannot fetch the image's configuration {digest}")]
    FetchConfig {
        /// The configuration.
        digest: ContentDigest,
        /// What is wrong.
        source: SourceError,
    },
    /// The configuration is not the one that the manifest names.
    #[error("the image's configuration {digest} is damaged: {read_bytes} bytes with digest {actual} were fetched")]
    ConfigDigest {
        /// The configuration.
        digest: ContentDigest,
        /// Digest of what was delivered.
        actual: ContentDigest,
        /// Its size.
        read_bytes: usize,
    },
    /// The layers that are missing do not fit onto the file system.
    #[error("there is no room for the image")]
    Space(#[source] SpaceError),
    /// A layer was not imported.
    #[error("cannot import layer {digest}")]
    Layer {
        /// Digest of the blob.
        digest: ContentDigest,
        /// What is wrong.
        source: LayerError,
    },
    /// The image was not fetched from a published tree.
    #[error(transparent)]
    Published(#[from] FetchTreeError),
    /// The layers do not make a file tree.
    #[error("cannot build the file tree of the image")]
    Tree(#[from] TreeError),
    /// The image cannot be booted.
    #[error("the image is not bootable")]
    Boot(#[from] BootError),
    /// No way of making the boot image gives the digest that was asked for.
    #[error("no boot image of the layers has the digest {expected}; tried: {}", list(tried))]
    BootImage {
        /// What was asked for.
        expected: Digest,
        /// What there is.
        tried: Vec<TriedImage>,
    },
    /// The file tree does not fit into an EROFS image.
    #[error("cannot make an EROFS image of the file tree")]
    Erofs(#[from] erofs::WriteError),
    /// The repository stores images in a format that OCI images are not stored in.
    #[error(
        "the repository has EROFS format V{}, in which no composefs tool stores OCI images; use a repository of V1 or V2",
        .0.number()
    )]
    Format(Format),
    /// The repository may not be changed.
    #[error(transparent)]
    NotWritable(#[from] NotWritable),
    /// What is stored cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object cannot be stored.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An EROFS image cannot be stored.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A split stream cannot be made.
    #[error("cannot make a split stream")]
    Stream(#[source] io::Error),
    /// The streams were not named.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The refs were not set.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Pulls an image: fetches what the repository does not have, verifies it, stores it, and names it. Durable on return.
///
/// Of an image that is there already, only the manifest is fetched.
///
/// # Errors
/// When something cannot be fetched, is not what it should be, or cannot be stored. No name and no ref has changed then, but
/// layers that are complete may have names.
pub fn pull(
    repository: &Repository,
    source: &dyn ImageSource,
    options: &PullOptions<'_>,
    observer: &dyn Observer,
) -> Result<StoredImage, PullError> {
    repository.check_writable()?;
    let tag_ref = options.tag.map(tag_ref).transpose()?;
    let (digest, boot_image) = store(repository, source, options, observer)?;
    if let Some(published) = source.published() {
        let (tree, serial) = published.serial().map_err(PullError::FetchManifest)?;
        repository.remember_serial(&tree, serial)?;
    }

    let name = manifest_name(&digest);
    for ref_name in [tag_ref.as_deref(), options.keep_as].into_iter().flatten() {
        if repository.ref_target(Namespace::Streams, ref_name)?.as_ref() != Some(&name) {
            repository.set_ref(Namespace::Streams, ref_name, &name)?;
        }
    }
    let image = open_manifest(repository, &digest)?;
    Ok(StoredImage { boot_image: boot_image.or(image.boot_image), ..image })
}

/// Makes sure that an image is there, and nothing more: no ref is set, and nothing of its source is remembered. Returns the
/// digest of the manifest, and the boot image that was asked for.
pub(super) fn store(
    repository: &Repository,
    source: &dyn ImageSource,
    options: &PullOptions<'_>,
    observer: &dyn Observer,
) -> Result<(ContentDigest, Option<Digest>), PullError> {
    let json = source.manifest().map_err(PullError::FetchManifest)?;
    let manifest = CheckedManifest::parse(&json)?;
    let digest = manifest.digest;
    let pull = Pull { repository, source, options, observer, json, manifest };
    Ok((digest, pull.store()?))
}

fn list(tried: &[TriedImage]) -> String {
    tried.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

struct Pull<'a> {
    repository: &'a Repository,
    source: &'a dyn ImageSource,
    options: &'a PullOptions<'a>,
    observer: &'a dyn Observer,
    json: Vec<u8>,
    manifest: CheckedManifest,
}

/// What the repository has of the image's configuration.
#[derive(Default)]
struct StoredConfig {
    json: Option<Vec<u8>>,
    /// EROFS images that are there.
    images: Images,
}

/// Fetches a configuration and checks it against the manifest.
pub(super) fn fetch_config(source: &dyn ImageSource, config: &BlobDescriptor) -> Result<Vec<u8>, PullError> {
    let BlobDescriptor { digest, size, .. } = *config;
    let failed = |source| PullError::FetchConfig { digest, source };
    loop {
        let blob = source.blob(config).map_err(failed)?;
        let json = read_bounded(blob, CONFIG_MAX_BYTES).map_err(|error| failed(SourceError::new(error)))?;
        if json.len() as u64 == size && digest.matches(&json) {
            return Ok(json);
        }
        if !source.remote().is_some_and(|remote| remote.blame(config)) {
            let actual = ContentDigest::sha256(&json);
            return Err(PullError::ConfigDigest { digest, actual, read_bytes: json.len() });
        }
    }
}

impl Pull<'_> {
    /// Makes sure that all streams and images are there; returns the boot image that was asked for.
    fn store(&self) -> Result<Option<Digest>, PullError> {
        let stored = self.stored_config()?;
        let json = match stored.json {
            Some(json) => json,
            None => fetch_config(self.source, &self.manifest.config)?,
        };
        let config = CheckedConfig::parse(&json, self.manifest.layers.len())?;
        if let Some(platform) = self.options.platform {
            platform.check(&config.config.architecture().to_string(), &config.config.os().to_string())?;
        }
        let formats = self.formats()?;
        if self.source.remote().is_some() || self.source.published().is_some() {
            self.repository.remove_abandoned_blobs();
        }
        self.check_space(&config.diff_ids)?;
        let arrived = Arrived::new(self.repository);
        let layers = self.repository.with_queue(|objects| self.layers(&config.diff_ids, objects, &arrived));
        let done = layers.and_then(|layers| {
            let images = self.images(&formats, &layers, stored.images)?;
            self.publish(&json, &layers, &images)?;
            Ok(images.boot)
        });
        match done {
            Ok(_) => arrived.all_named(),
            Err(_) => arrived.name_all(),
        }
        done
    }

    /// The configuration's streams, by name and as an older manifest stream has it: both may know images.
    fn stored_config(&self) -> Result<StoredConfig, PullError> {
        let repository = self.repository;
        let digest = &self.manifest.config.digest;
        let mut streams: Vec<Digest> = repository.stream(&config_name(digest))?.into_iter().collect();
        if let Some(stream) = repository.stream(&manifest_name(&self.manifest.digest))? {
            match repository.open_stream(&stream, Some(ContentType::Manifest)) {
                Ok(manifest) => streams.extend(manifest.named_refs().get(&config_label(digest))),
                Err(error) => tracing::warn!("the stored manifest cannot be read, replacing it: {error}"),
            }
        }
        streams.dedup();
        let mut stored = StoredConfig::default();
        for stream in streams {
            let document = match read_document(repository, &stream, ContentType::Config, digest) {
                Ok(document) => document,
                Err(error) => {
                    tracing::warn!("the stored configuration cannot be read, replacing it: {error}");
                    continue;
                }
            };
            let own = proof::is_remembered(repository, &stream, digest);
            for (label, image) in document.stream.named_refs() {
                if is_image_label(label) && repository.has_image(image)? {
                    let images = if own { &mut stored.images.own } else { &mut stored.images.foreign };
                    images.entry(label.clone()).or_insert(*image);
                }
            }
            stored.json.get_or_insert(document.json);
        }
        let Images { own, foreign, .. } = &mut stored.images;
        foreign.retain(|label, _| !own.contains_key(label));
        Ok(stored)
    }

    /// Writes the streams of configuration and manifest, and names all streams that are not named yet.
    fn publish(
        &self,
        config_json: &[u8],
        layers: &[(ContentDigest, Digest)],
        images: &Images,
    ) -> Result<(), PullError> {
        let repository = self.repository;
        let config_digest = self.manifest.config.digest;
        let layer_refs = layers.iter().map(|(diff_id, stream)| (diff_id.to_string(), *stream));
        // The order of the refs is that of cfsctl, so that neither tool re-points the other's stream for nothing.
        let all: BTreeMap<_, _> = images.own.iter().chain(&images.foreign).collect();
        let (boot, plain): (Vec<_>, Vec<_>) = all.into_iter().partition(|(label, _)| is_boot_label(label));
        let image_refs = plain.into_iter().chain(boot).map(|(label, image)| (label.clone(), *image));
        let config = put_document(repository, ContentType::Config, config_json, layer_refs.chain(image_refs))?;
        if images.foreign.is_empty() {
            proof::remember(repository, &config, &config_digest);
        }
        let manifest = self.put_manifest(&self.json, config, layers)?;

        let mut names: Vec<(String, Digest)> =
            layers.iter().map(|(diff_id, stream)| (layer_name(diff_id), *stream)).collect();
        names.push((config_name(&config_digest), config));
        names.push((manifest_name(&self.manifest.digest), manifest));
        names.extend(self.other_manifests(config, layers)?);
        let mut changed = Vec::new();
        for (name, stream) in names {
            if repository.stream(&name)? != Some(stream) {
                changed.push((name, stream));
            }
        }
        Ok(repository.publish_streams(&changed)?)
    }

    /// Other images with the same configuration refer to its older stream. Collectors that follow names would no longer
    /// find what that one needs, so these manifests are written again.
    fn other_manifests(
        &self,
        config: Digest,
        layers: &[(ContentDigest, Digest)],
    ) -> Result<Vec<(String, Digest)>, PullError> {
        let config_digest = &self.manifest.config.digest;
        let mut names = Vec::new();
        for (digest, stream) in manifests_with_config(self.repository, config_digest)? {
            let up_to_date = stream.named_refs().get(&config_label(config_digest)) == Some(&config);
            if up_to_date || digest == self.manifest.digest {
                continue;
            }
            let [object] = stream.object_refs() else { continue };
            match self.repository.read_object(object) {
                Ok(json) => names.push((manifest_name(&digest), self.put_manifest(&json, config, layers)?)),
                Err(error) => tracing::warn!("cannot read manifest {digest}, ignoring: {error}"),
            }
        }
        Ok(names)
    }

    fn put_manifest(
        &self,
        json: &[u8],
        config: Digest,
        layers: &[(ContentDigest, Digest)],
    ) -> Result<Digest, PullError> {
        let config_ref = (config_label(&self.manifest.config.digest), config);
        let layer_refs = layers.iter().map(|(diff_id, stream)| (diff_id.to_string(), *stream));
        put_document(self.repository, ContentType::Manifest, json, [config_ref].into_iter().chain(layer_refs))
    }
}

/// Stores a document and a stream that consists of it.
pub(super) fn put_document(
    repository: &Repository,
    kind: ContentType,
    json: &[u8],
    refs: impl Iterator<Item = (String, Digest)>,
) -> Result<Digest, PullError> {
    let object = repository.put_object(json)?;
    let mut stream = Writer::new(repository.algorithm(), kind).map_err(PullError::Stream)?;
    for (label, target) in refs {
        stream.named_ref(&label, target);
    }
    stream.external(object.digest, object.size_bytes).map_err(PullError::Stream)?;
    let bytes = stream.finish().map_err(PullError::Stream)?;
    Ok(repository.put_object(&bytes)?.digest)
}
