//! References to images in published trees.

use std::fmt;

use super::{ParseReferenceError, RegistryReference};

/// Name of an image in a published tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedReference {
    /// Without TLS.
    pub plain: bool,
    /// The image as trust policies know it. The last part of the repository is the name of the image in the tree, and all before
    /// it the address of the tree.
    pub image: RegistryReference,
}

/// What addresses begin with.
pub(super) fn scheme(plain: bool) -> &'static str {
    if plain { "http://" } else { "https://" }
}

impl PublishedReference {
    /// Parses what follows the scheme.
    pub(super) fn parse(plain: bool, rest: &str) -> Result<Self, ParseReferenceError> {
        if rest.is_empty() {
            return Err(ParseReferenceError::Empty);
        }
        RegistryReference::at_host(rest).map(|image| Self { plain, image })
    }

    /// The address of the tree, without a slash at its end.
    pub fn base(&self) -> String {
        let Self { plain, image: RegistryReference { host, repository, .. } } = self;
        match repository.rsplit_once('/') {
            Some((directory, _)) => format!("{}{host}/{directory}", scheme(*plain)),
            None => format!("{}{host}", scheme(*plain)),
        }
    }

    /// What the serials of the tree are remembered by: its address, and the key that has signed the summary if one was demanded.
    pub(crate) fn remembered_by(&self, key: Option<&str>) -> String {
        match key {
            Some(key) => format!("{} {key}", self.base()),
            None => self.base(),
        }
    }
}

impl fmt::Display for PublishedReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", scheme(self.plain), self.image)
    }
}
