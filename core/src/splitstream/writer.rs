//! Writes a split stream into memory.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::mem;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;
use zstd::stream::write::Encoder;

use super::{ContentType, Header, Info, LG_BLOCK_SIZE, MAGIC, Range, VERSION};
use crate::digest::{Algorithm, Digest};

/// zstd's default level. Level, frame header and order of the sections are those of cfsctl, so that both tools write
/// the same bytes for the same configuration and neither re-points the other's stream names.
const LEVEL: i32 = 0;
/// Inline bytes that are kept as they are until the chunk ends. Longer runs are kept compressed, in a frame of their own.
const RUN_BYTES: usize = 1 << 20;

/// Builds a split stream; the large parts must be in the repository before the result is stored.
///
/// Adjacent inline bytes become one chunk. Its length comes before it and is known after it, so that a long run is held
/// back, but compressed. Refs keep the order of their first use.
pub struct Writer {
    algorithm: Algorithm,
    content_type: ContentType,
    stream: Encoder<'static, Vec<u8>>,
    inline: Vec<u8>,
    /// The run that has become too long for `inline`, while `stream` has nothing but its start.
    long_run: Option<LongRun>,
    /// Why compressing failed, told by the next call that can fail.
    failure: Option<io::Error>,
    merged_size: u64,
    object_refs: Refs,
    stream_refs: Refs,
    named_refs: BTreeMap<String, usize>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("content_type", &self.content_type)
            .field("merged_size", &self.merged_size)
            .field("named_refs", &self.named_refs.keys())
            .finish_non_exhaustive()
    }
}

struct LongRun {
    /// The frames before it.
    before: Vec<u8>,
    /// Bytes of it that are in the encoder.
    bytes: u64,
}

/// Unique digests in order of first use.
#[derive(Default)]
struct Refs {
    order: Vec<Digest>,
    index: HashMap<Digest, usize>,
}

impl Refs {
    fn index_of(&mut self, digest: Digest) -> usize {
        *self.index.entry(digest).or_insert_with(|| {
            self.order.push(digest);
            self.order.len() - 1
        })
    }

    fn bytes(&self) -> Vec<u8> {
        self.order.iter().flat_map(|digest| digest.as_bytes().iter().copied()).collect()
    }
}

impl Writer {
    /// An empty stream for a repository with this algorithm.
    pub fn new(algorithm: Algorithm, content_type: ContentType) -> io::Result<Self> {
        Ok(Self {
            algorithm,
            content_type,
            stream: Encoder::new(Vec::new(), LEVEL)?,
            inline: Vec::new(),
            long_run: None,
            failure: None,
            merged_size: 0,
            object_refs: Refs::default(),
            stream_refs: Refs::default(),
            named_refs: BTreeMap::new(),
        })
    }

    /// Appends bytes that are stored in the stream itself.
    pub fn inline(&mut self, bytes: &[u8]) {
        self.inline.extend_from_slice(bytes);
        if self.inline.len() >= RUN_BYTES
            && let Err(error) = self.compress_run()
        {
            self.failure.get_or_insert(error);
        }
    }

    /// Bytes in memory, refs apart.
    pub fn held_bytes(&self) -> usize {
        let before = self.long_run.as_ref().map_or(0, |run| run.before.len());
        self.inline.len() + before + self.stream.get_ref().len()
    }

    /// Appends a whole object of `size` bytes.
    ///
    /// # Panics
    /// If the digest is of another algorithm than the stream's.
    pub fn external(&mut self, digest: Digest, size: u64) -> io::Result<()> {
        self.check(&digest);
        self.flush_inline()?;
        let index = self.object_refs.index_of(digest) as i64;
        self.stream.write_all(&index.to_le_bytes())?;
        self.merged_size += size;
        Ok(())
    }

    /// Refers to an object that belongs to the stream and is not a part of it, so that it is kept.
    ///
    /// # Panics
    /// If the digest is of another algorithm than the stream's.
    pub fn object_ref(&mut self, digest: Digest) {
        self.check(&digest);
        self.object_refs.index_of(digest);
    }

    /// Names another object under a label, which may not contain NUL. A label given twice names the later object.
    ///
    /// # Panics
    /// If the digest is of another algorithm than the stream's.
    pub fn named_ref(&mut self, label: &str, digest: Digest) {
        self.check(&digest);
        let index = self.stream_refs.index_of(digest);
        self.named_refs.insert(label.to_owned(), index);
    }

    /// Completes the stream and returns the bytes to be stored as an object.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        self.flush_inline()?;
        let mut named_refs = Encoder::new(Vec::new(), LEVEL)?;
        for (label, index) in &self.named_refs {
            if label.contains('\0') {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the label of a named ref contains NUL"));
            }
            write!(named_refs, "{index}:{label}\0")?;
        }
        let sections =
            [self.stream_refs.bytes(), self.object_refs.bytes(), named_refs.finish()?, self.stream.finish()?];

        let mut end = (size_of::<Header>() + size_of::<Info>()) as u64;
        let ranges = sections.each_ref().map(|section| {
            let start = end;
            end += section.len() as u64;
            Range { start: U64::new(start), end: U64::new(end) }
        });
        let [stream_refs, object_refs, named_refs, stream] = ranges;
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            flags: 0.into(),
            algorithm: self.algorithm.kernel_id(),
            lg_block_size: LG_BLOCK_SIZE,
            info: Range { start: U64::new(size_of::<Header>() as u64), end: stream_refs.start },
        };
        let info = Info {
            stream_refs,
            object_refs,
            stream,
            named_refs,
            content_type: U64::new(self.content_type.number()),
            merged_size: U64::new(self.merged_size),
        };

        let mut out = Vec::with_capacity(end as usize);
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(info.as_bytes());
        for section in &sections {
            out.extend_from_slice(section);
        }
        Ok(out)
    }

    /// Compresses what there is of a run whose end is not known yet.
    fn compress_run(&mut self) -> io::Result<()> {
        if self.long_run.is_none() {
            let before = mem::replace(&mut self.stream, Encoder::new(Vec::new(), LEVEL)?).finish()?;
            self.long_run = Some(LongRun { before, bytes: 0 });
        }
        self.stream.write_all(&self.inline)?;
        if let Some(run) = &mut self.long_run {
            run.bytes += self.inline.len() as u64;
        }
        self.inline.clear();
        Ok(())
    }

    /// Ends a long run: a frame with its length goes before its own.
    fn flush_long_run(&mut self) -> io::Result<()> {
        self.compress_run()?;
        let Some(LongRun { before, bytes }) = self.long_run.take() else { return Ok(()) };
        let run = mem::replace(&mut self.stream, Encoder::new(Vec::new(), LEVEL)?).finish()?;
        let mut length = Encoder::new(before, LEVEL)?;
        length.write_all(&(-(bytes as i64)).to_le_bytes())?;
        let mut frames = length.finish()?;
        frames.extend_from_slice(&run);
        self.stream = Encoder::new(frames, LEVEL)?;
        self.merged_size += bytes;
        Ok(())
    }

    fn flush_inline(&mut self) -> io::Result<()> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        if self.long_run.is_some() {
            return self.flush_long_run();
        }
        if self.inline.is_empty() {
            return Ok(());
        }
        let length = self.inline.len() as i64;
        self.stream.write_all(&(-length).to_le_bytes())?;
        self.stream.write_all(&self.inline)?;
        self.merged_size += self.inline.len() as u64;
        self.inline.clear();
        Ok(())
    }

    fn check(&self, digest: &Digest) {
        assert_eq!(digest.algorithm(), self.algorithm, "a split stream refers to objects of one algorithm");
    }
}
