//! Images put into registries: the part of the distribution protocol that pushing needs.
//!
//! A blob is sent as `docker push` and skopeo send it, in one piece: `POST` begins an upload, `PATCH` sends all of it, `PUT` names
//! its digest. What breaks off begins anew, since not every registry can continue. Mirrors are for reading: only the registry
//! itself is sent anything.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use osupdate_core::observer::{Event, Observer};
use osupdate_core::oci::{BlobDescriptor, ContentDigest};
use reqwest::blocking::Body;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

use super::super::reference::RegistryReference;
use super::endpoint::{Address, Call, Endpoint};
use super::error::RegistryError;
use super::http::{Http, Request};
use super::{RegistryOptions, Response};
use crate::exit::one_line;

/// An upload that is slower, over all of it, has failed.
const RATE_MIN: u64 = 16 << 10;
/// Progress is reported after so many bytes.
const REPORT_BYTES: u64 = 256 << 10;

/// A name in a registry that an image is put under.
#[derive(Debug)]
pub struct RegistryTarget {
    reference: RegistryReference,
    http: Http,
    idle_timeout: Duration,
}

impl RegistryTarget {
    /// Prepares to push; nothing is sent yet.
    ///
    /// # Errors
    /// When the configuration for the registry cannot be used.
    pub fn new(reference: &RegistryReference, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let http = Http::new(reference, options)?;
        Ok(Self { reference: reference.clone(), http, idle_timeout: options.idle_timeout })
    }

    fn endpoint(&self) -> &Endpoint {
        self.http.registry().expect("an image has a place")
    }

    fn what(&self, digest: &ContentDigest) -> String {
        format!("blob {digest} of {}/{}", self.reference.host, self.reference.repository)
    }

    /// Whether another image is in the same registry, in another repository of it.
    pub fn is_beside(&self, other: &RegistryReference) -> bool {
        self.reference.host == other.host && self.reference.repository != other.repository
    }

    /// Whether the registry has a blob in this repository.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn has_blob(&self, digest: &ContentDigest) -> Result<bool, RegistryError> {
        let (path, what) = (format!("blobs/{digest}"), self.what(digest));
        let endpoint = self.endpoint();
        let response = endpoint.head(Request { path: &path, accept: None, from_byte: 0, what: &what })?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(endpoint.refused(response, &what)),
        }
    }

    /// Lets the registry take a blob from another of its repositories; whether it did.
    ///
    /// # Errors
    /// When it cannot be asked. That it does not is no error.
    pub fn mount_blob(&self, digest: &ContentDigest, repository: &str) -> Result<bool, RegistryError> {
        let what = self.what(digest);
        let path = format!("blobs/uploads/?mount={digest}&from={repository}");
        let response = self.send(Method::POST, Address::Path(&path), &[], &what)?;
        Ok(response.status() == StatusCode::CREATED)
    }

    /// Sends a blob, from the beginning of a file.
    ///
    /// # Errors
    /// When the registry does not take it, however often it is tried.
    pub fn put_blob(
        &self,
        blob: &BlobDescriptor,
        contents: &File,
        observer: &Arc<dyn Observer>,
    ) -> Result<(), RegistryError> {
        let what = self.what(&blob.digest);
        let contents = contents.try_clone().map_err(|source| RegistryError::Body { what: what.clone(), source })?;
        let contents = Arc::new(contents);
        let mut attempt = 1;
        loop {
            match self.upload(blob, &contents, &what, observer) {
                Err(error) if error.is_transient() && attempt < self.http.retry.attempts => {
                    tracing::warn!("{}, sending it again", one_line(&error));
                    attempt += 1;
                    self.http.retry.wait(attempt, None);
                }
                result => return result,
            }
        }
    }

    fn upload(
        &self,
        blob: &BlobDescriptor,
        contents: &Arc<File>,
        what: &str,
        observer: &Arc<dyn Observer>,
    ) -> Result<(), RegistryError> {
        let endpoint = self.endpoint();
        let begun = self.send(Method::POST, Address::Path("blobs/uploads/"), &[], what)?;
        if begun.status() != StatusCode::ACCEPTED {
            return Err(endpoint.refused(begun, what));
        }
        let url = endpoint.next(&begun, what)?;
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
        let body = || {
            let (file, id) = (contents.clone(), blob.digest.to_string());
            Body::sized(Reported { file, id, sent_bytes: 0, observer: observer.clone() }, blob.size)
        };
        let timeout = Some(self.idle_timeout + Duration::from_secs(blob.size / RATE_MIN));
        let call =
            Call { method: Method::PATCH, address: Address::Url(&url), headers: &headers, body: &body, timeout, what };
        let sent = endpoint.change(&call)?;
        if !sent.status().is_success() {
            return Err(endpoint.refused(sent, what));
        }
        let mut url = endpoint.next(&sent, what).unwrap_or(url);
        url.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let ended = self.send(Method::PUT, Address::Url(&url), &headers, what)?;
        match ended.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(endpoint.refused(ended, what)),
        }
    }

    /// Sends a request without a body.
    fn send(
        &self,
        method: Method,
        address: Address<'_>,
        headers: &[(HeaderName, HeaderValue)],
        what: &str,
    ) -> Result<Response, RegistryError> {
        let headers = [headers, &[(CONTENT_LENGTH, HeaderValue::from_static("0"))]].concat();
        let body = || Body::from(Vec::new());
        self.endpoint().change(&Call { method, address, headers: &headers, body: &body, timeout: None, what })
    }

    /// Puts a manifest under the name of the image. All that it names must be there.
    ///
    /// # Errors
    /// When the registry does not take it, or took another one.
    pub fn put_manifest(&self, manifest: &[u8], media_type: &str) -> Result<(), RegistryError> {
        let digest = ContentDigest::sha256(manifest);
        let what = format!("manifest of {}", self.reference);
        if let Some(expected) = self.reference.digest.filter(|expected| !expected.matches(manifest)) {
            return Err(RegistryError::ManifestDigest {
                what,
                expected,
                expected_by: "by the reference",
                found: digest,
            });
        }
        let name = self.reference.tag.clone().unwrap_or_else(|| digest.to_string());
        let path = format!("manifests/{name}");
        let media_type = HeaderValue::try_from(media_type).unwrap_or(HeaderValue::from_static("application/json"));
        let headers = [(CONTENT_TYPE, media_type)];
        let body = || Body::from(manifest.to_vec());
        let address = Address::Path(&path);
        let call = Call { method: Method::PUT, address, headers: &headers, body: &body, timeout: None, what: &what };
        let response = self.endpoint().change(&call)?;
        if !response.status().is_success() {
            return Err(self.endpoint().refused(response, &what));
        }
        let stated =
            response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse().ok());
        match stated {
            Some(found) if !ContentDigest::matches(&found, manifest) => {
                Err(RegistryError::Stored { host: self.reference.host.clone(), what, found })
            }
            _ => Ok(()),
        }
    }
}

/// A file that tells how much of it was read, each from its beginning.
struct Reported {
    file: Arc<File>,
    id: String,
    sent_bytes: u64,
    observer: Arc<dyn Observer>,
}

impl Read for Reported {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.sent_bytes)?;
        let before = self.sent_bytes;
        self.sent_bytes += n as u64;
        if before / REPORT_BYTES != self.sent_bytes / REPORT_BYTES {
            self.observer.event(Event::Progress { id: &self.id, done_bytes: self.sent_bytes });
        }
        Ok(n)
    }
}
