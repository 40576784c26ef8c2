//! Telling manifests from manifest lists, and choosing from a list.

use osupdate_core::oci::{
    BlobDescriptor, INDEX_MEDIA_TYPES, MANIFEST_MEDIA_TYPES, ManifestError, Platform, parse_index,
};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::RegistryError;
use crate::output::printable;

/// The media types that we understand, for `Accept`.
pub(super) fn accept() -> String {
    [MANIFEST_MEDIA_TYPES, INDEX_MEDIA_TYPES].concat().join(", ")
}

/// What a registry answered for a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The manifest of one image.
    Image,
    /// Several images, one for each platform.
    List,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Any {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

/// Tells what a manifest is. The document decides; a `Content-Type` that says otherwise is refused, because then two
/// readers may see two images under one digest.
pub(super) fn kind(bytes: &[u8], content_type: Option<&str>, what: &str) -> Result<Kind, RegistryError> {
    let document: Any = serde_json::from_slice(bytes)
        .map_err(|source| RegistryError::ManifestJson { what: what.to_owned(), source })?;
    let unusable = |problem: String| Err(RegistryError::ManifestKind { what: what.to_owned(), problem });
    if document.schema_version != 2 {
        return unusable(format!("schema version {} is not supported, only 2 is", document.schema_version));
    }
    let is_list = document.manifests.is_some();
    if is_list == (document.config.is_some() || document.layers.is_some()) {
        return unusable("it is neither an image nor a manifest list".to_owned());
    }
    let header = content_type.map(|value| value.split(';').next().unwrap_or_default().trim());
    for media_type in document.media_type.as_deref().into_iter().chain(header) {
        let fitting = if is_list { INDEX_MEDIA_TYPES } else { MANIFEST_MEDIA_TYPES };
        // Servers of files do not know better.
        let says_nothing = ["application/json", "application/octet-stream", "text/plain", ""].contains(&media_type);
        if !fitting.contains(&media_type) && !says_nothing {
            let kind = if is_list { "a manifest list" } else { "an image" };
            return unusable(format!("it is {kind} but its media type is {}", printable(media_type)));
        }
    }
    Ok(if is_list { Kind::List } else { Kind::Image })
}

/// The image for a platform. A list of one image that states no platform is that image.
pub(super) fn select(list: &[u8], platform: &Platform, what: &str) -> Result<BlobDescriptor, RegistryError> {
    let failed = |source| RegistryError::List { what: what.to_owned(), source };
    let index = parse_index(list).map_err(failed)?;
    let descriptor = match index.manifests().as_slice() {
        [only] if only.platform().is_none() => only,
        several => platform.select(several).map_err(failed)?,
    };
    let digest = |source| failed(ManifestError::Digest { document: "index", source });
    BlobDescriptor::try_from(descriptor).map_err(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI_MANIFEST: &str = MANIFEST_MEDIA_TYPES[0];
    const OCI_INDEX: &str = INDEX_MEDIA_TYPES[0];

    fn kind(json: &str, content_type: &str) -> Result<Kind, String> {
        super::kind(json.as_bytes(), Some(content_type), "manifest").map_err(|error| error.to_string())
    }

    #[test]
    fn documents_that_can_be_read_in_two_ways_are_refused() {
        let image = r#"{"schemaVersion": 2, "config": {}, "layers": []}"#;
        assert!(matches!(kind(image, OCI_MANIFEST), Ok(Kind::Image)));
        assert!(matches!(kind(image, "application/json; charset=utf-8"), Ok(Kind::Image)));
        assert!(kind(image, OCI_INDEX).unwrap_err().contains("is an image but its media type is"));
        assert!(matches!(kind(r#"{"schemaVersion": 2, "manifests": []}"#, INDEX_MEDIA_TYPES[1]), Ok(Kind::List)));
        let both = r#"{"schemaVersion": 2, "config": {}, "layers": [], "manifests": []}"#;
        assert!(kind(both, OCI_INDEX).unwrap_err().contains("neither"));
        let stated = format!(r#"{{"schemaVersion": 2, "mediaType": "{OCI_INDEX}", "config": {{}}, "layers": []}}"#);
        assert!(kind(&stated, OCI_MANIFEST).is_err());
        let old = r#"{"schemaVersion": 1, "fsLayers": []}"#;
        assert!(kind(old, "application/json").unwrap_err().contains("schema version 1"));
    }
}
