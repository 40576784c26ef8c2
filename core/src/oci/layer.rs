//! Layers in the repository: imported as split streams, and read again as tar entries.
//!
//! ```text
//! blob --count, hash--> decompress --hash--> tar --headers, small files, padding--> split stream (inline)
//!                                             \---contents above 64 bytes---------> objects, named in the stream
//! ```
//!
//! The merged stream equals the uncompressed layer byte by byte, so its SHA-256 is the diff_id, which is verified here,
//! as the blob's digest is: layers are found again by their diff_id and would otherwise poison other images.
//!
//! The thread of the layer reads, decompresses and hashes the archive. Its files are stored by the workers of an
//! [`ObjectQueue`], and the split stream waits for their digests; only files that are too large for memory are stored by
//! this thread. A layer in work needs a few MiB, whatever is in it, besides the window of its compression.

mod error;

use std::collections::{HashSet, VecDeque};
use std::io::{self, BufReader, Read, Write};
use std::iter::{self, Peekable};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::TryRecvError;

use super::apply::TreeBuilder;
use super::decompress::{Blob, BlobFault, Compression, Decoder};
use super::digest::{ContentDigest, ContentHasher};
use super::manifest::BlobDescriptor;
use crate::digest::Digest;
use crate::fsverity::Hasher;
use crate::observer::{Event, Observer};
use crate::repository::{Guard, ObjectQueue, PendingObject, Repository};
use crate::splitstream::{self, Chunk, Chunks, ContentType, Writer};
use crate::tar::{self, Input, SparseMap};
use crate::tree::Content;
use error::{HELD_MAX_BYTES, INLINE_RUN_MAX_BYTES};
pub use error::{LayerError, StoredLayerError};

/// Most of these bytes that wait for digests of files before them.
const WAITING_MAX_BYTES: usize = 4 << 20;
/// Bytes that are decompressed at once; they stay in the processor's cache until they are hashed.
const READ_BYTES: usize = 128 << 10;
/// Bytes of contents copied at once.
const COPY_BYTES: usize = 256 << 10;
/// Files up to this size are read into memory and handed over.
const HAND_OVER_MAX_BYTES: u64 = 1 << 20;
/// Most files whose digests are waited for.
const UNFINISHED_MAX: usize = 1024;

/// A layer to be imported.
pub(crate) struct LayerSource<'a> {
    pub(crate) blob: &'a BlobDescriptor,
    pub(crate) compression: Compression,
    pub(crate) diff_id: &'a ContentDigest,
}

/// An object of the repository that a part of a layer was read from.
pub(crate) struct KnownObject {
    /// Where it begins in the layer.
    pub(crate) position: u64,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Such objects in the order of the layer.
pub(crate) type KnownObjects<'a> = Box<dyn Iterator<Item = KnownObject> + Send + 'a>;

/// Imports a layer of which nothing is known but its diff_id.
pub(crate) fn import_uncompressed(
    queue: &ObjectQueue<'_>,
    diff_id: &ContentDigest,
    id: &str,
    bytes: Box<dyn Read + Send + '_>,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<Digest, LayerError> {
    import_known(queue, diff_id, id, bytes, Box::new(iter::empty()), stop, observer)
}

/// The same of a layer that is read from objects of this repository: files that are `known` objects are not stored again. That
/// the layer has its diff_id proves what was read of them.
pub(crate) fn import_known<'a>(
    queue: &'a ObjectQueue<'a>,
    diff_id: &'a ContentDigest,
    id: &'a str,
    bytes: Box<dyn Read + Send + 'a>,
    known: KnownObjects<'a>,
    stop: &'a AtomicBool,
    observer: &'a dyn Observer,
) -> Result<Digest, LayerError> {
    let blob = BlobDescriptor { digest: *diff_id, size: 0, media_type: String::new() };
    let layer = LayerSource { blob: &blob, compression: Compression::None, diff_id };
    import_from(queue, &layer, Blob::new(bytes, &blob, id, stop, observer).of_unknown_size(), known)
}

/// Reads a layer that is not compressed and whose size nobody knows, and stores it as [`import`] does.
pub(crate) fn import_stream(
    repository: &Repository,
    diff_id: &ContentDigest,
    bytes: Box<dyn Read + Send + '_>,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<Digest, LayerError> {
    let id = diff_id.to_string();
    let what = format!("layer {}", diff_id.short());
    observer.event(Event::Started { id: &id, what: &what, total_bytes: None });
    let stream = repository.with_queue(|queue| import_uncompressed(queue, diff_id, &id, bytes, stop, observer))?;
    observer.event(Event::Finished { id: &id });
    Ok(stream)
}

/// Reads a layer and stores it; returns its split stream, which has no name yet.
///
/// Nothing but objects is left behind when it fails.
pub(crate) fn import(queue: &ObjectQueue<'_>, layer: &LayerSource<'_>, blob: Blob<'_>) -> Result<Digest, LayerError> {
    import_from(queue, layer, blob, Box::new(iter::empty()))
}

fn import_from<'a>(
    queue: &'a ObjectQueue<'a>,
    layer: &LayerSource<'a>,
    blob: Blob<'a>,
    known: KnownObjects<'a>,
) -> Result<Digest, LayerError> {
    let decoder = Decoder::new(layer.compression, blob).map_err(LayerError::Decompress)?;
    let repository = queue.repository();
    let import = Import {
        queue,
        room: Guard::new(repository),
        blob: layer.blob,
        decoder: BufReader::with_capacity(READ_BYTES, decoder),
        hasher: ContentHasher::new(layer.diff_id.algorithm()),
        position: 0,
        known: known.peekable(),
        stream: Writer::new(repository.algorithm(), ContentType::Layer).map_err(LayerError::Write)?,
        unfinished: VecDeque::new(),
        last: None,
        inline: Vec::new(),
        waiting_bytes: 0,
        inline_run_bytes: 0,
    };
    let mut reader = tar::Reader::new(import);
    loop {
        match reader.next_entry() {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(LayerError::Format(error)) => {
                // An archive that looks cut or damaged may be a blob that is.
                let import = reader.input();
                return Err(match import.blob().fault(&layer.blob.digest) {
                    Some(fault) => import.fault(fault, io::ErrorKind::InvalidData.into()),
                    None => error.into(),
                });
            }
            Err(error) => return Err(error),
        }
    }
    let mut import = reader.finish()?;
    if let Some(fault) = import.blob().fault(&layer.blob.digest) {
        return Err(import.fault(fault, io::ErrorKind::InvalidData.into()));
    }
    let actual = import.hasher.clone().finish();
    if actual != *layer.diff_id {
        return Err(LayerError::DiffId { expected: *layer.diff_id, actual });
    }
    import.write_all()?;
    let stream = import.stream.finish().map_err(LayerError::Write)?;
    Ok(repository.put_object(&stream)?.digest)
}

/// A part of the split stream that cannot be written before the digest is known.
struct Unfinished {
    /// What comes before the file.
    inline: Vec<u8>,
    size_bytes: u64,
    object: Object,
}

enum Object {
    Stored(Digest),
    HandedOver(PendingObject),
}

struct Import<'a> {
    queue: &'a ObjectQueue<'a>,
    room: Guard<'a>,
    blob: &'a BlobDescriptor,
    decoder: BufReader<Decoder<'a>>,
    hasher: ContentHasher,
    /// Bytes of the layer that were read.
    position: u64,
    known: Peekable<KnownObjects<'a>>,
    /// Written up to the first file whose digest is not known.
    stream: Writer,
    unfinished: VecDeque<Unfinished>,
    /// The last file in the stream.
    last: Option<Digest>,
    /// What came after the last file, unless it is in the stream.
    inline: Vec<u8>,
    /// Bytes there and before files that are unfinished.
    waiting_bytes: usize,
    /// Bytes since the last file.
    inline_run_bytes: u64,
}

impl Import<'_> {
    fn blob(&self) -> &Blob<'_> {
        self.decoder.get_ref().blob()
    }

    /// Reads and hashes the next bytes; fewer than asked for only at the end.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let end = buffer.len().min(filled + READ_BYTES);
            match self.decoder.read(&mut buffer[filled..end]) {
                Ok(0) => break,
                Ok(n) => {
                    self.room.take(n as u64).map_err(LayerError::Space)?;
                    self.hasher.update(&buffer[filled..filled + n]);
                    filled += n;
                    self.position += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(match self.blob().fault(&self.blob.digest) {
                        Some(fault) => self.fault(fault, error),
                        None => LayerError::Decompress(error),
                    });
                }
            }
        }
        Ok(filled)
    }

    /// Writes what can be written; waits until no more than `most` files are unfinished.
    fn write_stream(&mut self, most: usize) -> Result<(), LayerError> {
        while let Some(first) = self.unfinished.front() {
            let digest = match &first.object {
                Object::Stored(digest) => *digest,
                // A queue that does not answer has panicked.
                Object::HandedOver(stored) if self.unfinished.len() > most => {
                    stored.recv().map_err(|_| LayerError::Stopped)??
                }
                Object::HandedOver(stored) => match stored.try_recv() {
                    Ok(stored) => stored?,
                    Err(TryRecvError::Empty) => return Ok(()),
                    Err(TryRecvError::Disconnected) => return Err(LayerError::Stopped),
                },
            };
            self.stream.inline(&first.inline);
            self.waiting_bytes -= first.inline.len();
            self.stream.external(digest, first.size_bytes).map_err(LayerError::Write)?;
            self.last = Some(digest);
            self.unfinished.pop_front();
        }
        Ok(())
    }

    /// Waits for all files, and writes what came after them too.
    fn write_all(&mut self) -> Result<(), LayerError> {
        self.write_stream(0)?;
        self.stream.inline(&self.inline);
        self.inline.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    /// The object that a file which begins here was read from.
    fn known(&mut self, size: u64) -> Option<Digest> {
        let position = self.position;
        while self.known.next_if(|object| object.position < position).is_some() {}
        self.known.next_if(|object| object.position == position && object.size == size).map(|object| object.digest)
    }

    /// Reads a file that is in the repository. `None`: the archive ended before.
    fn pass(&mut self, size: u64, digest: Digest) -> Result<Option<Object>, LayerError> {
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(COPY_BYTES)];
        let mut left = size;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            if self.fill(&mut buffer[..part])? < part {
                return Ok(None);
            }
            left -= part as u64;
        }
        Ok(Some(Object::Stored(digest)))
    }

    /// Reads a file that is not to be in memory as a whole, and stores it. `None`: the archive ended before.
    fn store(&mut self, size: u64) -> Result<Option<Object>, LayerError> {
        let mut object = self.queue.repository().new_object()?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut left = size;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            if self.fill(&mut buffer[..part])? < part {
                return Ok(None);
            }
            object.write_all(&buffer[..part]).map_err(LayerError::Write)?;
            left -= part as u64;
        }
        Ok(Some(Object::Stored(object.finish()?.digest)))
    }

    /// Reads a file and hands it over. `None`: the archive ended before.
    fn hand_over(&mut self, size: u64) -> Result<Option<Object>, LayerError> {
        let mut data = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        if self.fill(&mut data)? < data.len() {
            return Ok(None);
        }
        Ok(Some(Object::HandedOver(self.queue.put(data))))
    }

    fn fault(&self, fault: BlobFault, error: io::Error) -> LayerError {
        LayerError::of_fault(fault, self.blob.size, error)
    }
}

impl Input for Import<'_> {
    type Error = LayerError;

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let filled = self.fill(buffer)?;
        self.inline_run_bytes += filled as u64;
        self.waiting_bytes += filled;
        self.inline.extend_from_slice(&buffer[..filled]);
        if self.inline_run_bytes > INLINE_RUN_MAX_BYTES {
            return Err(LayerError::InlineRun);
        }
        if self.waiting_bytes > WAITING_MAX_BYTES {
            self.write_all()?;
        }
        if self.stream.held_bytes() > HELD_MAX_BYTES {
            return Err(LayerError::Held);
        }
        Ok(filled)
    }

    /// The result has no digest, as that may not be known yet; `expand` alone asks for it.
    fn contents(&mut self, size: u64) -> Result<Option<Content>, LayerError> {
        let object = match self.known(size) {
            Some(digest) => self.pass(size, digest),
            None if size <= HAND_OVER_MAX_BYTES => self.hand_over(size),
            None => self.store(size),
        };
        let Some(object) = object? else { return Ok(None) };
        let inline = std::mem::take(&mut self.inline);
        self.inline_run_bytes = 0;
        self.unfinished.push_back(Unfinished { inline, size_bytes: size, object });
        self.write_stream(UNFINISHED_MAX)?;
        Ok(Some(Content::External { size, digest: None, payload: None }))
    }

    /// The whole file becomes an object too, which the stream keeps.
    fn expand(&mut self, data: Content, map: &SparseMap) -> Result<Content, LayerError> {
        let repository = self.queue.repository();
        self.write_stream(0)?;
        let data = match (data, self.last) {
            // What the stream ends with.
            (Content::External { size, .. }, Some(digest)) => Content::object(digest, size),
            (inline, _) => inline,
        };
        let mut object = repository.new_object()?;
        map.expand(&mut *repository.open_content(&data)?, &mut object).map_err(LayerError::Write)?;
        let digest = object.finish()?.digest;
        self.stream.object_ref(digest);
        Ok(Content::object(digest, map.size()))
    }
}

/// Applies the entries of a stored layer to the tree that is being built.
pub(crate) fn apply(repository: &Repository, stream: &Digest, tree: &mut TreeBuilder) -> Result<(), StoredLayerError> {
    let stream = repository.open_stream(stream, Some(ContentType::Layer))?;
    tree.next_layer();
    for_each_entry(repository, &stream, |entry| Ok(tree.add(entry)?))
}

/// Reads the entries of a stored layer.
pub(crate) fn for_each_entry(
    repository: &Repository,
    stream: &splitstream::Reader,
    mut take: impl FnMut(tar::Entry) -> Result<(), StoredLayerError>,
) -> Result<(), StoredLayerError> {
    let mut reader = tar::Reader::new(Stored {
        repository,
        chunks: stream.chunks(),
        objects: stream.object_refs(),
        kept: None,
        inline: io::Cursor::default(),
    });
    while let Some(entry) = reader.next_entry()? {
        take(entry)?;
    }
    Ok(())
}

struct Stored<'a> {
    repository: &'a Repository,
    chunks: Chunks<'a>,
    objects: &'a [Digest],
    /// The same, made for the first sparse file.
    kept: Option<HashSet<Digest>>,
    /// What is left of the inline piece in hand.
    inline: io::Cursor<Vec<u8>>,
}

impl Input for Stored<'_> {
    type Error = StoredLayerError;

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StoredLayerError> {
        let mut filled = 0;
        while filled < buffer.len() {
            // A cursor over memory cannot fail and is at its end when it reads nothing.
            match self.inline.read(&mut buffer[filled..]) {
                Ok(n) if n > 0 => filled += n,
                _ => match self.chunks.next().transpose()? {
                    Some(Chunk::Inline(piece)) => self.inline = io::Cursor::new(piece),
                    Some(Chunk::External(_)) => return Err(StoredLayerError::Chunking),
                    None => break,
                },
            }
        }
        Ok(filled)
    }

    fn contents(&mut self, size: u64) -> Result<Option<Content>, StoredLayerError> {
        if self.inline.position() < self.inline.get_ref().len() as u64 {
            return Err(StoredLayerError::Chunking);
        }
        match self.chunks.next().transpose()? {
            Some(Chunk::External(digest)) => Ok(Some(Content::object(digest, size))),
            Some(Chunk::Inline(_)) => Err(StoredLayerError::Chunking),
            None => Ok(None),
        }
    }

    /// Nothing in the stream tells which object is the whole file: it is computed, and cannot be another one.
    fn expand(&mut self, data: Content, map: &SparseMap) -> Result<Content, StoredLayerError> {
        let mut hasher = Hasher::new(self.repository.algorithm());
        map.expand(&mut *self.repository.open_content(&data)?, &mut hasher).map_err(StoredLayerError::Expand)?;
        let digest = hasher.finish();
        let kept = self.kept.get_or_insert_with(|| self.objects.iter().copied().collect());
        if !kept.contains(&digest) {
            return Err(StoredLayerError::Expanded { digest });
        }
        Ok(Content::object(digest, map.size()))
    }
}
