//! Fetching an image from a published tree: first the chunks that no layer of the repository has, then the objects that
//! they name and the repository does not have. All sizes are known before the first object is asked for.
//!
//! An object gets its name in the repository when its bytes have the digest, and not before.

mod error;
mod object;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::chunk::{Part, decode};
use super::held::Held;
use super::index::Index;
use super::layer::LayerBytes;
use super::source::{ObjectFile, PublishedSource};
use super::{ChunkError, PublishedLayer};
use crate::digest::{Algorithm, Digest};
use crate::observer::{Event, Observer};
use crate::oci::{ContentDigest, KnownObject, KnownObjects, LayerError, import_known};
use crate::repository::{ObjectError, ObjectQueue, Repository};
pub use error::FetchTreeError;

/// Bytes between two progress events.
const PROGRESS_STEP_BYTES: u64 = 256 << 10;

/// An image whose metadata is here.
pub(crate) struct FetchTree<'a> {
    repository: &'a Repository,
    source: &'a dyn PublishedSource,
    observer: &'a dyn Observer,
    index: &'a Index,
    algorithm: Algorithm,
    held: Held,
    /// All objects of the image, in the order of first use.
    objects: Vec<ObjectFile>,
}

/// Progress of a piece that several threads work on.
struct Meter<'a> {
    observer: &'a dyn Observer,
    id: &'a str,
    done_bytes: AtomicU64,
}

impl Meter<'_> {
    fn add(&self, bytes: u64) {
        let before = self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        let done_bytes = before + bytes;
        if before / PROGRESS_STEP_BYTES != done_bytes / PROGRESS_STEP_BYTES {
            self.observer.event(Event::Progress { id: self.id, done_bytes });
        }
    }

    fn take_back(&self, bytes: u64) {
        self.done_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl<'a> FetchTree<'a> {
    /// Finds out what the image consists of; fetches the chunks that are missing and nothing else, and changes nothing.
    ///
    /// # Errors
    /// When something cannot be fetched or is not what it should be.
    pub(crate) fn open(
        repository: &'a Repository,
        source: &'a dyn PublishedSource,
        diff_ids: &[ContentDigest],
        observer: &'a dyn Observer,
    ) -> Result<Self, FetchTreeError> {
        let (index, algorithm) = source.index().map_err(FetchTreeError::Index)?;
        if algorithm != repository.algorithm() {
            return Err(FetchTreeError::Algorithm { tree: algorithm, repository: repository.algorithm() });
        }
        if !index.layers.iter().map(|layer| &layer.diff_id).eq(diff_ids) {
            return Err(FetchTreeError::Layers);
        }
        let mut tree =
            Self { repository, source, observer, index, algorithm, held: Held::default(), objects: Vec::new() };
        tree.hold_chunks(diff_ids)?;
        tree.objects = tree.list_objects()?;
        Ok(tree)
    }

    fn hold_chunks(&mut self, diff_ids: &[ContentDigest]) -> Result<(), FetchTreeError> {
        let wanted: HashSet<ContentDigest> =
            self.index.layers.iter().flat_map(|layer| layer.chunks.iter().copied()).collect();
        self.held.add_stored(self.repository, &wanted, diff_ids)?;
        let missing: Vec<_> = wanted.into_iter().filter(|name| self.held.get(name).is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let id = "metadata";
        self.observer.event(Event::Started { id, what: "metadata of files", total_bytes: None });
        let meter = Meter { observer: self.observer, id, done_bytes: AtomicU64::new(0) };
        let (source, held) = (self.source, Mutex::new(&mut self.held));
        each(missing, source, |name, _| {
            let file = source.chunk(&name).map_err(|source| FetchTreeError::Chunk { name, source })?;
            meter.add(file.len() as u64);
            lock(&held).add(name, file)
        })?;
        self.observer.event(Event::Finished { id });
        Ok(())
    }

    /// Brings together what the chunks and the index say of objects.
    fn list_objects(&self) -> Result<Vec<ObjectFile>, FetchTreeError> {
        let mut sizes = HashMap::new();
        let mut objects = Vec::with_capacity(self.index.objects.len());
        for name in self.index.layers.iter().flat_map(|layer| &layer.chunks) {
            for part in self.parts(name)? {
                let Part::External { digest, size } = part else { continue };
                if let Some(known) = sizes.insert(digest, size) {
                    if known != size {
                        return Err(FetchTreeError::TwoSizes { digest });
                    }
                    continue;
                }
                let Some(published) = self.index.objects.get(objects.len()) else {
                    return Err(FetchTreeError::Objects { named: self.index.objects.len() });
                };
                let compressed_size = (*published > 0).then_some(*published);
                // What is fetched is bounded by what there must be room for.
                if let Some(compressed_size) = compressed_size.filter(|compressed_size| *compressed_size >= size) {
                    return Err(FetchTreeError::CompressedSize { digest, size, compressed_size });
                }
                objects.push(ObjectFile { digest, size, compressed_size });
            }
        }
        // What the image does not need is not fetched.
        if objects.len() != self.index.objects.len() {
            return Err(FetchTreeError::Objects { named: self.index.objects.len() });
        }
        Ok(objects)
    }

    fn parts(&self, name: &ContentDigest) -> Result<Vec<Part>, ChunkError> {
        // All names of the index are there.
        decode(self.held.get(name).unwrap_or_default(), name, self.algorithm)
    }

    /// The objects that the repository does not have.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub(crate) fn missing(&self) -> Result<Vec<ObjectFile>, ObjectError> {
        let mut missing = Vec::new();
        for object in &self.objects {
            let here = self.repository.has_object(&object.digest)?
                && self.repository.object_size(&object.digest)? == Some(object.size);
            if !here {
                missing.push(*object);
            }
        }
        Ok(missing)
    }

    /// Fetches the objects that are missing.
    ///
    /// # Errors
    /// When there is no room, or an object cannot be had. Those that have arrived stay.
    pub(crate) fn fetch_objects(&self) -> Result<(), FetchTreeError> {
        self.fetch(self.missing()?)
    }

    fn fetch(&self, mut missing: Vec<ObjectFile>) -> Result<(), FetchTreeError> {
        if missing.is_empty() {
            return Ok(());
        }
        let sum = |bytes: &dyn Fn(&ObjectFile) -> u64| {
            missing.iter().fold(0_u64, |sum, object| sum.saturating_add(bytes(object)))
        };
        let space = self.repository.space()?;
        self.repository.check_space(sum(&|object| self.repository.object_bytes(&space, object.size)))?;
        let (id, total_bytes) = ("objects", Some(sum(&ObjectFile::file_bytes)));
        let what = format!("{} objects", missing.len());
        self.observer.event(Event::Started { id, what: &what, total_bytes });
        let meter = Meter { observer: self.observer, id, done_bytes: AtomicU64::new(0) };
        // Taken from the end: the largest first, so that it is not alone at the end.
        missing.sort_by_key(ObjectFile::file_bytes);
        each(missing, self.source, |object, stop| {
            object::Fetch { repository: self.repository, source: self.source, object, meter: &meter, stop }.run()
        })?;
        self.observer.event(Event::Finished { id });
        Ok(())
    }

    /// Fetches again what objects of a layer are damaged, if there are any.
    ///
    /// # Errors
    /// As [`Self::fetch_objects`].
    pub(crate) fn repair(&self, diff_id: &ContentDigest) -> Result<bool, FetchTreeError> {
        let Some(layer) = self.layer(diff_id) else { return Ok(false) };
        let mut used: HashSet<Digest> = HashSet::new();
        for name in &layer.chunks {
            used.extend(self.parts(name)?.iter().filter_map(|part| match part {
                Part::External { digest, .. } => Some(*digest),
                Part::Inline(_) => None,
            }));
        }
        let mut damaged = Vec::new();
        for object in self.objects.iter().filter(|object| used.contains(&object.digest)) {
            if !self.repository.is_sound(&object.digest)? {
                tracing::warn!("object {} is damaged, fetching it again", object.digest);
                damaged.push(*object);
            }
        }
        let any = !damaged.is_empty();
        self.fetch(damaged)?;
        Ok(any)
    }

    fn layer(&self, diff_id: &ContentDigest) -> Option<&PublishedLayer> {
        self.index.layers.iter().find(|layer| layer.diff_id == *diff_id)
    }

    /// Size of an uncompressed layer, by its chunks.
    pub(crate) fn layer_size(&self, diff_id: &ContentDigest) -> Result<u64, FetchTreeError> {
        let mut bytes = 0_u64;
        for name in self.layer(diff_id).iter().flat_map(|layer| &layer.chunks) {
            for part in self.parts(name)? {
                bytes = bytes.saturating_add(match part {
                    Part::Inline(inline) => inline.len() as u64,
                    Part::External { size, .. } => size,
                });
            }
        }
        Ok(bytes)
    }

    /// Imports a layer, whose objects are here; its stream has no name yet.
    ///
    /// # Errors
    /// When the objects do not make the layer.
    pub(crate) fn import(
        &self,
        objects: &ObjectQueue<'_>,
        diff_id: &ContentDigest,
        id: &str,
        stop: &AtomicBool,
    ) -> Result<Digest, LayerError> {
        let (bytes, known) = (Box::new(self.layer_bytes(diff_id)), self.layer_objects(diff_id));
        import_known(objects, diff_id, id, bytes, known, stop, self.observer)
    }

    /// The objects of a layer, and where they are in it.
    fn layer_objects(&self, diff_id: &ContentDigest) -> KnownObjects<'_> {
        let chunks = self.layer(diff_id).map(|layer| layer.chunks.iter()).into_iter().flatten();
        // A chunk that cannot be read is met by whoever reads the bytes.
        let parts = chunks.flat_map(|name| self.parts(name).unwrap_or_default());
        let mut position = 0_u64;
        Box::new(parts.filter_map(move |part| {
            let begins = position;
            match part {
                Part::Inline(inline) => {
                    position += inline.len() as u64;
                    None
                }
                Part::External { digest, size } => {
                    position = position.saturating_add(size);
                    Some(KnownObject { position: begins, digest, size })
                }
            }
        }))
    }

    /// The bytes of a layer, when its objects are here.
    fn layer_bytes(
        &self,
        diff_id: &ContentDigest,
    ) -> LayerBytes<'_, impl Iterator<Item = Result<Vec<Part>, ChunkError>> + Send> {
        let chunks = self.layer(diff_id).map(|layer| layer.chunks.iter()).into_iter().flatten();
        LayerBytes::new(self.repository, chunks.map(|name| self.parts(name)))
    }
}

/// Works on each of some things in as many threads as the source wants. After a failure nothing new is begun.
fn each<T: Send>(
    things: Vec<T>,
    source: &dyn PublishedSource,
    work: impl Fn(T, &AtomicBool) -> Result<(), FetchTreeError> + Sync,
) -> Result<(), FetchTreeError> {
    let threads = usize::from(source.connections()).min(things.len());
    let (queue, failure, stop) = (Mutex::new(things), Mutex::new(None), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Some(thing) = lock(&queue).pop() else { return };
                    if let Err(error) = work(thing, &stop) {
                        // The others fail because of this one; only the first failure is told.
                        lock(&failure).get_or_insert(error);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
