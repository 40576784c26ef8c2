//! Repair from an image at its origin: the layers that contain what is damaged or missing are fetched again.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use super::digest::ContentDigest;
use super::fetch::Fetch;
use super::layer::LayerSource;
use super::manifest::{CheckedConfig, CheckedManifest};
use super::pull::{PullError, PullOptions, fetch_config, store};
use super::source::ImageSource;
use super::store::{layer_name, manifest_name, open_manifest};
use crate::digest::Digest;
use crate::observer::{Event, Observer};
use crate::published::FetchTree;
use crate::repository::{FileError, FsckReport, Repository};
use crate::splitstream::ContentType;

/// Gets what the check found damaged or missing from an image at its origin. Returns the number of layers that were
/// fetched. Durable on return; to know what is repaired, check again.
///
/// Only layers of the repository that contain bad objects, or whose own stream is bad, are fetched; all of it is verified
/// as in a pull. If the image itself is in the repository, its EROFS images, configuration and manifest are made again as
/// far as they are bad. No tag changes.
///
/// # Errors
/// As [`super::pull()`]. What was repaired until then stays repaired.
pub fn repair_from_image(
    repository: &Repository,
    source: &dyn ImageSource,
    found: &FsckReport,
    observer: &dyn Observer,
) -> Result<usize, PullError> {
    repository.check_writable()?;
    repository.distrust(found.bad_objects.iter().copied());
    let manifest = CheckedManifest::parse(&source.manifest().map_err(PullError::FetchManifest)?)?;
    let config = CheckedConfig::parse(&fetch_config(source, &manifest.config)?, manifest.layers.len())?;
    let (mut fetched, mut tree) = (BTreeSet::new(), None);
    for (diff_id, (blob, compression)) in config.diff_ids.iter().zip(&manifest.layers) {
        if fetched.contains(diff_id) || !is_bad(repository, diff_id, &found.bad_objects)? {
            continue;
        }
        let id = blob.digest.to_string();
        let what = format!("layer {}", blob.digest.short());
        observer.event(Event::Started { id: &id, what: &what, total_bytes: Some(blob.size) });
        let stop = AtomicBool::new(false);
        if let (None, Some(source)) = (&tree, source.published()) {
            tree = Some(FetchTree::open(repository, source, &config.diff_ids, observer)?);
        }
        let imported = if let Some(tree) = &tree {
            tree.repair(diff_id)?;
            repository.with_queue(|objects| tree.import(objects, diff_id, &id, &stop)).map(|stream| (stream, None))
        } else {
            let layer = LayerSource { blob, compression: *compression, diff_id };
            let fetch = Fetch { repository, source, blob, id: &id, stop: &stop, observer };
            repository.with_queue(|objects| fetch.layer(objects, &layer))
        };
        let (stream, kept) = imported.map_err(|source| PullError::Layer { digest: blob.digest, source })?;
        observer.event(Event::Finished { id: &id });
        if repository.stream(&layer_name(diff_id))? != Some(stream) {
            repository.publish_streams(&[(layer_name(diff_id), stream)])?;
        }
        if let Some(kept) = kept {
            kept.remove();
        }
        fetched.insert(*diff_id);
    }
    let name = manifest_name(&manifest.digest);
    let known = repository.stream(&name)?.is_some() || found.missing_names.iter().any(|(_, missing)| *missing == name);
    if known {
        remake(repository, source, &manifest, observer)?;
    }
    let sync_error = |source| FileError { action: "sync", path: repository.path().to_owned(), source };
    repository.sync().map_err(sync_error)?;
    Ok(fetched.len())
}

/// Whether a layer that the repository has contains something bad. A layer that it does not have is not.
fn is_bad(repository: &Repository, diff_id: &ContentDigest, bad: &BTreeSet<Digest>) -> Result<bool, PullError> {
    let Some(stream) = repository.stream(&layer_name(diff_id))? else { return Ok(false) };
    if bad.contains(&stream) {
        return Ok(true);
    }
    match repository.open_stream(&stream, Some(ContentType::Layer)) {
        Ok(layer) => Ok(layer.object_refs().iter().any(|object| bad.contains(object))),
        Err(error) => {
            tracing::warn!("layer {diff_id} cannot be read, fetching it again: {error}");
            Ok(true)
        }
    }
}

/// Makes what is missing of the image itself, of which all layers are there. What a published tree says of itself is not
/// remembered: who repairs demands no key.
fn remake(
    repository: &Repository,
    source: &dyn ImageSource,
    manifest: &CheckedManifest,
    observer: &dyn Observer,
) -> Result<(), PullError> {
    let bootable = match open_manifest(repository, &manifest.digest) {
        Ok(image) => image.boot_image.is_some(),
        // Nobody knows; the boot image costs little.
        Err(_) => true,
    };
    let options = |bootable| PullOptions { bootable, ..PullOptions::default() };
    match store(repository, source, &options(bootable), observer) {
        Err(PullError::Boot(_)) => store(repository, source, &options(false), observer).map(drop),
        result => result.map(drop),
    }
}
