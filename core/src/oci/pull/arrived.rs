//! Layers that are complete while others are still being fetched.
//!
//! What was fetched of them is kept until they have their names, so that it is fetched once, whatever happens. In a pull that
//! takes long they get their names before its end: then their blobs need not be kept, and they are not imported again.
//!
//! *Rationale for the interval:* a name needs a sync of everything before it. In a short pull one sync, at its end, is enough.

use std::mem::take;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::oci::digest::ContentDigest;
use crate::oci::store::layer_name;
use crate::repository::{PartialBlob, PublishError, Repository};

/// Time after which layers that are complete get their names.
const NAMING_INTERVAL: Duration = Duration::from_secs(15);

/// The layers that are complete and have no names.
pub(super) struct Arrived<'a> {
    repository: &'a Repository,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    named: Instant,
    layers: Vec<Layer<'a>>,
}

struct Layer<'a> {
    name: String,
    stream: Digest,
    blob: PartialBlob<'a>,
}

impl<'a> Arrived<'a> {
    pub(super) fn new(repository: &'a Repository) -> Self {
        Self { repository, state: Mutex::new(State { named: Instant::now(), layers: Vec::new() }) }
    }

    /// Adds a layer with what was kept of its blob; names all if it is time to.
    pub(super) fn add(
        &self,
        diff_id: &ContentDigest,
        stream: Digest,
        kept: Option<PartialBlob<'a>>,
    ) -> Result<(), PublishError> {
        let Some(blob) = kept else { return Ok(()) };
        let mut state = self.lock();
        state.layers.push(Layer { name: layer_name(diff_id), stream, blob });
        if state.named.elapsed() < NAMING_INTERVAL {
            return Ok(());
        }
        state.named = Instant::now();
        let layers = take(&mut state.layers);
        drop(state);
        self.name(layers)
    }

    /// The pull is done: all layers have names.
    pub(super) fn all_named(self) {
        remove_blobs(take(&mut self.lock().layers));
    }

    /// The pull failed: what is complete gets its name, so that nothing of it has to be done again.
    pub(super) fn name_all(self) {
        let layers = take(&mut self.lock().layers);
        if let Err(error) = self.name(layers) {
            tracing::warn!("cannot name the layers that are complete: {error}, ignoring: what was fetched is kept");
        }
    }

    fn name(&self, layers: Vec<Layer<'_>>) -> Result<(), PublishError> {
        let names: Vec<_> = layers.iter().map(|layer| (layer.name.clone(), layer.stream)).collect();
        self.repository.publish_streams(&names)?;
        remove_blobs(layers);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove_blobs(layers: Vec<Layer<'_>>) {
    for layer in layers {
        layer.blob.remove();
    }
}
