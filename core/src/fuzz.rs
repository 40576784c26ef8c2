//! Ways in for the fuzz targets, to parsers that are not public. No API: for the crate `osupdate-fuzz` alone.

use crate::oci::apply::{ApplyError, TreeBuilder};
use crate::oci::manifest::{CheckedConfig, CheckedManifest};
use crate::repository::metadata::Metadata;
use crate::tar::{Input, Reader};
use crate::transform::XattrFilter;
use crate::tree::Tree;

/// Reads `meta.json` and returns it as it would be written again; `None` if it is refused.
pub fn metadata(json: &[u8]) -> Option<Vec<u8>> {
    Metadata::parse(json).ok()?.to_json().ok()
}

/// Whether a manifest is accepted.
pub fn manifest(json: &[u8]) -> bool {
    CheckedManifest::parse(json).is_ok()
}

/// Whether the configuration of an image with this many layers is accepted.
pub fn config(json: &[u8], layers: usize) -> bool {
    CheckedConfig::parse(json, layers).is_ok()
}

/// What can go wrong with layers.
#[derive(Debug)]
pub enum LayersError<E> {
    /// An archive cannot be read.
    Archive(E),
    /// An entry cannot be applied.
    Apply(ApplyError),
}

/// Applies archives on top of each other to one tree; returns it with the inputs.
///
/// # Errors
/// As of importing an image.
pub fn layers<I: Input>(inputs: Vec<I>) -> Result<(Tree, Vec<I>), LayersError<I::Error>> {
    let mut tree = TreeBuilder::new(Some(XattrFilter::KeepUserXattrs));
    let mut read = Vec::new();
    for input in inputs {
        tree.next_layer();
        let mut reader = Reader::new(input);
        while let Some(entry) = reader.next_entry().map_err(LayersError::Archive)? {
            tree.add(entry).map_err(LayersError::Apply)?;
        }
        read.push(reader.finish().map_err(LayersError::Archive)?);
    }
    Ok((tree.finish(), read))
}
