//! Copying images between repositories, with the artifacts that refer to them.

use std::collections::BTreeSet;

use super::referrers::{referrer_ref, referrers};
use super::store::{StoreError, find_manifest, manifest_name};
use super::tags::tag_ref;
use crate::observer::{Event, Observer};
use crate::repository::{CopyError, CopyOptions, CopyReport, Namespace, RefError, Repository};

/// Why images were not copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyImageError {
    /// The image is not there, or its tag is not one.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was not copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

impl From<RefError> for CopyImageError {
    fn from(error: RefError) -> Self {
        Self::Copy(error.into())
    }
}

/// Copies an image, or an artifact, by tag or digest, with all artifacts that refer to it, and gives it a tag. Durable
/// on return. The tag comes last.
///
/// # Errors
/// When there is no such image or something cannot be copied; no tag has changed then.
pub fn copy_image(
    target: &Repository,
    source: &Repository,
    name: &str,
    tag: &str,
    options: &CopyOptions,
    observer: &dyn Observer,
) -> Result<CopyReport, CopyImageError> {
    let tag_ref = tag_ref(tag)?;
    let manifest = find_manifest(source, name)?;
    let mut manifests = vec![manifest];
    let mut refs = Vec::new();
    let mut seen = BTreeSet::from([manifest]);
    // Artifacts may have artifacts.
    let mut at = 0;
    while let Some(subject) = manifests.get(at).copied() {
        at += 1;
        for artifact in referrers(source, &subject)? {
            refs.push((referrer_ref(&subject, &artifact), manifest_name(&artifact)));
            if seen.insert(artifact) {
                manifests.push(artifact);
            }
        }
    }
    let names: Vec<_> = manifests.iter().map(|digest| (Namespace::Streams, manifest_name(digest))).collect();
    let (report, _) = target.copy_from(source, &names, options, observer)?;
    for (name, stream) in &refs {
        target.set_ref(Namespace::Streams, name, stream)?;
    }
    target.set_ref(Namespace::Streams, &tag_ref, &manifest_name(&manifest))?;
    Ok(report)
}

/// Copies everything that a ref keeps, with the refs. Refs below `except` are left out.
///
/// # Errors
/// When something cannot be copied; no ref has changed then.
pub fn copy_all(
    target: &Repository,
    source: &Repository,
    except: &str,
    options: &CopyOptions,
    observer: &dyn Observer,
) -> Result<CopyReport, CopyImageError> {
    let mut names = Vec::new();
    let mut refs = Vec::new();
    for namespace in [Namespace::Streams, Namespace::Images] {
        for (name, first_level) in source.refs(namespace)? {
            if name.starts_with(except) {
                continue;
            }
            let there = match namespace {
                Namespace::Streams => source.stream(&first_level).map_err(CopyError::from)?.is_some(),
                Namespace::Images => matches!(source.image(&first_level), Ok(Some(_))),
            };
            if !there {
                let text = format!("{first_level}, which the ref {name} stands for, does not exist and is not copied");
                observer.event(Event::Warning(&text));
                continue;
            }
            names.push((namespace, first_level));
            refs.push((namespace, name));
        }
    }
    let (report, copied) = target.copy_from(source, &names, options, observer)?;
    for ((namespace, name), first_level) in refs.iter().zip(&copied) {
        target.set_ref(*namespace, name, first_level)?;
    }
    Ok(report)
}
