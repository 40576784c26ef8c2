//! What belongs to an image and is kept beside it in the repository under a tag of its own.

use osupdate_core::oci::MANIFEST_MAX_BYTES;
use reqwest::StatusCode;

use super::endpoint::Endpoint;
use super::http::Request;
use super::{Cause, RegistryError, RegistryImage, manifest};

impl RegistryImage {
    /// The manifest that has this tag in the repository of the image, as it is; `None` if there is no such tag. A mirror
    /// need not have it: then the registry is asked.
    pub(crate) fn tagged_manifest(&self, tag: &str) -> Result<Option<Vec<u8>>, RegistryError> {
        let what = format!("manifest {tag} of {}/{}", self.reference.host, self.reference.repository);
        self.http.try_each(&what, |endpoint| tagged_manifest(endpoint, tag, &what))
    }
}

fn tagged_manifest(endpoint: &Endpoint, tag: &str, what: &str) -> Result<Option<Vec<u8>>, RegistryError> {
    let (path, accept) = (format!("manifests/{tag}"), manifest::accept());
    let response = endpoint.get(Request { path: &path, accept: Some(&accept), from_byte: 0, what })?;
    match response.status() {
        StatusCode::OK => match response.into_document(MANIFEST_MAX_BYTES) {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            Ok(None) => Err(RegistryError::ManifestSize { what: what.to_owned() }),
            Err(error) => Err(RegistryError::Connection {
                host: endpoint.host().to_owned(),
                what: what.to_owned(),
                source: Cause::of(&error),
            }),
        },
        StatusCode::NOT_FOUND if !endpoint.is_mirror() => Ok(None),
        _ => Err(endpoint.refused(response, what)),
    }
}
