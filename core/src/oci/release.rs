//! [`Release`]: the place of an image among its predecessors and successors, as it says itself.

use oci_spec::image::{ImageConfiguration, ImageManifest};

/// The label of an image's version.
const VERSION: &str = "org.opencontainers.image.version";
/// The annotation or label of the time at which an image was made, for those whose configuration does not say it.
const CREATED: &str = "org.opencontainers.image.created";
/// The annotation or label of the time at which a newer image should have replaced this one.
pub const EXPIRES: &str = "osupdate.expires";

/// What an image says of its version and its times. Texts of a stranger, but without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// The label `org.opencontainers.image.version`.
    pub version: Option<String>,
    /// When it was made: `created` of the configuration, else `org.opencontainers.image.created` of the manifest or the labels.
    ///
    /// In this order, because labels and annotations are inherited from the image that it was built on.
    pub created: Option<String>,
    /// When it must have been replaced: annotation [`EXPIRES`] of the manifest, else the label.
    pub expires: Option<String>,
}

impl Release {
    /// Reads it from the image's two documents.
    pub fn of(manifest: &ImageManifest, config: &ImageConfiguration) -> Self {
        let label = |name| config.config().as_ref()?.labels().as_ref()?.get(name);
        let annotation = |name| manifest.annotations().as_ref()?.get(name);
        let usable =
            |text: &String| Some(text.clone()).filter(|text| !text.is_empty() && !text.contains(char::is_control));
        let created = config.created().as_ref().or_else(|| annotation(CREATED)).or_else(|| label(CREATED));
        Self {
            version: label(VERSION).and_then(usable),
            created: created.and_then(usable),
            // Whatever it is, an expiry is there: one that cannot be understood is not the same as none.
            expires: annotation(EXPIRES).or_else(|| label(EXPIRES)).map(|text| text.replace(char::is_control, "")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn release(annotations: &str, created: &str, labels: &str) -> Release {
        let manifest = format!(
            "{{\"schemaVersion\":2,\"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"size\":2,\
             \"digest\":\"{DIGEST}\"}},\"layers\":[],\"annotations\":{annotations}}}"
        );
        let config = format!(
            "{{\"architecture\":\"amd64\",\"os\":\"linux\",{created}\"config\":{{\"Labels\":{labels}}},\
             \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[]}}}}"
        );
        Release::of(&serde_json::from_str(&manifest).unwrap(), &serde_json::from_str(&config).unwrap())
    }

    #[test]
    fn what_the_image_says_itself_comes_before_what_it_may_have_inherited() {
        let annotations = r#"{"org.opencontainers.image.created":"2","osupdate.expires":"4"}"#;
        let labels =
            r#"{"org.opencontainers.image.version":"1","org.opencontainers.image.created":"3","osupdate.expires":"5"}"#;
        let full = release(annotations, r#""created":"1","#, labels);
        assert_eq!(full.version.as_deref(), Some("1"));
        assert_eq!((full.created.as_deref(), full.expires.as_deref()), (Some("1"), Some("4")));
        assert_eq!(release(annotations, "", labels).created.as_deref(), Some("2"));
        let labels_only = release("{}", "", labels);
        assert_eq!((labels_only.created.as_deref(), labels_only.expires.as_deref()), (Some("3"), Some("5")));
        assert_eq!(release("{}", "", "{}"), Release::default());
    }

    #[test]
    fn texts_that_could_move_the_cursor_are_not_taken() {
        let labels = r#"{"org.opencontainers.image.version":"\u001b[2J","osupdate.expires":"\u001b"}"#;
        let hostile = release("{}", "", labels);
        assert_eq!((hostile.version, hostile.expires.as_deref()), (None, Some("")), "an expiry, but not a good one");
    }
}
