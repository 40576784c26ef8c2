//! Images in the repository: their streams and what they consist of.
//!
//! ```text
//! streams/oci-manifest-<digest>   the manifest; refs: config:<digest>, <diff_id>...
//! streams/oci-config-<digest>     the configuration; refs: <diff_id>..., labels of EROFS images
//! streams/oci-layer-<diff_id>     an uncompressed layer
//! ```

use std::collections::BTreeMap;

use oci_spec::image::{ImageConfiguration, ImageManifest};
use thiserror::Error;

use super::apply::TreeBuilder;
use super::digest::ContentDigest;
use super::label::{ImageLabel, is_image_label};
use super::layer;
use super::layer::StoredLayerError;
use super::manifest::{CheckedArtifact, CheckedConfig, CheckedManifest, ManifestError};
use super::release::Release;
use super::tags::resolve_tag;
use crate::digest::Digest;
use crate::repository::{FileError, MANIFEST_PREFIX, ObjectError, RefError, Repository, StreamError};
use crate::splitstream::{ContentType, Reader};
use crate::transform::{TransformError, XattrFilter, transform_for_oci};
use crate::tree::Tree;

/// Why an image of the repository cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no image of this name.
    #[error("there is no image {name:?} in the repository")]
    NotFound {
        /// A tag or digest.
        name: String,
    },
    /// A tag cannot be written like this.
    #[error("{0:?} cannot be a tag: it is empty or begins with @")]
    Tag(String),
    /// A tag points at something else than a manifest.
    #[error("tag {tag:?} stands for {target}, which is not an image")]
    TagTarget {
        /// The tag.
        tag: String,
        /// What it points at.
        target: String,
    },
    /// The stream of a document is not made as it must be.
    #[error("the stream of {document} {digest} is damaged: {problem}")]
    Document {
        /// "manifest" or "configuration".
        document: &'static str,
        /// Digest of the document.
        digest: ContentDigest,
        /// What is wrong.
        problem: &'static str,
    },
    /// The stream of a document cannot be read.
    #[error("cannot read {document} {digest}")]
    Read {
        /// "manifest" or "configuration".
        document: &'static str,
        /// Digest of the document.
        digest: ContentDigest,
        /// What is wrong.
        source: StreamError,
    },
    /// A document itself cannot be read.
    #[error("cannot read {document} {digest}")]
    Object {
        /// "manifest" or "configuration".
        document: &'static str,
        /// Digest of the document.
        digest: ContentDigest,
        /// What is wrong.
        source: ObjectError,
    },
    /// A document is not that of an image.
    #[error("image {digest} cannot be used")]
    Manifest {
        /// The image.
        digest: ContentDigest,
        /// What is wrong.
        source: ManifestError,
    },
    /// A layer is not referred to.
    #[error("image {digest} does not refer to its layer {diff_id}; pull it again")]
    NoLayer {
        /// The image.
        digest: ContentDigest,
        /// The layer.
        diff_id: ContentDigest,
    },
    /// Names cannot be read or changed.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why the file tree of an image cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A layer cannot be applied.
    #[error("cannot apply layer {diff_id}")]
    Layer {
        /// The layer.
        diff_id: ContentDigest,
        /// What is wrong.
        source: Box<StoredLayerError>,
    },
    /// The tree is not that of an operating system.
    #[error(transparent)]
    Transform(#[from] TransformError),
}

/// An image that is in the repository.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// Digest of the manifest.
    pub manifest_digest: ContentDigest,
    /// Digest of the configuration.
    pub config_digest: ContentDigest,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The configuration.
    pub config: ImageConfiguration,
    /// The EROFS image of all files, in the repository's default format if it is there.
    pub image: Option<Digest>,
    /// The EROFS image that is booted: [`crate::boot::transform_for_boot`]. What [`super::pull()`] returns has the one that was
    /// asked for here; otherwise, of several, it is the one with the usual extended attributes.
    pub boot_image: Option<Digest>,
    /// All EROFS images that were made of it, by their labels (`composefs.image.v1`).
    pub erofs_images: BTreeMap<String, Digest>,
    /// The layers, lowest first: diff_id and split stream.
    pub layers: Vec<(ContentDigest, Digest)>,
}

impl StoredImage {
    /// First-level name of the manifest's stream: what a ref that keeps the image points at.
    pub fn stream_name(&self) -> String {
        manifest_name(&self.manifest_digest)
    }

    /// What it says of its version and its times.
    pub fn release(&self) -> Release {
        Release::of(&self.manifest, &self.config)
    }
}

pub(crate) fn manifest_name(digest: &ContentDigest) -> String {
    format!("{MANIFEST_PREFIX}{digest}")
}

pub(crate) fn config_name(digest: &ContentDigest) -> String {
    format!("oci-config-{digest}")
}

pub(crate) fn layer_name(diff_id: &ContentDigest) -> String {
    format!("oci-layer-{diff_id}")
}

pub(crate) fn config_label(digest: &ContentDigest) -> String {
    format!("config:{digest}")
}

/// A document and what its stream refers to.
pub(crate) struct Document {
    pub(crate) stream: Reader,
    pub(crate) json: Vec<u8>,
}

/// Reads a manifest or configuration: the only object of its stream.
pub(crate) fn read_document(
    repository: &Repository,
    stream: &Digest,
    kind: ContentType,
    digest: &ContentDigest,
) -> Result<Document, StoreError> {
    let (document, digest) = (if kind == ContentType::Manifest { "manifest" } else { "configuration" }, *digest);
    let stream =
        repository.open_stream(stream, Some(kind)).map_err(|source| StoreError::Read { document, digest, source })?;
    let [object] = stream.object_refs() else {
        return Err(StoreError::Document { document, digest, problem: "it does not refer to exactly one object" });
    };
    let json = repository.read_object(object).map_err(|source| StoreError::Object { document, digest, source })?;
    if !digest.matches(&json) {
        return Err(StoreError::Document { document, digest, problem: "its contents have another digest" });
    }
    Ok(Document { stream, json })
}

/// Opens an image by tag, or by the digest of its manifest or configuration (`sha256:...`, with or without `@`).
///
/// # Errors
/// [`StoreError::NotFound`] if there is none.
pub fn open_image(repository: &Repository, name: &str) -> Result<StoredImage, StoreError> {
    open_manifest(repository, &find_manifest(repository, name)?)
}

/// The manifest that a tag or digest stands for; for a tag, it need not be there.
pub(crate) fn find_manifest(repository: &Repository, name: &str) -> Result<ContentDigest, StoreError> {
    match name.strip_prefix('@').unwrap_or(name).parse() {
        Ok(digest) if repository.stream(&manifest_name(&digest))?.is_some() => Ok(digest),
        Ok(digest) => match manifests_with_config(repository, &digest)?.first() {
            Some((manifest, _)) => Ok(*manifest),
            None => Err(StoreError::NotFound { name: name.to_owned() }),
        },
        Err(_) => resolve_tag(repository, name),
    }
}

/// Opens an image by the digest of its manifest.
pub(crate) fn open_manifest(repository: &Repository, digest: &ContentDigest) -> Result<StoredImage, StoreError> {
    let stream = repository.stream(&manifest_name(digest))?;
    let stream = stream.ok_or_else(|| StoreError::NotFound { name: digest.to_string() })?;
    let document = read_document(repository, &stream, ContentType::Manifest, digest)?;
    let failed = |source| StoreError::Manifest { digest: *digest, source };
    let manifest = CheckedManifest::parse(&document.json).map_err(failed)?;
    let config_digest = manifest.config.digest;
    let config_stream =
        document.stream.named_refs().get(&config_label(&config_digest)).ok_or(StoreError::Document {
            document: "manifest",
            digest: *digest,
            problem: "it does not refer to the configuration",
        })?;
    let document = read_document(repository, config_stream, ContentType::Config, &config_digest)?;
    let config = CheckedConfig::parse(&document.json, manifest.layers.len()).map_err(failed)?;
    let refs = document.stream.named_refs();
    let layer = |diff_id: &ContentDigest| match refs.get(&diff_id.to_string()) {
        Some(stream) => Ok((*diff_id, *stream)),
        None => Err(StoreError::NoLayer { digest: *digest, diff_id: *diff_id }),
    };
    let layers = config.diff_ids.iter().map(layer).collect::<Result<_, _>>()?;
    let formats = repository.image_formats();
    let image_of = |bootable| {
        // Other formats after those of the repository: it may have been made when the repository had another default.
        let own = formats.iter().filter_map(|format| ImageLabel::new(*format, bootable));
        let usual = own.chain(ImageLabel::all().filter(|label| label.boot.is_some() == bootable.is_some()));
        usual.filter_map(|label| refs.get(&label.to_string())).next().copied()
    };
    Ok(StoredImage {
        manifest_digest: *digest,
        config_digest,
        manifest: manifest.manifest,
        config: config.config,
        image: image_of(None),
        boot_image: image_of(Some(XattrFilter::AllowlistOnly)),
        erofs_images: refs.iter().filter(|(label, _)| is_image_label(label)).map(|(l, d)| (l.clone(), *d)).collect(),
        layers,
    })
}

/// The manifest and the configuration of an image or artifact as they were pulled, byte by byte.
///
/// # Errors
/// [`StoreError::NotFound`] if there is no such manifest; others when one cannot be read or is damaged.
pub fn documents(repository: &Repository, digest: &ContentDigest) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
    let missing = || StoreError::NotFound { name: digest.to_string() };
    let stream = repository.stream(&manifest_name(digest))?.ok_or_else(missing)?;
    let manifest = read_document(repository, &stream, ContentType::Manifest, digest)?;
    let config = CheckedArtifact::parse(&manifest.json)
        .map_err(|source| StoreError::Manifest { digest: *digest, source })?
        .config
        .digest;
    let stream = manifest.stream.named_refs().get(&config_label(&config)).ok_or(StoreError::Document {
        document: "manifest",
        digest: *digest,
        problem: "it does not refer to the configuration",
    })?;
    let config = read_document(repository, stream, ContentType::Config, &config)?;
    Ok((manifest.json, config.json))
}

/// The digests of all manifests that have a name, tagged or not, those of artifacts among them; in byte order.
///
/// # Errors
/// When the names cannot be read.
pub fn manifests(repository: &Repository) -> Result<Vec<ContentDigest>, FileError> {
    let names = repository.stream_names()?;
    Ok(names.iter().filter_map(|name| name.strip_prefix(MANIFEST_PREFIX)?.parse().ok()).collect())
}

/// The image that an EROFS image was made of. Images that cannot be read are passed over.
///
/// # Errors
/// When the names cannot be read.
pub fn image_of_erofs(repository: &Repository, erofs: &Digest) -> Result<Option<StoredImage>, FileError> {
    for manifest in manifests(repository)? {
        match open_manifest(repository, &manifest) {
            Ok(image) if image.erofs_images.values().any(|digest| digest == erofs) => return Ok(Some(image)),
            Ok(_) => {}
            Err(error) => tracing::debug!("cannot read image {manifest}, ignoring: {error}"),
        }
    }
    Ok(None)
}

/// All manifests that refer to a configuration, with their streams. Manifests that cannot be read are passed over.
pub(crate) fn manifests_with_config(
    repository: &Repository,
    config: &ContentDigest,
) -> Result<Vec<(ContentDigest, Reader)>, StoreError> {
    let label = config_label(config);
    let mut found = Vec::new();
    for name in repository.stream_names()? {
        let Some(digest) = name.strip_prefix(MANIFEST_PREFIX).and_then(|digest| digest.parse().ok()) else { continue };
        let Some(object) = repository.stream(&name)? else { continue };
        match repository.open_stream(&object, Some(ContentType::Manifest)) {
            Ok(stream) if stream.named_refs().contains_key(&label) => found.push((digest, stream)),
            Ok(_) => {}
            Err(error) => tracing::warn!("cannot read the stream of manifest {digest}, ignoring: {error}"),
        }
    }
    Ok(found)
}

/// The file tree of an image: its layers applied, then transformed as all images are.
///
/// # Errors
/// When a layer cannot be read or applied, or there is no `/usr`.
pub fn image_tree(repository: &Repository, image: &StoredImage) -> Result<Tree, TreeError> {
    image_tree_with(repository, image, XattrFilter::AllowlistOnly)
}

/// The same with a choice of extended attributes. Images with others than the usual ones are only booted, see
/// [`super::PullOptions::xattrs`].
///
/// # Errors
/// As [`image_tree`].
pub fn image_tree_with(repository: &Repository, image: &StoredImage, xattrs: XattrFilter) -> Result<Tree, TreeError> {
    build_tree(repository, &image.layers, xattrs)
}

/// The file tree of an image as its layers have it, not transformed; with all extended attributes, or those that the filter
/// keeps.
///
/// # Errors
/// When a layer cannot be read or applied.
pub fn plain_image_tree(
    repository: &Repository,
    image: &StoredImage,
    xattrs: Option<XattrFilter>,
) -> Result<Tree, TreeError> {
    apply_layers(repository, &image.layers, xattrs)
}

pub(crate) fn build_tree(
    repository: &Repository,
    layers: &[(ContentDigest, Digest)],
    xattrs: XattrFilter,
) -> Result<Tree, TreeError> {
    let mut tree = apply_layers(repository, layers, Some(xattrs))?;
    transform_for_oci(&mut tree, xattrs)?;
    Ok(tree)
}

fn apply_layers(
    repository: &Repository,
    layers: &[(ContentDigest, Digest)],
    xattrs: Option<XattrFilter>,
) -> Result<Tree, TreeError> {
    let mut builder = TreeBuilder::new(xattrs);
    for (diff_id, stream) in layers {
        layer::apply(repository, stream, &mut builder)
            .map_err(|source| TreeError::Layer { diff_id: *diff_id, source: Box::new(source) })?;
    }
    Ok(builder.finish())
}
