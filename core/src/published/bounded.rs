//! Decompression that stops.

use std::io::{self, Read};

use zstd::stream::read::Decoder;

/// log2 of the largest window that a frame may ask for; what zstd's levels up to 19 use, so that 8 MiB are enough.
pub(super) const WINDOW_LOG_MAX: u32 = 23;

/// All bytes of zstd frames; `None` when there are more than `limit`.
pub(super) fn decompress(compressed: &[u8], limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut decoder = Decoder::with_buffer(compressed)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut bytes = Vec::new();
    decoder.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit).then_some(bytes))
}
