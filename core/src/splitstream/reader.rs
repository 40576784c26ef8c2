//! Reads a split stream that is in memory. Its bytes may come from anywhere: nothing in them is trusted.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use thiserror::Error;
use zerocopy::FromBytes;
use zstd::stream::read::Decoder;

use super::{ContentType, Header, Info, LG_BLOCK_SIZE, MAGIC, OldHeader, Range, VERSION};
use crate::digest::{Algorithm, Digest};

/// Longest piece of inline bytes that is handed out at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Most bytes of named refs that are read; about 100 000 labels.
const NAMED_REFS_MAX_BYTES: u64 = 16 << 20;

/// Why a split stream cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Neither header is there.
    #[error("not a split stream")]
    Magic,
    /// Made by a later version.
    #[error("split stream version {0} is not supported, only 0 is")]
    Version(u8),
    /// The digests in it are of another kind than the repository's.
    #[error("the split stream has hash algorithm {found}, the repository has {expected}")]
    Algorithm {
        /// Kernel number in the header.
        found: u8,
        /// The repository's algorithm.
        expected: Algorithm,
    },
    /// The digests in it are made with other blocks.
    #[error("the split stream has fs-verity blocks of 2^{0} bytes, only 2^12 are supported")]
    BlockSize(u8),
    /// It is of another type than the caller wants.
    #[error("the split stream has content type {found:?}, expected is {expected:?}")]
    ContentType {
        /// Type in the file.
        found: ContentType,
        /// Type that was asked for.
        expected: ContentType,
    },
    /// A section is outside of the file, too short, or of an odd length.
    #[error("the {section} of the split stream are damaged")]
    Section {
        /// Name of the section.
        section: &'static str,
    },
    /// An entry of the named refs is not `<index>:<label>`.
    #[error("a named ref of the split stream is damaged")]
    NamedRef,
    /// A chunk refers to an object that is not in the table.
    #[error("a chunk of the split stream refers to object {index}, the table has {count}")]
    ObjectIndex {
        /// Index in the chunk.
        index: u64,
        /// Objects in the table.
        count: usize,
    },
    /// The stream ends within a chunk.
    #[error("the split stream ends within a chunk")]
    Truncated,
    /// A section cannot be decompressed.
    #[error("cannot decompress the {section} of the split stream")]
    Decompress {
        /// Name of the section.
        section: &'static str,
        /// What zstd said.
        source: io::Error,
    },
}

/// A part of the merged stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes of the stream itself, 1..=2^20 of them. A longer run comes as several chunks.
    Inline(Vec<u8>),
    /// A whole object.
    External(Digest),
}

/// An open split stream.
pub struct Reader {
    data: Vec<u8>,
    content_type: ContentType,
    merged_size: u64,
    object_refs: Vec<Digest>,
    named_refs: BTreeMap<String, Digest>,
    stream: std::ops::Range<usize>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("content_type", &self.content_type)
            .field("merged_size", &self.merged_size)
            .field("object_refs", &self.object_refs.len())
            .field("named_refs", &self.named_refs)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Parses a split stream of a repository with this algorithm; the chunks are decoded later.
    pub fn new(data: Vec<u8>, algorithm: Algorithm) -> Result<Self, ReadError> {
        let (version, found, lg_block_size, info) =
            match (Header::read_from_prefix(&data), OldHeader::read_from_prefix(&data)) {
                (Ok((new, _)), _) if new.magic == MAGIC => (new.version, new.algorithm, new.lg_block_size, new.info),
                (_, Ok((old, _))) if old.magic == MAGIC => (old.version, old.algorithm, old.lg_block_size, old.info),
                _ => return Err(ReadError::Magic),
            };
        if version != VERSION {
            return Err(ReadError::Version(version));
        }
        if found != algorithm.kernel_id() {
            return Err(ReadError::Algorithm { found, expected: algorithm });
        }
        if lg_block_size != LG_BLOCK_SIZE {
            return Err(ReadError::BlockSize(lg_block_size));
        }

        let info = section(&data, info, "info block")?;
        let (info, _) =
            Info::read_from_prefix(&data[info]).map_err(|_| ReadError::Section { section: "info block" })?;
        let stream_refs = digests(&data, info.stream_refs, algorithm, "stream refs")?;
        let object_refs = digests(&data, info.object_refs, algorithm, "object refs")?;
        let named_refs = section(&data, info.named_refs, "named refs")?;
        let named_refs = parse_named_refs(&data[named_refs], &stream_refs)?;
        let stream = section(&data, info.stream, "chunks")?;
        Ok(Self {
            content_type: ContentType::from_number(info.content_type.get()),
            merged_size: info.merged_size.get(),
            object_refs,
            named_refs,
            stream,
            data,
        })
    }

    /// What the stream says it contains.
    pub fn content_type(&self) -> ContentType {
        self.content_type
    }

    /// Fails unless the stream is of this type.
    pub fn expect(self, expected: ContentType) -> Result<Self, ReadError> {
        match self.content_type {
            found if found == expected => Ok(self),
            found => Err(ReadError::ContentType { found, expected }),
        }
    }

    /// Size of the merged stream in bytes as the file states it; nobody has checked it.
    pub fn merged_size(&self) -> u64 {
        self.merged_size
    }

    /// The objects that chunks refer to, and further objects that belong to the stream.
    pub fn object_refs(&self) -> &[Digest] {
        &self.object_refs
    }

    /// Other objects under their labels.
    pub fn named_refs(&self) -> &BTreeMap<String, Digest> {
        &self.named_refs
    }

    /// The parts of the merged stream in order. After an error there are no more.
    pub fn chunks(&self) -> Chunks<'_> {
        Chunks { decoder: State::New(&self.data[self.stream.clone()]), objects: &self.object_refs, inline_left: 0 }
    }
}

enum State<'a> {
    New(&'a [u8]),
    Open(BufReader<Decoder<'static, &'a [u8]>>),
    Done,
}

/// Iterator over the parts of a merged stream; see [`Reader::chunks`].
pub struct Chunks<'a> {
    decoder: State<'a>,
    objects: &'a [Digest],
    inline_left: u64,
}

impl std::fmt::Debug for Chunks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks").field("inline_left", &self.inline_left).finish_non_exhaustive()
    }
}

impl Chunks<'_> {
    fn read_next(&mut self) -> Result<Option<Chunk>, ReadError> {
        if let State::New(data) = self.decoder {
            let decoder = Decoder::with_buffer(data).map_err(decompress("chunks"))?;
            self.decoder = State::Open(BufReader::new(decoder));
        }
        let State::Open(decoder) = &mut self.decoder else { return Ok(None) };
        if self.inline_left == 0 {
            let Some(number) = read_number(decoder)? else { return Ok(None) };
            if number >= 0 {
                let digest = usize::try_from(number).ok().and_then(|index| self.objects.get(index));
                let missing = ReadError::ObjectIndex { index: number.unsigned_abs(), count: self.objects.len() };
                return digest.map(|digest| Some(Chunk::External(*digest))).ok_or(missing);
            }
            self.inline_left = number.unsigned_abs();
        }
        // The length is not believed: only as much is allocated as there is.
        let length = self.inline_left.min(PIECE_BYTES);
        let mut piece = Vec::new();
        decoder.take(length).read_to_end(&mut piece).map_err(decompress("chunks"))?;
        if piece.len() as u64 != length {
            return Err(ReadError::Truncated);
        }
        self.inline_left -= length;
        Ok(Some(Chunk::Inline(piece)))
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read_next().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.decoder = State::Done;
        }
        next
    }
}

/// Reads an i64; `None` at the end of the stream.
fn read_number(reader: &mut impl Read) -> Result<Option<i64>, ReadError> {
    let mut bytes = Vec::with_capacity(8);
    reader.take(8).read_to_end(&mut bytes).map_err(decompress("chunks"))?;
    match <[u8; 8]>::try_from(bytes.as_slice()) {
        Ok(bytes) => Ok(Some(i64::from_le_bytes(bytes))),
        Err(_) if bytes.is_empty() => Ok(None),
        Err(_) => Err(ReadError::Truncated),
    }
}

fn decompress(section: &'static str) -> impl Fn(io::Error) -> ReadError {
    move |source| ReadError::Decompress { section, source }
}

/// The range of a section if it is within the file.
fn section(data: &[u8], range: Range, section: &'static str) -> Result<std::ops::Range<usize>, ReadError> {
    let bounds = usize::try_from(range.start.get()).ok().zip(usize::try_from(range.end.get()).ok());
    match bounds {
        Some((start, end)) if start <= end && end <= data.len() => Ok(start..end),
        _ => Err(ReadError::Section { section }),
    }
}

fn digests(data: &[u8], range: Range, algorithm: Algorithm, name: &'static str) -> Result<Vec<Digest>, ReadError> {
    let bytes = &data[section(data, range, name)?];
    bytes
        .chunks(algorithm.digest_len())
        .map(|raw| Digest::new(algorithm, raw).ok_or(ReadError::Section { section: name }))
        .collect()
}

/// Entries `<decimal index>:<label>`, each ended by NUL; labels may contain colons.
fn parse_named_refs(compressed: &[u8], stream_refs: &[Digest]) -> Result<BTreeMap<String, Digest>, ReadError> {
    let decoder = Decoder::with_buffer(compressed).map_err(decompress("named refs"))?;
    let mut bytes = Vec::new();
    decoder.take(NAMED_REFS_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(decompress("named refs"))?;
    if bytes.len() as u64 > NAMED_REFS_MAX_BYTES {
        return Err(ReadError::Section { section: "named refs" });
    }
    let mut named_refs = BTreeMap::new();
    for entry in bytes.split_inclusive(|byte| *byte == 0) {
        let entry = entry.strip_suffix(&[0]).and_then(|entry| str::from_utf8(entry).ok());
        let (index, label) = entry.and_then(|entry| entry.split_once(':')).ok_or(ReadError::NamedRef)?;
        let digest = index.parse().ok().and_then(|index: usize| stream_refs.get(index)).ok_or(ReadError::NamedRef)?;
        named_refs.insert(label.to_owned(), *digest);
    }
    Ok(named_refs)
}
