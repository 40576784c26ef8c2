//! sigstore signatures that are kept as an artifact beside the image: in the same repository, or the same OCI directory,
//! under the tag `sha256-<digest of the manifest>.sig`. Each layer of it is what was signed; its annotation is the signature.

use std::collections::BTreeMap;
use std::io::Read;

use osupdate_core::oci::{
    BlobDescriptor, ContentDigest, ImageArchive, ImageArchiveError, ImageManifest, ImageSource as _, Layout,
    LayoutError, Platform,
};

use super::error::SignatureProblem;
use super::fetch::{Deadline, FetchError};
use super::signature::{Located, SIGNATURE_MAX_BYTES, SIGNATURES_MAX, Signature};
use crate::transport::registry::{Cause, RegistryError, RegistryImage, TreeImage};
use crate::transport::{ImageReference, Source, TransportError};

/// The tag of the signatures of a manifest.
fn tag(digest: &ContentDigest) -> String {
    format!("{}-{}.sig", digest.algorithm(), digest.hex())
}

/// The signatures beside an image in a registry.
pub(super) fn of_registry(
    image: &RegistryImage,
    repository: &str,
    digest: &ContentDigest,
) -> Result<Vec<Located>, FetchError> {
    let place = place(repository, digest);
    let Some(manifest) = image.tagged_manifest(&tag(digest))? else { return Ok(Vec::new()) };
    let open = |blob: &BlobDescriptor| -> Result<Box<dyn Read + '_>, FetchError> {
        Ok(Box::new(image.blob(&blob.digest, blob.size)?))
    };
    layers(&manifest, &place, open)
}

/// The signatures that are published with an image.
pub(super) fn of_tree(image: &TreeImage, digest: &ContentDigest, place: &str) -> Result<Vec<Located>, FetchError> {
    let Some(attachment) = image.attachment(&tag(digest))? else { return Ok(Vec::new()) };
    let open = |blob: &BlobDescriptor| -> Result<Box<dyn Read + '_>, FetchError> {
        let missing =
            || FetchError::Attachment { what: place.to_owned(), problem: format!("it has no {}", blob.digest) };
        Ok(Box::new(attachment.blob(&blob.digest).ok_or_else(missing)?))
    };
    layers(attachment.manifest.as_bytes(), place, open)
}

/// The signatures beside an image in an OCI directory or an archive of one; none in other files.
pub(super) fn of_file(reference: &ImageReference, digest: &ContentDigest) -> Result<Vec<Located>, FetchError> {
    let (name, platform) = (tag(digest), Platform::host());
    let layout = match reference {
        ImageReference::OciLayout(reference) => {
            Layout::open(&reference.path, Some(&name), &platform).map_err(ImageArchiveError::from)
        }
        ImageReference::Archive(reference) => {
            match ImageArchive::open(&reference.path, reference.form, Some(&name), &platform) {
                Ok(ImageArchive::Oci(layout)) => Ok(layout),
                Ok(ImageArchive::Docker(_)) => return Ok(Vec::new()),
                Err(error) => Err(error),
            }
        }
        ImageReference::Registry(_)
        | ImageReference::Published(_)
        | ImageReference::Directory(_)
        | ImageReference::Local(_) => return Ok(Vec::new()),
    };
    let layout = match layout {
        Ok(layout) => layout,
        Err(ImageArchiveError::Layout(LayoutError::NoSuchImage { .. })) => return Ok(Vec::new()),
        Err(error) => return Err(TransportError::from(error).into()),
    };
    let manifest = layout.manifest().map_err(TransportError::from)?;
    let open = |blob: &BlobDescriptor| -> Result<Box<dyn Read + '_>, FetchError> {
        Ok(layout.blob(blob).map_err(TransportError::from)?)
    };
    layers(&manifest, &format!("{} of {reference}", tag(digest)), open)
}

/// Where in files it is looked, for people; `None` if nowhere.
pub(super) fn file_place(reference: &ImageReference, source: &Source, digest: &ContentDigest) -> Option<String> {
    let has_index = match source {
        Source::Layout(_) => true,
        Source::Archive(archive) => matches!(**archive, ImageArchive::Oci(_)),
        Source::Registry(_) | Source::Published(_) | Source::Directory(_) | Source::Proxy(_) => false,
    };
    has_index.then(|| format!("{} of {reference}", tag(digest)))
}

/// Where in a registry it is looked, for people.
pub(super) fn place(repository: &str, digest: &ContentDigest) -> String {
    format!("{repository}:{}", tag(digest))
}

/// Fetches the layers of an attachment.
fn layers<'a>(
    manifest: &[u8],
    place: &str,
    open: impl Fn(&BlobDescriptor) -> Result<Box<dyn Read + 'a>, FetchError>,
) -> Result<Vec<Located>, FetchError> {
    let attachment = |problem: String| FetchError::Attachment { what: place.to_owned(), problem };
    let manifest = ImageManifest::from_reader(manifest).map_err(|error| attachment(error.to_string()))?;
    if manifest.layers().len() > SIGNATURES_MAX {
        return Err(FetchError::TooMany { place: place.to_owned() });
    }
    let deadline = Deadline::start();
    let mut found = Vec::new();
    for (i, layer) in manifest.layers().iter().enumerate() {
        let place = format!("layer {} of {place}", i + 1);
        let blob = BlobDescriptor::try_from(layer).map_err(|error| attachment(error.to_string()))?;
        let annotations: BTreeMap<String, String> =
            layer.annotations().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        // Other things than signatures may be there, and of any size; they are not fetched.
        let signature = match Signature::sigstore(layer.media_type().as_ref(), Vec::new(), &annotations) {
            Ok(Signature::Sigstore { signature, .. }) => {
                payload(&blob, &place, deadline, &open)?.map(|payload| Signature::Sigstore { payload, signature })
            }
            other => other,
        };
        found.push(Located { place, signature });
    }
    Ok(found)
}

/// Fetches what was signed.
fn payload<'a>(
    blob: &BlobDescriptor,
    place: &str,
    deadline: Deadline,
    open: impl Fn(&BlobDescriptor) -> Result<Box<dyn Read + 'a>, FetchError>,
) -> Result<Result<Vec<u8>, SignatureProblem>, FetchError> {
    if blob.size > SIGNATURE_MAX_BYTES {
        return Ok(Err(SignatureProblem::TooLarge("what was signed")));
    }
    let failed = |error: std::io::Error| match error.downcast::<RegistryError>() {
        Ok(error) => error.into(),
        Err(error) => FetchError::Attachment { what: place.to_owned(), problem: Cause::of(&error).to_string() },
    };
    let bytes = deadline.read(open(blob)?, place, failed)?;
    Ok(match bytes {
        Some(bytes) if blob.digest.matches(&bytes) => Ok(bytes),
        Some(_) => {
            Err(SignatureProblem::Malformed("what was signed does not have the digest that is stated".to_owned()))
        }
        None => Err(SignatureProblem::TooLarge("what was signed")),
    })
}
