//! Tags: the users' names for images.
//!
//! ```text
//! streams/refs/oci/<tag>   ../../oci-manifest-<digest>   in the tag, % is %25 and / is %2F
//! ```

use super::digest::ContentDigest;
use super::store::{StoreError, manifest_name};
use crate::repository::{MANIFEST_PREFIX, Namespace, RefError, Repository};

/// Directory of tags among the refs.
const TAGS: &str = "oci/";

/// Name of a tag's ref.
pub(crate) fn tag_ref(tag: &str) -> Result<String, StoreError> {
    if tag.is_empty() || tag.starts_with('@') {
        return Err(StoreError::Tag(tag.to_owned()));
    }
    Ok(format!("{TAGS}{}", tag.replace('%', "%25").replace('/', "%2F")))
}

/// The tag of a ref's name; the inverse of [`tag_ref`].
fn tag_of_ref(name: &str) -> Option<String> {
    let encoded = name.strip_prefix(TAGS).filter(|rest| !rest.contains('/'))?;
    // Slashes first: "%252F" is the tag "%2F".
    let mut parts = encoded.split("%25").map(|part| part.replace("%2F", "/"));
    let first = parts.next()?;
    Some(parts.fold(first, |tag, part| tag + "%" + &part))
}

/// The manifest that a tag stands for, which need not be there.
pub(crate) fn resolve_tag(repository: &Repository, tag: &str) -> Result<ContentDigest, StoreError> {
    let target = match repository.ref_target(Namespace::Streams, &tag_ref(tag)?) {
        Ok(target) => target,
        // What cannot be a name is not one.
        Err(RefError::Name { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let target = target.ok_or_else(|| StoreError::NotFound { name: tag.to_owned() })?;
    manifest_of_target(tag, &target)
}

pub(crate) fn manifest_of_target(tag: &str, target: &str) -> Result<ContentDigest, StoreError> {
    let digest = target.strip_prefix(MANIFEST_PREFIX).and_then(|digest| digest.parse().ok());
    digest.ok_or_else(|| StoreError::TagTarget { tag: tag.to_owned(), target: target.to_owned() })
}

/// All tags with the digests of their manifests, which need not be there; in byte order of the tags. Refs that are not
/// tags of images are passed over; [`super::verify_images`] finds them.
///
/// # Errors
/// When the refs cannot be read.
pub fn list(repository: &Repository) -> Result<Vec<(String, ContentDigest)>, StoreError> {
    let refs = repository.refs(Namespace::Streams)?;
    let mut tags: Vec<_> = refs
        .iter()
        .filter_map(|(name, target)| {
            let tag = tag_of_ref(name)?;
            let digest = manifest_of_target(&tag, target).ok()?;
            Some((tag, digest))
        })
        .collect();
    tags.sort();
    Ok(tags)
}

/// All refs below the directory of tags with their targets, the tag decoded if it is one.
pub(crate) fn tag_refs(repository: &Repository) -> Result<Vec<(String, Option<String>, String)>, StoreError> {
    let refs = repository.refs(Namespace::Streams)?.into_iter();
    let tags = refs.filter(|(name, _)| name.starts_with(TAGS));
    Ok(tags.map(|(name, target)| (name.clone(), tag_of_ref(&name), target)).collect())
}

/// Gives an image that is in the repository a tag, taking it from another image if that has it. Durable on return.
///
/// # Errors
/// When there is no such image, or the tag is not one.
pub fn tag(repository: &Repository, manifest: &ContentDigest, tag: &str) -> Result<(), StoreError> {
    let name = manifest_name(manifest);
    if repository.stream(&name)?.is_none() {
        return Err(StoreError::NotFound { name: manifest.to_string() });
    }
    Ok(repository.set_ref(Namespace::Streams, &tag_ref(tag)?, &name)?)
}

/// Removes a tag; false if there is none. The image stays until the next collection of garbage.
///
/// # Errors
/// When the tag is not one, or cannot be removed.
pub fn untag(repository: &Repository, tag: &str) -> Result<bool, StoreError> {
    Ok(repository.remove_ref(Namespace::Streams, &tag_ref(tag)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_encoded_as_one_component() {
        for (tag, name) in [
            ("latest", "oci/latest"),
            ("docker://host:5000/a/b:1", "oci/docker:%2F%2Fhost:5000%2Fa%2Fb:1"),
            ("50%", "oci/50%25"),
            ("%2F", "oci/%252F"),
            ("%25/%", "oci/%2525%2F%25"),
        ] {
            assert_eq!(tag_ref(tag).unwrap(), name);
            assert_eq!(tag_of_ref(name).unwrap(), tag);
        }
        assert!(tag_ref("").is_err());
        assert!(tag_ref("@sha256:00").is_err());
        assert_eq!(tag_of_ref("oci-referrers/x"), None);
        assert_eq!(tag_of_ref("oci/a/b"), None);
    }
}
