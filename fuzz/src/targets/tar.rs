//! Layers: any bytes as an archive, taken as they are or with checksums put right, applied twice; the archive is the same
//! after it was a split stream, and the tree after it was an image.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use osupdate_core::erofs::{self, Format};
use osupdate_core::fuzz::layers;
use osupdate_core::splitstream::{Chunk, ContentType, Reader, Writer};
use osupdate_core::tar::{FormatError, Input, SparseMap};
use osupdate_core::tree::Content;
use osupdate_core::{Algorithm, Digest, fsverity};

const BLOCK: usize = 512;
const ALGORITHM: Algorithm = Algorithm::Sha256;

pub(crate) fn run(input: &[u8]) {
    let Some((mode, archive)) = input.split_first() else { return };
    let mut archive = archive.to_vec();
    if mode % 2 == 1 {
        archive.chunks_exact_mut(BLOCK).for_each(put_checksum_right);
    }
    let Ok((tree, inputs)) = layers(vec![Import::new(&archive), Import::new(&archive)]) else { return };
    for input in inputs {
        assert!(input.merged() == archive, "the split stream is not the archive");
    }
    // What no image can hold, such as a hundred thousand extended attributes, is refused when one is written.
    let Ok(image) = erofs::write(&tree, Format::V1) else { return };
    let (again, _) = erofs::read(&image).expect("an image of our own can be read");
    assert!(erofs::write(&again, Format::V1).expect("it was written before") == image);
}

/// Makes a block that looks like a header one; few random blocks would be.
fn put_checksum_right(block: &mut [u8]) {
    if &block[257..262] != b"ustar" {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive in memory, of which a split stream and objects are made, as an import does.
struct Import<'a> {
    archive: Cursor<&'a [u8]>,
    stream: Writer,
    objects: BTreeMap<Digest, Vec<u8>>,
}

impl<'a> Import<'a> {
    fn new(archive: &'a [u8]) -> Self {
        let stream = Writer::new(ALGORITHM, ContentType::Layer).expect("memory can be written to");
        Self { archive: Cursor::new(archive), stream, objects: BTreeMap::new() }
    }

    fn merged(self) -> Vec<u8> {
        let stream = self.stream.finish().expect("memory can be written to");
        let reader = Reader::new(stream, ALGORITHM).expect("a stream of our own can be read");
        let mut merged = Vec::new();
        for chunk in reader.chunks() {
            match chunk.expect("a chunk of our own can be read") {
                Chunk::Inline(bytes) => merged.extend(bytes),
                Chunk::External(digest) => merged.extend(&self.objects[&digest]),
            }
        }
        merged
    }
}

impl Input for Import<'_> {
    type Error = FormatError;

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FormatError> {
        let count = self.archive.read(buffer).expect("memory can be read");
        self.stream.inline(&buffer[..count]);
        Ok(count)
    }

    fn contents(&mut self, size: u64) -> Result<Option<Content>, FormatError> {
        let mut bytes = Vec::new();
        (&mut self.archive).take(size).read_to_end(&mut bytes).expect("memory can be read");
        if (bytes.len() as u64) < size {
            return Ok(None);
        }
        let digest = fsverity::digest(ALGORITHM, &bytes);
        self.stream.external(digest, size).expect("memory can be written to");
        self.objects.insert(digest, bytes);
        Ok(Some(Content::object(digest, size)))
    }

    /// The holes may have gigabytes, which take time to hash: here the digest stands for the part that is there.
    fn expand(&mut self, data: Content, map: &SparseMap) -> Result<Content, FormatError> {
        assert_eq!(data.size(), map.data_bytes());
        let digest = fsverity::digest(ALGORITHM, &map.size().to_le_bytes());
        Ok(Content::object(digest, map.size()))
    }
}
