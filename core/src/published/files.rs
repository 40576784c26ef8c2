//! Names of the files of a tree.

use crate::digest::Digest;
use crate::oci::ContentDigest;

/// The file that says which images there are.
pub const SUMMARY_FILE: &str = "summary.json";

/// Path of the index with this SHA-256.
pub fn index_path(name: &ContentDigest) -> String {
    format!("indexes/{}", name.hex())
}

/// Path of the chunk with this SHA-256.
pub fn chunk_path(name: &ContentDigest) -> String {
    let hex = name.hex();
    let (first, rest) = hex.split_at(2);
    format!("chunks/{first}/{rest}")
}

/// Path of an object, as it is or compressed.
pub fn object_path(digest: &Digest, compressed: bool) -> String {
    let suffix = if compressed { ".zst" } else { "" };
    format!("objects/{}{suffix}", digest.object_path())
}
