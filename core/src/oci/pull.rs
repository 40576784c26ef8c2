//! Pulling: an image from its source into the repository.
//!
//! Everything is fetched, verified and built before the first name is made: layers in parallel, then the EROFS images,
//! then the streams of configuration and manifest, each written once. Names become durable together; the tag comes last.
//! What is interrupted before leaves objects without names, which the next collection of garbage removes.

mod layers;

use std::collections::BTreeMap;
use std::io;

use thiserror::Error;

use super::digest::ContentDigest;
use super::layer::LayerError;
use super::layout::read_bounded;
use super::manifest::{BlobDescriptor, CONFIG_MAX_BYTES, CheckedConfig, CheckedManifest, ManifestError, Platform};
use super::source::{ImageSource, SourceError};
use super::store::{
    StoreError, StoredImage, TreeError, build_tree, config_label, config_name, image_label, layer_name, manifest_name,
    manifests_with_config, open_manifest, read_document,
};
use super::tags::tag_ref;
use crate::boot::{BootError, BootOptions, transform_for_boot};
use crate::digest::Digest;
use crate::erofs::{self, Format};
use crate::observer::{Event, Observer};
use crate::repository::{
    FileError, ImageError, Namespace, NotWritable, ObjectError, PublishError, RefError, Repository,
};
use crate::splitstream::{ContentType, Writer};
use crate::tree::Tree;

/// What to pull an image for.
#[derive(Clone, Copy, Debug, Default)]
pub struct PullOptions<'a> {
    /// Also build the image that is booted.
    pub bootable: bool,
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
    /// A layer was not imported.
    #[error("cannot import layer {digest}")]
    Layer {
        /// Digest of the blob.
        digest: ContentDigest,
        /// What is wrong.
        source: LayerError,
    },
    /// The layers do not make a file tree.
    #[error("cannot build the file tree of the image")]
    Tree(#[from] TreeError),
    /// The image cannot be booted.
    #[error("the image is not bootable")]
    Boot(#[from] BootError),
    /// The file tree does not fit into an EROFS image.
    #[error("cannot make an EROFS image of the file tree")]
    Erofs(#[from] erofs::WriteError),
    /// The repository stores images in a format that OCI images are not stored in.
    #[error("the repository has EROFS format V{}, which OCI images cannot be stored in", .0.number())]
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
/// When something cannot be fetched, is not what it should be, or cannot be stored. No name and no ref has changed then.
pub fn pull(
    repository: &Repository,
    source: &dyn ImageSource,
    options: &PullOptions<'_>,
    observer: &dyn Observer,
) -> Result<StoredImage, PullError> {
    repository.check_writable()?;
    let tag_ref = options.tag.map(tag_ref).transpose()?;
    let json = source.manifest().map_err(PullError::FetchManifest)?;
    let manifest = CheckedManifest::parse(&json)?;
    let pull = Pull { repository, source, options, observer, json, manifest };
    pull.store()?;

    let name = manifest_name(&pull.manifest.digest);
    for ref_name in [tag_ref.as_deref(), options.keep_as].into_iter().flatten() {
        if repository.ref_target(Namespace::Streams, ref_name)?.as_ref() != Some(&name) {
            repository.set_ref(Namespace::Streams, ref_name, &name)?;
        }
    }
    Ok(open_manifest(repository, &pull.manifest.digest)?)
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
    /// EROFS images that are there, by label.
    images: BTreeMap<String, Digest>,
}

/// Fetches an image's configuration and checks it against the manifest.
pub(super) fn fetch_config(source: &dyn ImageSource, manifest: &CheckedManifest) -> Result<Vec<u8>, PullError> {
    let BlobDescriptor { digest, size, .. } = manifest.config;
    let failed = |source| PullError::FetchConfig { digest, source };
    let blob = source.blob(&manifest.config).map_err(failed)?;
    let json = read_bounded(blob, CONFIG_MAX_BYTES).map_err(|error| failed(SourceError::new(error)))?;
    if json.len() as u64 != size || !digest.matches(&json) {
        let actual = ContentDigest::sha256(&json);
        return Err(PullError::ConfigDigest { digest, actual, read_bytes: json.len() });
    }
    Ok(json)
}

impl Pull<'_> {
    /// Makes sure that all streams and images are there.
    fn store(&self) -> Result<(), PullError> {
        let stored = self.stored_config()?;
        let json = match stored.json {
            Some(json) => json,
            None => fetch_config(self.source, &self.manifest)?,
        };
        let config = CheckedConfig::parse(&json, self.manifest.layers.len())?;
        if let Some(platform) = self.options.platform {
            platform.check(&config.config.architecture().to_string(), &config.config.os().to_string())?;
        }
        let formats = self.formats()?;
        let layers = self.layers(&config.diff_ids)?;
        let images = self.images(&formats, &layers, stored.images)?;
        self.publish(&json, &layers, &images)
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
            for (label, image) in document.stream.named_refs() {
                if label.starts_with("composefs.image") && repository.has_object(image)? {
                    stored.images.entry(label.clone()).or_insert(*image);
                }
            }
            stored.json.get_or_insert(document.json);
        }
        Ok(stored)
    }

    /// The EROFS formats that are wanted, checked before anything is fetched.
    fn formats(&self) -> Result<Vec<Format>, PullError> {
        let formats = self.repository.image_formats();
        match formats.iter().find(|format| image_label(**format, false).is_none()) {
            Some(format) => Err(PullError::Format(*format)),
            None => Ok(formats),
        }
    }

    /// All EROFS images by label: those there were, and those that are wanted and missing, which are made now.
    fn images(
        &self,
        formats: &[Format],
        layers: &[(ContentDigest, Digest)],
        mut images: BTreeMap<String, Digest>,
    ) -> Result<BTreeMap<String, Digest>, PullError> {
        let missing = |images: &BTreeMap<String, Digest>, bootable| {
            let labelled = formats.iter().filter_map(move |format| Some((image_label(*format, bootable)?, *format)));
            labelled.filter(|(label, _)| !images.contains_key(*label)).collect::<Vec<_>>()
        };
        let (plain, boot) = (missing(&images, false), missing(&images, true));
        let boot = if self.options.bootable { boot } else { Vec::new() };
        if plain.is_empty() && boot.is_empty() {
            return Ok(images);
        }
        self.observer.event(Event::Step("building the image"));
        let mut tree = build_tree(self.repository, layers)?;
        let mut write = |tree: &Tree, wanted: Vec<(&str, Format)>| {
            for (label, format) in wanted {
                let image = erofs::write(tree, format)?;
                images.insert(label.to_owned(), self.repository.put_image(&image)?);
            }
            Ok::<_, PullError>(())
        };
        write(&tree, plain)?;
        if !boot.is_empty() {
            transform_for_boot(self.repository, &mut tree, &BootOptions::default())?;
            write(&tree, boot)?;
        }
        Ok(images)
    }

    /// Writes the streams of configuration and manifest, and names all streams that are not named yet.
    fn publish(
        &self,
        config_json: &[u8],
        layers: &[(ContentDigest, Digest)],
        images: &BTreeMap<String, Digest>,
    ) -> Result<(), PullError> {
        let repository = self.repository;
        let config_digest = self.manifest.config.digest;
        let layer_refs = layers.iter().map(|(diff_id, stream)| (diff_id.to_string(), *stream));
        // The order of the refs is that of cfsctl, so that neither tool re-points the other's stream for nothing.
        let (boot, plain): (Vec<_>, Vec<_>) =
            images.iter().partition(|(label, _)| label.starts_with("composefs.image.boot"));
        let image_refs = plain.into_iter().chain(boot).map(|(label, image)| (label.clone(), *image));
        let config = self.put_document(ContentType::Config, config_json, layer_refs.chain(image_refs))?;
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
        self.put_document(ContentType::Manifest, json, [config_ref].into_iter().chain(layer_refs))
    }

    /// Stores a document and a stream that consists of it.
    fn put_document(
        &self,
        kind: ContentType,
        json: &[u8],
        refs: impl Iterator<Item = (String, Digest)>,
    ) -> Result<Digest, PullError> {
        let object = self.repository.put_object(json)?;
        let mut stream = Writer::new(self.repository.algorithm(), kind).map_err(PullError::Stream)?;
        for (label, target) in refs {
            stream.named_ref(&label, target);
        }
        stream.external(object.digest, object.size_bytes).map_err(PullError::Stream)?;
        let bytes = stream.finish().map_err(PullError::Stream)?;
        Ok(self.repository.put_object(&bytes)?.digest)
    }
}
