//! Blobs of layers, decompressed while they are checked.
//!
//! A [`Blob`] counts and hashes what passes, so that the size and digest in the manifest are verified for exactly the
//! bytes that the layer was made of. A [`Decoder`] reads *all* gzip members or zstd frames (skippable frames included) to
//! the end of the blob: stopping after the first would silently lose files of eStargz and zstd:chunked layers.
//! Nothing is buffered beyond the decoders' windows.

use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use super::digest::{ContentDigest, ContentHasher};
use super::manifest::BlobDescriptor;
use crate::observer::{Event, Observer};

/// Bytes between two progress events.
const PROGRESS_STEP_BYTES: u64 = 256 << 10;
/// Bytes read from the source at once.
const BUFFER_BYTES: usize = 128 << 10;

/// How the tar archive of a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, any number of members.
    Gzip,
    /// zstd, any number of frames.
    Zstd,
}

impl Compression {
    /// The compression that a layer's media type tells; contents are never guessed at.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let form = [
            "application/vnd.oci.image.layer.v1.",
            "application/vnd.oci.image.layer.nondistributable.v1.",
            "application/vnd.docker.image.rootfs.diff.",
            "application/vnd.docker.image.rootfs.foreign.diff.",
        ]
        .iter()
        .find_map(|prefix| media_type.strip_prefix(prefix))?;
        match form {
            "tar" => Some(Self::None),
            "tar+gzip" | "tar.gzip" => Some(Self::Gzip),
            "tar+zstd" | "tar.zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// The bytes of a blob on their way in: counted, hashed, reported, and stopped when another layer failed.
pub(crate) struct Blob<'a> {
    source: Box<dyn Read + Send + 'a>,
    hasher: ContentHasher,
    /// `None`: nobody knows.
    expected_bytes: Option<u64>,
    read_bytes: u64,
    reported_bytes: u64,
    at_end: bool,
    source_failed: bool,
    id: &'a str,
    stop: &'a AtomicBool,
    observer: &'a dyn Observer,
}

/// What is wrong with a blob, apart from its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlobFault {
    /// Another layer failed first.
    Stopped,
    /// The source could not be read.
    Source,
    /// It ended early.
    Short { read_bytes: u64 },
    /// It goes on beyond its stated size.
    Long,
    /// All bytes are there, but they are not the right ones.
    Digest { actual: ContentDigest },
}

impl<'a> Blob<'a> {
    pub(crate) fn new(
        source: Box<dyn Read + Send + 'a>,
        descriptor: &BlobDescriptor,
        id: &'a str,
        stop: &'a AtomicBool,
        observer: &'a dyn Observer,
    ) -> Self {
        Self {
            source,
            hasher: ContentHasher::new(descriptor.digest.algorithm()),
            expected_bytes: Some(descriptor.size),
            read_bytes: 0,
            reported_bytes: 0,
            at_end: false,
            source_failed: false,
            id,
            stop,
            observer,
        }
    }

    /// Counts as progress only what comes after the first bytes, which are here from an earlier attempt.
    pub(crate) fn resumed_at(self, done_bytes: u64) -> Self {
        Self { reported_bytes: done_bytes, ..self }
    }

    /// A blob that is complete when its source ends.
    pub(crate) fn of_unknown_size(self) -> Self {
        Self { expected_bytes: None, ..self }
    }

    fn is_too_long(&self) -> bool {
        self.expected_bytes.is_some_and(|expected| self.read_bytes > expected)
    }

    /// What went wrong so far with the blob as such; `None` says that it is complete and `expected`, if all was read.
    pub(crate) fn fault(&self, expected: &ContentDigest) -> Option<BlobFault> {
        if self.stop.load(Ordering::Relaxed) {
            Some(BlobFault::Stopped)
        } else if self.source_failed {
            Some(BlobFault::Source)
        } else if self.is_too_long() {
            Some(BlobFault::Long)
        } else if !self.at_end {
            None
        } else if self.expected_bytes.is_some_and(|expected| self.read_bytes < expected) {
            Some(BlobFault::Short { read_bytes: self.read_bytes })
        } else {
            let actual = self.hasher.clone().finish();
            (actual != *expected).then_some(BlobFault::Digest { actual })
        }
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        let n = match self.source.read(buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.source_failed = true;
                return Err(error);
            }
        };
        self.at_end = n == 0 && !buffer.is_empty();
        self.hasher.update(&buffer[..n]);
        self.read_bytes += n as u64;
        if self.is_too_long() {
            return Err(io::Error::other("more bytes than the manifest states"));
        }
        if self.read_bytes.saturating_sub(self.reported_bytes) >= PROGRESS_STEP_BYTES {
            self.reported_bytes = self.read_bytes;
            self.observer.event(Event::Progress { id: self.id, done_bytes: self.read_bytes });
        }
        Ok(n)
    }
}

/// Decompresses a blob to its end.
pub(crate) enum Decoder<'a> {
    Plain(BufReader<Blob<'a>>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<Blob<'a>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Blob<'a>>>),
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(compression: Compression, blob: Blob<'a>) -> io::Result<Self> {
        let blob = BufReader::with_capacity(BUFFER_BYTES, blob);
        Ok(match compression {
            Compression::None => Self::Plain(blob),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(blob))),
            Compression::Zstd => Self::Zstd(zstd::stream::read::Decoder::with_buffer(blob)?),
        })
    }

    /// The blob, to ask it for faults.
    pub(crate) fn blob(&self) -> &Blob<'a> {
        match self {
            Self::Plain(blob) => blob.get_ref(),
            Self::Gzip(decoder) => decoder.get_ref().get_ref(),
            Self::Zstd(decoder) => decoder.get_ref().get_ref(),
        }
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::observer::Silent;

    static GO: AtomicBool = AtomicBool::new(false);

    fn decode(compression: Compression, bytes: &[u8]) -> Result<Vec<u8>, Option<BlobFault>> {
        let digest = ContentDigest::sha256(bytes);
        let descriptor = BlobDescriptor { media_type: String::new(), digest, size: bytes.len() as u64 };
        let blob = Blob::new(Box::new(bytes), &descriptor, "id", &GO, &Silent);
        let mut decoder = Decoder::new(compression, blob).unwrap();
        let mut out = Vec::new();
        let result = decoder.read_to_end(&mut out);
        let fault = decoder.blob().fault(&digest);
        match result {
            Ok(_) if fault.is_none() && decoder.blob().at_end => Ok(out),
            _ => Err(fault),
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(bytes, 0).unwrap()
    }

    fn skippable(len: u32) -> Vec<u8> {
        let mut frame = 0x184D_2A5E_u32.to_le_bytes().to_vec();
        frame.extend_from_slice(&len.to_le_bytes());
        frame.resize(8 + len as usize, b's');
        frame
    }

    #[test]
    fn media_types_tell_the_compression() {
        let of = Compression::of_media_type;
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar"), Some(Compression::None));
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar+gzip"), Some(Compression::Gzip));
        assert_eq!(of("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"), Some(Compression::Zstd));
        assert_eq!(of("application/vnd.docker.image.rootfs.diff.tar.gzip"), Some(Compression::Gzip));
        assert_eq!(of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), Some(Compression::Gzip));
        assert_eq!(of("application/vnd.docker.image.rootfs.diff.tar"), Some(Compression::None));
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar+encrypted"), None);
        assert_eq!(of("application/vnd.oci.image.config.v1+json"), None);
    }

    #[test]
    fn all_gzip_members_are_read() {
        let bytes = [gzip(b"one"), gzip(b""), gzip(b"two")].concat();
        assert_eq!(decode(Compression::Gzip, &bytes).unwrap(), b"onetwo");
    }

    #[test]
    fn all_zstd_frames_are_read_and_skippable_ones_skipped() {
        let (one, two, empty) = (zstd_frame(b"one"), zstd_frame(b"two"), zstd_frame(b""));
        let frames =
            [skippable(0), skippable(300_000), one, empty, skippable(9), two, skippable(0), skippable(200_000)];
        assert_eq!(decode(Compression::Zstd, &frames.concat()).unwrap(), b"onetwo");
    }

    #[test]
    fn what_follows_the_compressed_data_is_refused() {
        for tail in [&b"x"[..], b"garbage that is long enough for a header", &[0; 512]] {
            assert!(decode(Compression::Gzip, &[&gzip(b"one"), tail].concat()).is_err(), "{tail:?}");
            assert!(decode(Compression::Zstd, &[&zstd_frame(b"one"), tail].concat()).is_err(), "{tail:?}");
        }
    }

    #[test]
    fn truncation_is_refused_at_every_byte() {
        let (bytes, compressed) = (b"some text, some text, some text", Compression::Gzip);
        let whole = gzip(bytes);
        for cut in 0..whole.len() {
            assert!(decode(compressed, &whole[..cut]).is_err(), "gzip cut at {cut}");
        }
        let (first, second) = (zstd_frame(bytes), [skippable(9), zstd_frame(bytes)].concat());
        for cut in 1..first.len() {
            assert!(decode(Compression::Zstd, &first[..cut]).is_err(), "zstd cut at {cut}");
        }
        for cut in (1..second.len()).filter(|cut| *cut != 17) {
            let bytes = [&first, &second[..cut]].concat();
            assert!(decode(Compression::Zstd, &bytes).is_err(), "zstd cut at {cut} after a frame");
        }
    }

    #[test]
    fn faults_of_the_blob_are_told() {
        let bytes = b"0123456789";
        let digest = ContentDigest::sha256(bytes);
        let fault = |contents: &[u8], size| {
            let descriptor = BlobDescriptor { media_type: String::new(), digest, size };
            let mut blob = Blob::new(Box::new(contents), &descriptor, "id", &GO, &Silent);
            let result = blob.read_to_end(&mut Vec::new());
            (result.is_err(), blob.fault(&digest))
        };
        assert_eq!(fault(bytes, 10), (false, None));
        assert_eq!(fault(bytes, 9), (true, Some(BlobFault::Long)));
        assert_eq!(fault(bytes, 11), (false, Some(BlobFault::Short { read_bytes: 10 })));
        let actual = ContentDigest::sha256(b"012345678X");
        assert_eq!(fault(b"012345678X", 10), (false, Some(BlobFault::Digest { actual })));
    }
}
