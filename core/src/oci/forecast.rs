//! [`Forecast`]: what pulling an offered image would cost, told without changing anything.
//!
//! What is to be fetched, the manifest tells. What is to be stored is another matter: files that the repository has are not
//! stored again, and which these are is not known before the layers are here. Then it is known exactly. A published tree tells
//! it of its objects; for that the metadata of what changed is fetched.

use std::collections::BTreeSet;

use super::digest::ContentDigest;
use super::offer::Offer;
use super::proof;
use super::pull::PullError;
use super::store::{build_tree, config_name, layer_name, manifest_name, open_manifest};
use crate::boot::{BootOptions, transform_for_boot};
use crate::digest::Digest;
use crate::erofs;
use crate::fsverity;
use crate::observer::Silent;
use crate::published::FetchTree;
use crate::repository::{Repository, Space};
use crate::splitstream::ContentType;
use crate::transform::XattrFilter;
use crate::tree::Tree;

/// A number of bytes, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Not less.
    pub at_least: u64,
    /// Not more; `None`: there is no telling.
    pub at_most: Option<u64>,
}

impl Amount {
    /// Nothing.
    pub const NOTHING: Self = Self::exactly(0);
    /// There is no telling.
    pub const UNKNOWN: Self = Self { at_least: 0, at_most: None };

    /// A number that is known.
    pub const fn exactly(bytes: u64) -> Self {
        Self { at_least: bytes, at_most: Some(bytes) }
    }

    /// That many more.
    pub fn plus(self, bytes: u64) -> Self {
        let plus = |amount: u64| amount.saturating_add(bytes);
        Self { at_least: plus(self.at_least), at_most: self.at_most.map(plus) }
    }

    /// The number, if it is known.
    pub fn known(&self) -> Option<u64> {
        self.at_most.filter(|at_most| *at_most == self.at_least)
    }
}

/// What pulling an image to boot it would cost.
#[derive(Debug)]
pub struct Forecast {
    /// Bytes of layers, as they are transferred.
    pub fetch_bytes: Amount,
    /// Bytes on the file system of the repository, in whole blocks, after deduplication.
    pub stored_bytes: Amount,
    /// The image that is booted, with its files; `None`: not known before its layers are here.
    pub boot_image: Option<(Digest, Tree)>,
    /// All files of the image, those in `/boot` too; `None` likewise.
    pub files: Option<Tree>,
}

/// What the repository has of a layer.
enum Layer {
    Missing,
    /// There, but stored by another program: the pull will read it, and fetch it if it is not what its name says.
    Unproven,
    Here(Digest),
}

impl Offer<'_> {
    /// Tells what pulling this image, with the form that is booted, would cost. Reads the repository and changes nothing.
    ///
    /// # Errors
    /// When the repository cannot be read, or the image can never be booted.
    pub fn forecast(&self, repository: &Repository) -> Result<Forecast, PullError> {
        let mut here = Vec::new();
        let (mut missing_bytes, mut unproven_bytes) = (0_u64, 0_u64);
        let mut complete = true;
        let mut seen = BTreeSet::new();
        for (descriptor, diff_id) in self.layers() {
            let layer = layer(repository, diff_id)?;
            if let Layer::Here(stream) = layer {
                here.push((*diff_id, stream));
                continue;
            }
            complete = false;
            if !seen.insert(*diff_id) {
                continue;
            }
            let sum = if matches!(layer, Layer::Missing) { &mut missing_bytes } else { &mut unproven_bytes };
            // What has arrived in a pull that was interrupted is not fetched again.
            let arrived = repository.partial_blob_bytes(&descriptor.digest.to_string())?;
            *sum = sum.saturating_add(descriptor.size.saturating_sub(arrived));
        }
        if let (false, Some(source)) = (complete, self.source().published()) {
            let diff_ids: Vec<_> = self.layers().map(|(_, diff_id)| *diff_id).collect();
            let tree = FetchTree::open(repository, source, &diff_ids, &Silent)?;
            let space = repository.space()?;
            let (mut fetch_bytes, mut object_bytes) = (0_u64, 0_u64);
            for object in tree.missing()? {
                fetch_bytes = fetch_bytes.saturating_add(object.file_bytes());
                object_bytes = object_bytes.saturating_add(repository.object_bytes(&space, object.size));
            }
            return Ok(Forecast {
                fetch_bytes: Amount::exactly(fetch_bytes),
                stored_bytes: Amount { at_least: object_bytes, at_most: None },
                boot_image: None,
                files: None,
            });
        }
        if !complete {
            let at_most = Some(missing_bytes.saturating_add(unproven_bytes));
            let fetch_bytes = Amount { at_least: missing_bytes, at_most };
            return Ok(Forecast { fetch_bytes, stored_bytes: Amount::UNKNOWN, boot_image: None, files: None });
        }
        let space = repository.space()?;
        let plain = build_tree(repository, &here, XattrFilter::default())?;
        let mut boot = plain.clone();
        transform_for_boot(repository, &mut boot, &BootOptions::default())?;
        let mut stored_bytes = 0_u64;
        let mut boot_digest = None;
        for format in repository.image_formats() {
            for tree in [&plain, &boot] {
                let image = erofs::write(tree, format)?;
                let digest = fsverity::digest(repository.algorithm(), &image);
                if !repository.has_object(&digest)? {
                    stored_bytes += repository.object_bytes(&space, image.len() as u64) + name_bytes(&space);
                }
                if std::ptr::eq(tree, &boot) {
                    boot_digest.get_or_insert(digest);
                }
            }
        }
        let stored = open_manifest(repository, self.manifest_digest()).ok();
        if boot_digest.is_none() || stored.and_then(|stored| stored.boot_image) != boot_digest {
            stored_bytes += self.documents_bytes(repository, &space)?;
        }
        Ok(Forecast {
            fetch_bytes: Amount::NOTHING,
            stored_bytes: Amount::exactly(stored_bytes),
            boot_image: boot_digest.map(|digest| (digest, boot)),
            files: Some(plain),
        })
    }

    /// What configuration and manifest take up, each with a new stream, which says what belongs to it.
    fn documents_bytes(&self, repository: &Repository, space: &Space) -> Result<u64, PullError> {
        let mut bytes = 0;
        for (name, json) in [
            (config_name(self.config_digest()), self.config_json()),
            (manifest_name(self.manifest_digest()), self.json()),
        ] {
            // A line for each layer, compressed.
            bytes += repository.object_bytes(space, 1);
            if repository.stream(&name)?.is_none() {
                bytes += name_bytes(space);
            }
            if !repository.has_object(&fsverity::digest(repository.algorithm(), json))? {
                bytes += repository.object_bytes(space, json.len() as u64);
            }
        }
        Ok(bytes)
    }
}

/// What a name takes up: a symlink whose target is too long for an inode.
fn name_bytes(space: &Space) -> u64 {
    space.allocated(1)
}

fn layer(repository: &Repository, diff_id: &ContentDigest) -> Result<Layer, PullError> {
    let Some(digest) = repository.stream(&layer_name(diff_id))? else { return Ok(Layer::Missing) };
    let Ok(stream) = repository.open_stream(&digest, Some(ContentType::Layer)) else { return Ok(Layer::Missing) };
    for object in stream.object_refs() {
        if !repository.has_object(object)? {
            return Ok(Layer::Missing);
        }
    }
    Ok(if proof::is_remembered(repository, &digest, diff_id) { Layer::Here(digest) } else { Layer::Unproven })
}
