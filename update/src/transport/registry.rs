//! Images in registries: a client for the distribution protocol, as far as pulling and pushing need it.
//!
//! TLS unless plain HTTP is asked for; never the one in place of the other. Manifests are verified against every digest
//! that somebody states for them: the reference, the list that they are in, the registry's header. Blobs are streamed and
//! verified by whoever reads them.

mod attachment;
mod auth;
mod blob;
mod cause;
mod certificates;
mod challenge;
mod clients;
mod complaint;
mod content_range;
mod credentials;
mod endpoint;
mod error;
mod file_server;
mod http;
mod manifest;
mod meter;
mod proxy;
mod registries;
mod request;
mod response;
mod retry;
mod tls;
mod tree;
mod upload;

use std::io::Read;
use std::num::NonZeroUsize;
use std::time::Duration;

use osupdate_core::Algorithm;
use osupdate_core::oci::{
    BlobDescriptor, ContentDigest, ImageSource, MANIFEST_MAX_BYTES, Platform, RemoteSource, SourceError,
};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderName};
use serde::Deserialize;

use super::limits::TransferLimits;
use super::reference::RegistryReference;
use crate::output::printable;
pub use auth::AuthError;
use blob::Blob;
pub use blob::BlobReader;
pub use cause::Cause;
pub use certificates::{CertificateDirectories, CertificatesError, PemProblem};
pub use clients::ClientError;
pub use credentials::{AuthFiles, CredentialsError, HelperError};
use endpoint::Endpoint;
pub use error::RegistryError;
pub(crate) use file_server::{FileContents, FileServer, FileServerError};
use http::{Http, Request};
use manifest::Kind;
pub use meter::LimitReached;
use meter::{Meter, Purpose};
pub use proxy::ProxyError;
pub use registries::{RegistriesError, RegistriesFiles};
use response::Response;
pub use retry::Retry;
pub use tree::{TreeError, TreeImage, TreeOptions};
pub use upload::RegistryTarget;

/// Most bytes of a list of tags that are read.
const TAG_LIST_MAX_BYTES: u64 = 4 << 20;
/// Most tags that an error message lists.
const TAGS_SHOWN: usize = 10;

/// How registries are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryOptions {
    /// HTTP without TLS.
    pub plain_http: bool,
    /// Where credentials are looked for.
    pub auth_files: AuthFiles,
    /// What says where images are, and whom to trust.
    pub registries: RegistriesFiles,
    /// Where certificates for single registries are.
    pub certificates: CertificateDirectories,
    /// How often requests are tried.
    pub retry: Retry,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the next bytes. Also the time over which a blob must come with 1 KiB a second at least.
    pub idle_timeout: Duration,
    /// Longest wait for all of a manifest, or another document that is not a blob.
    pub document_timeout: Duration,
    /// Which image of a manifest list is taken.
    pub platform: Platform,
    /// How fast and how much is fetched.
    pub limits: TransferLimits,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            plain_http: false,
            auth_files: AuthFiles::standard(),
            registries: RegistriesFiles::standard(),
            certificates: CertificateDirectories::standard(),
            retry: Retry::default(),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            document_timeout: Duration::from_secs(120),
            platform: Platform::host(),
            limits: TransferLimits::default(),
        }
    }
}

/// One image in a registry.
#[derive(Debug)]
pub struct RegistryImage {
    reference: RegistryReference,
    platform: Platform,
    http: Http,
    limits: TransferLimits,
    meter: Meter,
}

/// A manifest or manifest list as the registry has it, its digest verified.
struct Fetched {
    bytes: Vec<u8>,
    kind: Kind,
}

impl RegistryImage {
    /// Prepares to fetch; nothing is sent yet.
    pub fn new(reference: &RegistryReference, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let http = Http::new(reference, options)?;
        let (limits, meter) = (options.limits, Meter::new(options.limits));
        Ok(Self { reference: reference.clone(), platform: options.platform.clone(), http, limits, meter })
    }

    /// SHA-256 of the manifest of the image for this platform, without fetching more than the list that it is in.
    pub fn resolve(&self) -> Result<ContentDigest, RegistryError> {
        let fetched = self.fetch_referenced()?;
        match self.select(&fetched)? {
            None => Ok(ContentDigest::sha256(&fetched.bytes)),
            Some(entry) if entry.digest.algorithm() == Algorithm::Sha256 => Ok(entry.digest),
            Some(entry) => Ok(ContentDigest::sha256(&self.fetch_selected(&entry)?)),
        }
    }

    /// The manifest of the image for this platform.
    pub fn manifest(&self) -> Result<Vec<u8>, RegistryError> {
        let fetched = self.fetch_referenced()?;
        match self.select(&fetched)? {
            None => Ok(fetched.bytes),
            Some(entry) => self.fetch_selected(&entry),
        }
    }

    /// Opens a blob; it has `size_bytes` according to the manifest. Does not count for [`TransferLimits::max_bytes`].
    pub fn blob(&self, digest: &ContentDigest, size_bytes: u64) -> Result<BlobReader<'_>, RegistryError> {
        Ok(BlobReader::open(self.blob_for(Purpose::Document, digest, size_bytes), 0)?.verified(digest))
    }

    /// Opens a layer, or what comes from byte `offset` on.
    pub fn layer(&self, digest: &ContentDigest, size_bytes: u64, offset: u64) -> Result<BlobReader<'_>, RegistryError> {
        BlobReader::open(self.blob_for(Purpose::Layer, digest, size_bytes), offset)
    }

    fn blob_for(&self, purpose: Purpose, digest: &ContentDigest, size_bytes: u64) -> Blob<'_> {
        let what = format!("blob {digest} of {}/{}", self.reference.host, self.reference.repository);
        Blob { http: &self.http, meter: &self.meter, purpose, path: format!("blobs/{digest}"), what, size_bytes }
    }

    /// The image for this platform, if a list was fetched.
    fn select(&self, fetched: &Fetched) -> Result<Option<BlobDescriptor>, RegistryError> {
        match fetched.kind {
            Kind::Image => Ok(None),
            Kind::List => manifest::select(&fetched.bytes, &self.platform, &self.what()).map(Some),
        }
    }

    fn fetch_selected(&self, entry: &BlobDescriptor) -> Result<Vec<u8>, RegistryError> {
        let what = format!("manifest {} of {}", entry.digest, self.reference);
        let image = self.fetch(&entry.digest.to_string(), Some((entry.digest, "by the manifest list")), &what)?;
        match image.kind {
            Kind::Image if image.bytes.len() as u64 == entry.size => Ok(image.bytes),
            Kind::Image => {
                let problem = format!("it has {} bytes, the manifest list states {}", image.bytes.len(), entry.size);
                Err(RegistryError::ManifestKind { what, problem })
            }
            Kind::List => {
                Err(RegistryError::ManifestKind { what, problem: "it is a manifest list inside of another".to_owned() })
            }
        }
    }

    fn what(&self) -> String {
        format!("manifest of {}", self.reference)
    }

    fn fetch_referenced(&self) -> Result<Fetched, RegistryError> {
        match (&self.reference.digest, &self.reference.tag) {
            (Some(digest), _) => self.fetch(&digest.to_string(), Some((*digest, "by the reference")), &self.what()),
            (None, tag) => self.fetch(tag.as_deref().unwrap_or("latest"), None, &self.what()),
        }
    }

    /// Fetches one manifest by tag or digest and verifies it against `expected`, a digest and who states it.
    fn fetch(
        &self,
        name: &str,
        expected: Option<(ContentDigest, &'static str)>,
        what: &str,
    ) -> Result<Fetched, RegistryError> {
        self.http.try_each(what, |endpoint| self.fetch_from(endpoint, name, expected, what))
    }

    fn fetch_from(
        &self,
        endpoint: &Endpoint,
        name: &str,
        expected: Option<(ContentDigest, &'static str)>,
        what: &str,
    ) -> Result<Fetched, RegistryError> {
        let path = format!("manifests/{name}");
        let accept = manifest::accept();
        let response = endpoint.get(Request { path: &path, accept: Some(&accept), from_byte: 0, what })?;
        if response.status() != StatusCode::OK {
            return Err(match endpoint.refused(response, what) {
                // A mirror need not have everything.
                RegistryError::NotFound { host, what } if !endpoint.is_mirror() => {
                    explain_not_found(endpoint, host, what)
                }
                other => other,
            });
        }
        let header =
            |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_type = header(CONTENT_TYPE);
        let stated = header(HeaderName::from_static("docker-content-digest"));
        let bytes = response
            .into_document(MANIFEST_MAX_BYTES)
            .map_err(|error| RegistryError::Connection {
                host: endpoint.host().to_owned(),
                what: what.to_owned(),
                source: Cause::of(&error),
            })?
            .ok_or_else(|| RegistryError::ManifestSize { what: what.to_owned() })?;
        // A header that is not a digest states nothing.
        let stated: Option<ContentDigest> = stated.and_then(|stated| stated.parse().ok());
        for (expected, expected_by) in expected.into_iter().chain(stated.map(|stated| (stated, "by the registry"))) {
            if !expected.matches(&bytes) {
                let (what, found) = (what.to_owned(), ContentDigest::sha256(&bytes));
                return Err(RegistryError::ManifestDigest { what, expected, expected_by, found });
            }
        }
        let kind = manifest::kind(&bytes, content_type.as_deref(), what)?;
        Ok(Fetched { bytes, kind })
    }
}

/// Tells a tag that does not exist from a repository that does not.
fn explain_not_found(endpoint: &Endpoint, host: String, what: String) -> RegistryError {
    let reference = endpoint.reference();
    let (None, Some(tag)) = (&reference.digest, reference.tag.clone()) else {
        return RegistryError::NotFound { host, what };
    };
    let repository = reference.repository.clone();
    let request = Request { path: "tags/list?n=100", accept: None, from_byte: 0, what: "its tags" };
    let response = match endpoint.get(request) {
        Ok(response) => response,
        Err(error) => {
            tracing::info!("cannot list the tags of {reference}: {error}, ignoring");
            return RegistryError::NotFound { host, what };
        }
    };
    match response.status() {
        StatusCode::OK => RegistryError::NoTag { host, repository, tag, tags: some_tags(response) },
        StatusCode::NOT_FOUND => RegistryError::NoRepository { host, repository, image: reference.to_string() },
        _ => RegistryError::NotFound { host, what },
    }
}

/// The last tags of a list.
fn some_tags(response: Response) -> Vec<String> {
    #[derive(Deserialize)]
    struct TagList {
        tags: Option<Vec<String>>,
    }
    let body = response.into_document(TAG_LIST_MAX_BYTES).ok().flatten().unwrap_or_default();
    let list: Option<TagList> = serde_json::from_slice(&body).ok();
    let mut tags = list.and_then(|list| list.tags).unwrap_or_default();
    tags.sort_unstable();
    // Last ones: where tags are versions, the newer.
    let newest = tags.len().saturating_sub(TAGS_SHOWN);
    tags[newest..].iter().map(|tag| printable(tag)).collect()
}

impl ImageSource for RegistryImage {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        self.manifest().map_err(SourceError::new)
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        // Who reads it verifies it, and tells us if it is wrong.
        let blob = self.blob_for(Purpose::Document, &descriptor.digest, descriptor.size);
        Ok(Box::new(BlobReader::open(blob, 0).map_err(SourceError::new)?))
    }

    fn remote(&self) -> Option<&dyn RemoteSource> {
        Some(self)
    }
}

impl RemoteSource for RegistryImage {
    fn blob_from(&self, descriptor: &BlobDescriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        let reader = self.layer(&descriptor.digest, descriptor.size, offset).map_err(SourceError::new)?;
        Ok(Box::new(reader))
    }

    fn blame(&self, descriptor: &BlobDescriptor) -> bool {
        let blob = self.blob_for(Purpose::Layer, &descriptor.digest, descriptor.size);
        self.http.blame(&blob.path, &blob.what)
    }

    fn connections(&self) -> Option<NonZeroUsize> {
        self.limits.connections
    }
}
