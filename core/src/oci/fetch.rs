//! Fetching blobs: what arrives from far away is kept in the repository, and read from there by the next attempt.

use std::sync::atomic::AtomicBool;

use super::decompress::Blob;
use super::layer::{self, LayerError, LayerSource};
use super::manifest::BlobDescriptor;
use super::resumed::Resumed;
use super::source::{ImageSource, LayerBytes};
use crate::digest::Digest;
use crate::observer::{Event, Observer};
use crate::repository::{ObjectQueue, PartialBlob, Repository};

/// A blob that is to be fetched.
pub(crate) struct Fetch<'a, 'r> {
    pub(crate) repository: &'r Repository,
    pub(crate) source: &'a dyn ImageSource,
    pub(crate) blob: &'a BlobDescriptor,
    /// Names the blob in progress events.
    pub(crate) id: &'a str,
    /// Ends the fetching.
    pub(crate) stop: &'a AtomicBool,
    pub(crate) observer: &'a dyn Observer,
}

impl<'r> Fetch<'_, 'r> {
    /// Calls `import` with the bytes of the blob. Also returns what was kept of it, to be removed when what was imported has
    /// a name; until then nothing of it is fetched again.
    ///
    /// `import` is called again, and the blob fetched anew, if the bytes are wrong and some of them are from an earlier attempt
    /// (a power cut may have left anything in place of them), or the source has another place to fetch them from.
    pub(crate) fn run<T>(
        &self,
        mut import: impl FnMut(Blob<'_>) -> Result<T, LayerError>,
    ) -> Result<(T, Option<PartialBlob<'r>>), LayerError> {
        let Self { blob, id, stop, observer, .. } = *self;
        let Some(remote) = self.source.remote() else {
            let bytes = self.source.blob(blob).map_err(|error| LayerError::Transfer(error.into()))?;
            return Ok((import(Blob::new(bytes, blob, id, stop, observer))?, None));
        };
        let mut kept = self.open_kept();
        loop {
            let kept_bytes = kept.as_ref().map_or(0, PartialBlob::len_bytes);
            if kept_bytes > 0 {
                observer.event(Event::Resumed { id, done_bytes: kept_bytes });
            }
            let open = |offset| remote.blob_from(blob, offset);
            let what = format!("blob {}", blob.digest);
            let bytes = Resumed::new(&open, &what, blob.size, &mut kept, kept_bytes);
            let result = import(Blob::new(Box::new(bytes), blob, id, stop, observer).resumed_at(kept_bytes));
            let error = match result {
                Ok(imported) => return Ok((imported, kept)),
                Err(error) => error,
            };
            if !error.is_of_contents() {
                // What comes next may be a power cut.
                if let Some(Err(error)) = kept.as_mut().map(PartialBlob::sync) {
                    tracing::warn!("cannot sync what has arrived of {id}: {error}, ignoring");
                }
                return Err(error);
            }
            if kept_bytes > 0 {
                let what = blob.digest.short();
                observer.event(Event::Warning(&format!(
                    "what an earlier attempt left of blob {what} is damaged, fetching it again ({error})"
                )));
            } else if !error.is_of_blob() || !remote.blame(blob) {
                if let Some(arrived) = kept {
                    arrived.remove();
                }
                return Err(error);
            }
            let Some(mut arrived) = kept.take() else { continue };
            match arrived.clear() {
                Ok(()) => kept = Some(arrived),
                Err(error) => {
                    tracing::warn!("cannot empty the file: {error}, ignoring");
                    arrived.remove();
                }
            }
        }
    }

    /// Fetches a layer and imports it, in whatever form its source has it.
    pub(crate) fn layer(
        &self,
        objects: &ObjectQueue<'_>,
        layer: &LayerSource<'_>,
    ) -> Result<(Digest, Option<PartialBlob<'r>>), LayerError> {
        let Self { source, blob, id, stop, observer, .. } = *self;
        if source.remote().is_some() {
            return self.run(|blob| layer::import(objects, layer, blob));
        }
        let bytes = source.layer(blob, layer.diff_id).map_err(|error| LayerError::Transfer(error.into()))?;
        let stream = match bytes {
            LayerBytes::Blob(bytes) => layer::import(objects, layer, Blob::new(bytes, blob, id, stop, observer)),
            LayerBytes::Uncompressed(bytes) => {
                layer::import_uncompressed(objects, layer.diff_id, id, bytes, stop, observer)
            }
        };
        Ok((stream?, None))
    }

    /// What was kept, if it can be kept: without it the blob is fetched all the same.
    fn open_kept(&self) -> Option<PartialBlob<'r>> {
        match self.repository.partial_blob(&self.blob.digest.to_string(), self.blob.size) {
            Ok(Some(kept)) => Some(kept),
            Ok(None) => {
                tracing::info!("another process is fetching blob {}, too", self.blob.digest);
                None
            }
            Err(error) => {
                tracing::warn!("{error}: {}; what arrives is not kept", error.source);
                None
            }
        }
    }
}
