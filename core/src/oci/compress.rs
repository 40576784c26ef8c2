//! Layers compressed again, on their way out.
//!
//! Only the uncompressed layer is stored, so a compressed blob is not the one that was pulled: other tools, levels and
//! versions compress otherwise. The same program makes the same bytes of the same layer.

use std::io::{self, Write};

use super::decompress::Compression;

/// What compressors of container tools use.
const ZSTD_LEVEL: i32 = 3;

/// Compresses what is written to it into another writer.
pub struct Compressor<W: Write>(Encoder<W>);

enum Encoder<W: Write> {
    Plain(W),
    Gzip(Box<flate2::write::GzEncoder<W>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Compressor<W> {
    /// Begins a blob.
    ///
    /// # Errors
    /// When the compressor cannot be set up.
    pub fn new(compression: Compression, out: W) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::None => Encoder::Plain(out),
            Compression::Gzip => Encoder::Gzip(Box::new(flate2::write::GzEncoder::new(out, Default::default()))),
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(Box::new(encoder))
            }
        }))
    }

    /// Ends the blob.
    ///
    /// # Errors
    /// When the rest cannot be written.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Encoder::Plain(out) => Ok(out),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Encoder::Plain(out) => out.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Encoder::Plain(out) => out.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let compression = match &self.0 {
            Encoder::Plain(_) => Compression::None,
            Encoder::Gzip(_) => Compression::Gzip,
            Encoder::Zstd(_) => Compression::Zstd,
        };
        f.debug_tuple("Compressor").field(&compression).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_compressed_comes_back_and_is_always_the_same() {
        let layer: Vec<u8> = (0..300_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let compress = |compression, piece: usize| {
            let mut compressor = Compressor::new(compression, Vec::new()).unwrap();
            layer.chunks(piece).for_each(|piece| compressor.write_all(piece).unwrap());
            compressor.finish().unwrap()
        };
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let blob = compress(compression, 1 << 17);
            assert_eq!(blob, compress(compression, 1 << 17));
            let mut out = Vec::new();
            match compression {
                Compression::None => out.clone_from(&blob),
                Compression::Gzip => drop(flate2::read::GzDecoder::new(&blob[..]).read_to_end(&mut out).unwrap()),
                Compression::Zstd => out = zstd::stream::decode_all(&blob[..]).unwrap(),
            }
            assert!(out == layer, "{compression:?}");
            assert!(compression == Compression::None || blob.len() < layer.len() / 2);
        }
    }
}
