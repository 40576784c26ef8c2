//! Telling manifests from manifest lists, and choosing from a list.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::platform::Platform;
use super::error::{RegistryError, printable};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The media types that we understand, for `Accept`.
pub(super) const MEDIA_TYPES: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// What a registry answered for a reference.
#[derive(Debug)]
pub(super) enum Kind {
    /// The manifest of one image.
    Image,
    /// Several images, one for each platform.
    List(Vec<ListEntry>),
}

/// One image of a list.
#[derive(Debug, Deserialize)]
pub(super) struct ListEntry {
    pub(super) digest: String,
    pub(super) size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Any {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<Vec<ListEntry>>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

/// Tells what a manifest is. The document decides; a `Content-Type` that says otherwise is refused, because then two
/// readers may see two images under one digest.
pub(super) fn parse(bytes: &[u8], content_type: Option<&str>, what: &str) -> Result<Kind, RegistryError> {
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
        let agrees = match media_type {
            OCI_MANIFEST | DOCKER_MANIFEST => !is_list,
            OCI_INDEX | DOCKER_LIST => is_list,
            // Servers of files do not know better.
            "application/json" | "application/octet-stream" | "text/plain" | "" => true,
            _ => false,
        };
        if !agrees {
            let kind = if is_list { "a manifest list" } else { "an image" };
            return unusable(format!("it is {kind} but its media type is {}", printable(media_type)));
        }
    }
    Ok(match document.manifests {
        Some(entries) => Kind::List(entries),
        None => Kind::Image,
    })
}

/// The image for a platform. A list of one image that states no platform is that image.
pub(super) fn choose<'a>(
    entries: &'a [ListEntry],
    platform: &Platform,
    what: &str,
) -> Result<&'a ListEntry, RegistryError> {
    let entry = match entries {
        [only] if only.platform.is_none() => only,
        _ => match platform.choose(entries.iter().map(|entry| entry.platform.as_ref())) {
            Some(i) => &entries[i],
            None => {
                let mut available: Vec<_> =
                    entries.iter().filter_map(|entry| Some(printable(&entry.platform.as_ref()?.to_string()))).collect();
                // Attestations are listed as images for an unknown platform.
                available.retain(|platform| platform != "unknown/unknown");
                available.dedup();
                if available.is_empty() {
                    available.push("none that it names".to_owned());
                }
                return Err(RegistryError::NoPlatform {
                    what: what.to_owned(),
                    wanted: platform.to_string(),
                    available,
                });
            }
        },
    };
    if !super::super::reference::is_digest(&entry.digest) {
        let problem = format!("its digest {:?} for {platform} is not a SHA-256 digest", printable(&entry.digest));
        return Err(RegistryError::ManifestKind { what: what.to_owned(), problem });
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(json: &str, content_type: &str) -> Result<Kind, String> {
        parse(json.as_bytes(), Some(content_type), "manifest").map_err(|error| error.to_string())
    }

    #[test]
    fn documents_that_can_be_read_in_two_ways_are_refused() {
        let image = r#"{"schemaVersion": 2, "config": {}, "layers": []}"#;
        assert!(matches!(kind(image, OCI_MANIFEST), Ok(Kind::Image)));
        assert!(matches!(kind(image, "application/json; charset=utf-8"), Ok(Kind::Image)));
        assert!(kind(image, OCI_INDEX).unwrap_err().contains("is an image but its media type is"));
        assert!(matches!(kind(r#"{"schemaVersion": 2, "manifests": []}"#, DOCKER_LIST), Ok(Kind::List(_))));
        let both = r#"{"schemaVersion": 2, "config": {}, "layers": [], "manifests": []}"#;
        assert!(kind(both, OCI_INDEX).unwrap_err().contains("neither"));
        let stated = format!(r#"{{"schemaVersion": 2, "mediaType": "{OCI_INDEX}", "config": {{}}, "layers": []}}"#);
        assert!(kind(&stated, OCI_MANIFEST).is_err());
        let old = r#"{"schemaVersion": 1, "fsLayers": []}"#;
        assert!(kind(old, "application/json").unwrap_err().contains("schema version 1"));
    }
}
