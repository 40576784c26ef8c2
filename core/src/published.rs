//! The published tree: a repository as plain files that any web server can serve.
//!
//! ```text
//! summary.json           which images there are, in an [`Envelope`] with its signatures; the only file that is ever replaced
//! indexes/<sha256>       zstd of the JSON of an [`Index`]: what an image is rebuilt from
//! chunks/xx/<rest>       zstd of a [`chunk`](Part): a slice of the split stream of a layer
//! objects/xx/<rest>      an object as it is, or, with `.zst` behind the name, its zstd
//! ```
//!
//! Names but the first are those of the contents, so that a file never changes and any cache may keep it. Layers are cut
//! where their contents say ([`chunks`]): one of which few files changed shares nearly all chunks with the one before.
//! A client cuts the layers that it has in the same way and fetches only the chunks that are not among them. The layer
//! is then read from chunks and objects ([`LayerBytes`]) and imported, which compares its digest with the diff_id before
//! anything names it.
//!
//! All that is read here was fetched: nothing is believed, and memory and time are bounded.

mod base64_bytes;
mod bounded;
mod chunk;
mod chunker;
mod envelope;
mod fetch;
mod files;
mod held;
mod index;
mod layer;
mod source;
mod summary;
#[cfg(test)]
mod tests;

pub use chunk::{CHUNK_MAX_BYTES, ChunkError, Part, decode, encode};
pub use chunker::{ChunkerError, Chunks, chunks};
pub use envelope::{ENVELOPE_MAX_BYTES, Envelope, EnvelopeError, EnvelopeSignature};
pub(crate) use fetch::FetchTree;
pub use fetch::FetchTreeError;
pub use files::{SUMMARY_FILE, chunk_path, index_path, object_path};
pub use index::{
    ATTACHED_BLOB_MAX_BYTES, ATTACHMENTS_MAX, AttachedBlob, Attachment, INDEX_MAX_BYTES, Index, IndexError,
    OBJECTS_MAX, PublishedLayer,
};
pub use layer::{LayerBytes, LayerBytesError};
pub use source::{ObjectFile, PublishedSource};
pub use summary::{PublishedFile, PublishedImage, SUMMARY_MAX_BYTES, Summary, SummaryError, is_name, is_tag};

/// Version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;
