//! The layers of an image that is pulled: which are there, and fetching the others in parallel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Arrived, Pull, PullError};
use crate::digest::Digest;
use crate::observer::Event;
use crate::oci::digest::ContentDigest;
use crate::oci::fetch::Fetch;
use crate::oci::layer::{LayerError, LayerSource};
use crate::oci::manifest::BlobDescriptor;
use crate::oci::proof;
use crate::oci::source::RemoteSource;
use crate::oci::store::layer_name;
use crate::published::FetchTree;
use crate::repository::ObjectQueue;
use crate::splitstream::ContentType;

impl<'a> Pull<'a> {
    /// Fails if the layers that are missing cannot be stored. Their compressed size is taken: of what is in them the
    /// repository may have a part, and how much larger the rest is, nobody knows yet.
    /// A published tree will tell.
    pub(super) fn check_space(&self, diff_ids: &[ContentDigest]) -> Result<(), PullError> {
        if self.source.published().is_some() {
            return Ok(());
        }
        let mut missing_bytes = 0_u64;
        let mut seen = BTreeSet::new();
        for (diff_id, (blob, _)) in diff_ids.iter().zip(&self.manifest.layers) {
            if seen.insert(diff_id) && self.repository.stream(&layer_name(diff_id))?.is_none() {
                let arrived = self.repository.partial_blob_bytes(&blob.digest.to_string())?;
                missing_bytes = missing_bytes.saturating_add(blob.size.saturating_sub(arrived));
            }
        }
        self.repository.check_space(missing_bytes).map_err(PullError::Space)
    }

    /// The split streams of all layers, those that are missing fetched now.
    pub(super) fn layers(
        &self,
        diff_ids: &[ContentDigest],
        objects: &ObjectQueue<'_>,
        arrived: &Arrived<'a>,
    ) -> Result<Vec<(ContentDigest, Digest)>, PullError> {
        let mut streams = BTreeMap::new();
        let mut missing = Vec::new();
        let mut seen = BTreeSet::new();
        for (diff_id, (blob, compression)) in diff_ids.iter().zip(&self.manifest.layers) {
            if !seen.insert(*diff_id) {
                continue;
            }
            match self.present_layer(diff_id)? {
                Some(stream) => {
                    streams.insert(*diff_id, stream);
                    let (id, what) = (blob.digest.to_string(), layer_title(blob));
                    self.observer.event(Event::Skipped { id: &id, what: &what });
                    // From before it had its name.
                    self.repository.remove_partial_blob(&id);
                }
                None => missing.push((*diff_id, blob, *compression)),
            }
        }
        let tree = match self.source.published() {
            Some(source) if !missing.is_empty() => {
                let tree = FetchTree::open(self.repository, source, diff_ids, self.observer)?;
                tree.fetch_objects()?;
                Some(tree)
            }
            _ => None,
        };
        // Taken from the end: the largest first, so that it is not alone at the end.
        missing.sort_by_key(|(_, blob, _)| blob.size);
        let connections = self.source.remote().and_then(RemoteSource::connections);
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        let threads = connections.map_or_else(processors, usize::from).min(missing.len());
        let queue = Mutex::new(missing);
        let done = Mutex::new(&mut streams);
        let failure = Mutex::new(None);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        // Not in the head of a loop, which would hold the lock until the layer is done.
                        let Some((diff_id, blob, compression)) = lock(&queue).pop() else { return };
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let layer = LayerSource { blob, compression, diff_id: &diff_id };
                        let imported = match &tree {
                            Some(tree) => self.rebuild_layer(tree, &layer, objects, &stop),
                            None => self.fetch_layer(&layer, objects, arrived, &stop),
                        };
                        match imported {
                            Ok(stream) => {
                                lock(&done).insert(diff_id, stream);
                            }
                            Err(error) => {
                                // The others fail because of this one; only the first failure is told.
                                lock(&failure).get_or_insert(error);
                                stop.store(true, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            return Err(error);
        }
        Ok(diff_ids.iter().filter_map(|diff_id| Some((*diff_id, *streams.get(diff_id)?))).collect())
    }

    fn fetch_layer(
        &self,
        layer: &LayerSource<'_>,
        objects: &ObjectQueue<'_>,
        arrived: &Arrived<'a>,
        stop: &AtomicBool,
    ) -> Result<Digest, PullError> {
        let Self { repository, source, observer, .. } = *self;
        let LayerSource { blob, .. } = *layer;
        let (id, what) = (blob.digest.to_string(), layer_title(blob));
        observer.event(Event::Started { id: &id, what: &what, total_bytes: Some(blob.size) });
        let fetch = Fetch { repository, source, blob, id: &id, stop, observer };
        let (stream, kept) =
            fetch.layer(objects, layer).map_err(|source| PullError::Layer { digest: blob.digest, source })?;
        proof::remember(repository, &stream, layer.diff_id);
        observer.event(Event::Finished { id: &id });
        arrived.add(layer.diff_id, stream, kept)?;
        Ok(stream)
    }

    /// Imports a layer that a published tree has, all of whose objects are here.
    fn rebuild_layer(
        &self,
        tree: &FetchTree<'_>,
        layer: &LayerSource<'_>,
        objects: &ObjectQueue<'_>,
        stop: &AtomicBool,
    ) -> Result<Digest, PullError> {
        let LayerSource { blob, diff_id, .. } = *layer;
        let (id, what) = (blob.digest.to_string(), layer_title(blob));
        let total_bytes = Some(tree.layer_size(diff_id)?);
        self.observer.event(Event::Started { id: &id, what: &what, total_bytes });
        let import = || tree.import(objects, diff_id, &id, stop);
        let stream = match import() {
            // A power cut may have left anything in place of an object.
            Err(error) if !matches!(error, LayerError::Stopped) && tree.repair(diff_id)? => import(),
            result => result,
        };
        let stream = stream.map_err(|source| PullError::Layer { digest: blob.digest, source })?;
        proof::remember(self.repository, &stream, diff_id);
        self.observer.event(Event::Finished { id: &id });
        Ok(stream)
    }

    /// The stream of a layer that is there with all its objects, and is what its name says.
    fn present_layer(&self, diff_id: &ContentDigest) -> Result<Option<Digest>, PullError> {
        let Some(digest) = self.repository.stream(&layer_name(diff_id))? else { return Ok(None) };
        match self.repository.open_stream(&digest, Some(ContentType::Layer)) {
            Ok(stream) => {
                for object in stream.object_refs() {
                    if !self.repository.has_object(object)? {
                        tracing::warn!("object {object} of layer {diff_id} is missing or damaged, fetching it again");
                        return Ok(None);
                    }
                }
                if !proof::is_remembered(self.repository, &digest, diff_id) {
                    self.observer.event(Event::Step("reading a layer that another program has stored"));
                    if let Err(error) = proof::prove(self.repository, &stream, diff_id) {
                        tracing::warn!("layer {diff_id} is not what its name says, fetching it again: {error}");
                        return Ok(None);
                    }
                    proof::remember(self.repository, &digest, diff_id);
                }
                Ok(Some(digest))
            }
            Err(error) => {
                tracing::warn!("layer {diff_id} cannot be read, fetching it again: {error}");
                Ok(None)
            }
        }
    }
}

fn layer_title(blob: &BlobDescriptor) -> String {
    format!("layer {}", blob.digest.short())
}

/// Locks a mutex; what a panicking thread left is as good as ever, and the panic itself reaches the caller.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
