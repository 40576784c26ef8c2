//! What an image of the repository is called in a tree.

use std::fmt;
use std::str::FromStr;

use osupdate_core::published::{is_name, is_tag};

use crate::transport::reference::TRANSPORTS;

/// The tag of images that are named without one.
const DEFAULT_TAG: &str = "latest";

/// Name and tag of an image in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeName {
    /// Last component of references to it.
    pub name: String,
    /// Its tag.
    pub tag: String,
}

/// An image of the repository, and what it is called in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Tag or digest in the repository.
    pub image: String,
    /// What it is called in the tree.
    pub name: TreeName,
}

impl fmt::Display for TreeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

impl FromStr for TreeName {
    type Err = String;

    /// `NAME[:TAG]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, tag) = text.split_once(':').unwrap_or((text, DEFAULT_TAG));
        if !is_name(name) {
            return Err(format!(
                "{name:?} cannot be the name of an image in a tree: it is made of lower-case letters and digits, with . _ - \
                 between them"
            ));
        }
        if !is_tag(tag) {
            return Err(format!("{tag:?} cannot be a tag: it is made of letters, digits and . _ -"));
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }
}

impl FromStr for Publication {
    type Err = String;

    /// `IMAGE`, or `IMAGE=NAME[:TAG]`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((image, name)) = text.rsplit_once('=') {
            return Ok(Self { image: image.to_owned(), name: name.parse()? });
        }
        let name = usual_name(text).and_then(|name| name.parse().ok());
        let name = name.ok_or_else(|| format!("say what it is called in the tree: {text}=NAME[:TAG]"))?;
        Ok(Self { image: text.to_owned(), name })
    }
}

/// `os:1.2` of `docker://registry.example.com/os:1.2`; none of a digest.
fn usual_name(image: &str) -> Option<&str> {
    if image.contains("sha256:") || image.contains("sha512:") {
        return None;
    }
    let rest = TRANSPORTS.iter().find_map(|transport| image.strip_prefix(transport)).unwrap_or(image);
    rest.trim_end_matches('/').rsplit('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_called_what_their_reference_ends_with() {
        for (text, name) in [
            ("docker://registry.example.com:5000/a/os:1.2", "os:1.2"),
            ("docker://registry.example.com:5000/os", "os:latest"),
            ("registry.example.com/os:1.2", "os:1.2"),
            ("oci:build/image:7", "image:7"),
            ("oci:image", "image:latest"),
            ("stable", "stable:latest"),
            ("stable=os:1", "os:1"),
            ("sha256:0123=os", "os:latest"),
            ("docker://r.example.com/x@sha256:0123=os:v1", "os:v1"),
        ] {
            let publication: Publication = text.parse().unwrap();
            assert_eq!(publication.name.to_string(), name, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_written_in_a_reference_is_refused() {
        for (text, said) in [
            ("sha256:0123", "say what it is called in the tree: sha256:0123=NAME[:TAG]"),
            ("Debian", "say what it is called in the tree: Debian=NAME[:TAG]"),
            ("stable=OS", "\"OS\" cannot be the name of an image in a tree"),
            ("stable=a/b", "\"a/b\" cannot be the name of an image in a tree"),
            ("stable=os:", "\"\" cannot be a tag"),
            ("stable=os:.1", "\".1\" cannot be a tag"),
        ] {
            let error = text.parse::<Publication>().unwrap_err();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }
}
