//! OCI images: pulled from a source, stored as split streams, turned into file trees and EROFS images.
//!
//! Knows the formats of OCI and Docker, but no network: an image comes from an [`ImageSource`]. Here are those that are
//! files: OCI image layouts ([`Layout`]), archives ([`ImageArchive`]) and directories ([`ImageDirectory`]).

pub(crate) mod apply;
mod archive;
mod artifact;
mod compress;
mod copy;
mod decompress;
mod digest;
mod docker_archive;
mod fetch;
mod files;
mod forecast;
mod image_archive;
mod image_directory;
mod label;
mod layer;
mod layout;
mod loose;
pub(crate) mod manifest;
mod offer;
mod platform;
mod proof;
mod pull;
mod referrers;
mod release;
mod repair;
mod resumed;
mod source;
mod store;
mod stored_layer;
mod tags;
mod verify;

pub use apply::{ApplyError, ApplyErrorKind};
pub use archive::IndexError;
pub use artifact::{Stored, StoredArtifact, is_artifact, open_any, open_artifact, pull_artifact};
pub use compress::Compressor;
pub use copy::{CopyImageError, copy_all, copy_image};
pub use decompress::Compression;
pub use digest::{ContentDigest, ContentHasher, ParseContentDigestError};
pub use docker_archive::{DockerArchive, DockerArchiveError};
pub use forecast::{Amount, Forecast};
pub use image_archive::{ArchiveForm, ImageArchive, ImageArchiveError};
pub use image_directory::{ImageDirectory, ImageDirectoryError};
pub(crate) use layer::{KnownObject, KnownObjects, import_known};
pub use layer::{LayerError, StoredLayerError};
pub use layout::{Layout, LayoutError};
pub use loose::{LooseDirectory, loose_directories};
pub use manifest::{
    BlobDescriptor, CONFIG_MAX_BYTES, INDEX_MEDIA_TYPES, MANIFEST_MAX_BYTES, MANIFEST_MEDIA_TYPES, ManifestError,
    parse_index,
};
pub use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
pub use offer::Offer;
pub use platform::{ParsePlatformError, Platform};
pub use pull::{PullError, PullOptions, TriedImage, pull};
pub use referrers::{add_referrer, all_referrers, clean_referrers, referrers, remove_referrer};
pub use release::{EXPIRES, Release};
pub use repair::repair_from_image;
pub(crate) use resumed::Resumed;
pub use source::{FetchedManifest, ImageSource, LayerBytes, RemoteSource, SourceError};
pub use store::{
    StoreError, StoredImage, TreeError, documents, image_of_erofs, image_tree, image_tree_with, manifests, open_image,
    plain_image_tree,
};
pub use stored_layer::{ImportLayerError, LayerFacts, OpenLayerError, StoredLayer, import_layer, open_layer};
pub use tags::{list, tag, untag};
pub use verify::{ImageFinding, ImageFindingKind, verify_image, verify_images};
