//! Referrers: artifacts that belong to an image, such as signatures and lists of its packages.
//!
//! ```text
//! streams/refs/oci-referrers/<subject>/<artifact>   ../../../oci-manifest-<artifact>   both digests of manifests
//! ```
//!
//! Such a ref keeps the artifact as long as something else keeps the subject: collecting garbage removes both together.

use super::digest::ContentDigest;
use super::manifest::CheckedArtifact;
use super::store::{StoreError, manifest_name, read_document};
use crate::repository::{Namespace, REFERRERS, Repository};
use crate::splitstream::ContentType;

/// Name of the ref for one artifact of a subject.
pub(crate) fn referrer_ref(subject: &ContentDigest, artifact: &ContentDigest) -> String {
    format!("{REFERRERS}{subject}/{artifact}")
}

/// All referrers with their subjects, in byte order; neither need be there.
///
/// # Errors
/// When the refs cannot be read.
pub fn all_referrers(repository: &Repository) -> Result<Vec<(ContentDigest, ContentDigest)>, StoreError> {
    let refs = repository.refs(Namespace::Streams)?;
    let pair = |name: &str| {
        let (subject, artifact) = name.strip_prefix(REFERRERS)?.split_once('/')?;
        Some((subject.parse().ok()?, artifact.parse().ok()?))
    };
    Ok(refs.iter().filter_map(|(name, _)| pair(name)).collect())
}

/// The artifacts that belong to a manifest and are in the repository.
///
/// # Errors
/// When the refs or names cannot be read.
pub fn referrers(repository: &Repository, subject: &ContentDigest) -> Result<Vec<ContentDigest>, StoreError> {
    let mut found = Vec::new();
    for (of, artifact) in all_referrers(repository)? {
        if of == *subject && repository.stream(&manifest_name(&artifact))?.is_some() {
            found.push(artifact);
        }
    }
    Ok(found)
}

/// Keeps an artifact with its subject, which need not be there yet. Durable on return.
///
/// # Errors
/// When the artifact is not in the repository, or its manifest names another subject or none.
pub fn add_referrer(repository: &Repository, artifact: &ContentDigest) -> Result<ContentDigest, StoreError> {
    let name = manifest_name(artifact);
    let stream = repository.stream(&name)?.ok_or_else(|| StoreError::NotFound { name: artifact.to_string() })?;
    let document = read_document(repository, &stream, ContentType::Manifest, artifact)?;
    let manifest =
        CheckedArtifact::parse(&document.json).map_err(|source| StoreError::Manifest { digest: *artifact, source })?;
    let subject = manifest.subject.ok_or(StoreError::Document {
        document: "manifest",
        digest: *artifact,
        problem: "it names no subject that it belongs to",
    })?;
    repository.set_ref(Namespace::Streams, &referrer_ref(&subject, artifact), &name)?;
    Ok(subject)
}

/// No longer keeps an artifact with its subject; false if it was not kept.
///
/// # Errors
/// When the ref cannot be removed.
pub fn remove_referrer(
    repository: &Repository,
    subject: &ContentDigest,
    artifact: &ContentDigest,
) -> Result<bool, StoreError> {
    Ok(repository.remove_ref(Namespace::Streams, &referrer_ref(subject, artifact))?)
}

/// Removes referrers whose subject or artifact has no name any more, and returns them. A collection of garbage does it too,
/// and finds in addition those whose subject goes in the same collection.
///
/// # Errors
/// When the refs or names cannot be read or removed.
pub fn clean_referrers(repository: &Repository) -> Result<Vec<(ContentDigest, ContentDigest)>, StoreError> {
    let mut removed = Vec::new();
    for (subject, artifact) in all_referrers(repository)? {
        let there = |digest| repository.stream(&manifest_name(digest)).map(|stream| stream.is_some());
        if !(there(&subject)? && there(&artifact)?) && remove_referrer(repository, &subject, &artifact)? {
            removed.push((subject, artifact));
        }
    }
    Ok(removed)
}
