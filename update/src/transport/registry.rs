//! Images in registries: a client for the part of the distribution protocol that pulling needs.
//!
//! TLS unless plain HTTP is asked for; never the one in place of the other. Manifests are verified against every digest
//! that somebody states for them: the reference, the list that they are in, the registry's header. Blobs are streamed and
//! verified by whoever reads them.

mod auth;
mod blob;
mod credentials;
mod error;
mod http;
mod manifest;

use std::io::{self, Read};
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::platform::Platform;
use super::reference::RegistryReference;
pub use auth::AuthError;
pub use blob::BlobReader;
pub use credentials::{AuthFiles, CredentialsError};
pub use error::{Cause, RegistryError};
pub use http::Retry;
use http::{Http, Request};
use manifest::Kind;

/// Largest manifest that is read, as registries have it.
const MANIFEST_MAX: u64 = 4 << 20;
/// Most tags that an error message lists.
const TAGS_SHOWN: usize = 10;

/// How registries are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryOptions {
    /// HTTP without TLS.
    pub plain_http: bool,
    /// Where credentials are looked for.
    pub auth_files: AuthFiles,
    /// How often requests are tried.
    pub retry: Retry,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the next bytes.
    pub idle_timeout: Duration,
    /// Which image of a manifest list is taken.
    pub platform: Platform,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            plain_http: false,
            auth_files: AuthFiles::standard(),
            retry: Retry::default(),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            platform: Platform::host(),
        }
    }
}

/// One image in a registry.
#[derive(Debug)]
pub struct RegistryImage {
    reference: RegistryReference,
    platform: Platform,
    http: Http,
}

/// A manifest or manifest list as the registry has it, its digest verified.
struct Fetched {
    bytes: Vec<u8>,
    digest: String,
    kind: Kind,
}

impl RegistryImage {
    /// Prepares to fetch; nothing is sent yet.
    pub fn new(reference: &RegistryReference, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let http = Http::new(reference, options)?;
        Ok(Self { reference: reference.clone(), platform: options.platform.clone(), http })
    }

    /// Digest (`sha256:<hex>`) of the manifest of the image for this platform, with a single request for most registries.
    pub fn resolve(&self) -> Result<String, RegistryError> {
        let fetched = self.fetch_referenced()?;
        match &fetched.kind {
            Kind::Image => Ok(fetched.digest),
            Kind::List(entries) => Ok(manifest::choose(entries, &self.platform, &self.what())?.digest.clone()),
        }
    }

    /// The manifest of the image for this platform.
    pub fn manifest(&self) -> Result<Vec<u8>, RegistryError> {
        let fetched = self.fetch_referenced()?;
        let Kind::List(entries) = &fetched.kind else { return Ok(fetched.bytes) };
        let entry = manifest::choose(entries, &self.platform, &self.what())?;
        let what = format!("manifest {} of {}", entry.digest, self.reference);
        let image = self.fetch(&entry.digest, Some((&entry.digest, "by the manifest list")), &what)?;
        match image.kind {
            Kind::Image if image.bytes.len() as u64 == entry.size => Ok(image.bytes),
            Kind::Image => {
                let problem = format!("it has {} bytes, the manifest list states {}", image.bytes.len(), entry.size);
                Err(RegistryError::ManifestKind { what, problem })
            }
            Kind::List(_) => {
                Err(RegistryError::ManifestKind { what, problem: "it is a manifest list inside of another".to_owned() })
            }
        }
    }

    /// Opens a blob; it has `size_bytes` according to the manifest.
    pub fn blob(&self, digest: &str, size_bytes: u64) -> Result<BlobReader<'_>, RegistryError> {
        let image = format!("{}/{}", self.reference.host, self.reference.repository);
        BlobReader::open(&self.http, &image, digest, size_bytes)
    }

    fn what(&self) -> String {
        format!("manifest of {}", self.reference)
    }

    fn fetch_referenced(&self) -> Result<Fetched, RegistryError> {
        match (&self.reference.digest, &self.reference.tag) {
            (Some(digest), _) => self.fetch(digest, Some((digest, "by the reference")), &self.what()),
            (None, tag) => self.fetch(tag.as_deref().unwrap_or("latest"), None, &self.what()),
        }
    }

    /// Fetches one manifest by tag or digest and verifies it against `expected`, a digest and who states it.
    fn fetch(&self, name: &str, expected: Option<(&str, &'static str)>, what: &str) -> Result<Fetched, RegistryError> {
        let path = format!("manifests/{name}");
        let accept = manifest::MEDIA_TYPES.join(", ");
        let response = self.http.get(Request { path: &path, accept: Some(&accept), from_byte: 0, what })?;
        if response.status() != StatusCode::OK {
            return Err(match self.http.refused(response, what) {
                RegistryError::NotFound { host, what } => self.explain_not_found(host, what),
                other => other,
            });
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (content_type, stated) = (header("content-type"), header("docker-content-digest"));
        let bytes = read_limited(response, MANIFEST_MAX)
            .map_err(|error| RegistryError::Connection {
                host: self.reference.host.clone(),
                what: what.to_owned(),
                source: Cause::of(&error),
            })?
            .ok_or_else(|| RegistryError::ManifestSize { what: what.to_owned() })?;
        let digest = sha256(&bytes);
        let stated = stated.as_deref().filter(|stated| stated.starts_with("sha256:"));
        for (expected, expected_by) in expected.into_iter().chain(stated.map(|stated| (stated, "by the registry"))) {
            if expected != digest {
                let (what, expected) = (what.to_owned(), error::printable(expected));
                return Err(RegistryError::ManifestDigest { what, expected, expected_by, found: digest });
            }
        }
        let kind = manifest::parse(&bytes, content_type.as_deref(), what)?;
        Ok(Fetched { bytes, digest, kind })
    }

    /// Tells a tag that does not exist from a repository that does not.
    fn explain_not_found(&self, host: String, what: String) -> RegistryError {
        let (None, Some(tag)) = (&self.reference.digest, self.reference.tag.clone()) else {
            return RegistryError::NotFound { host, what };
        };
        let repository = self.reference.repository.clone();
        let response =
            match self.http.get(Request { path: "tags/list?n=100", accept: None, from_byte: 0, what: "its tags" }) {
                Ok(response) => response,
                Err(error) => {
                    tracing::info!("cannot list the tags of {}: {error}, ignoring", self.reference);
                    return RegistryError::NotFound { host, what };
                }
            };
        match response.status() {
            StatusCode::OK => RegistryError::NoTag { host, repository, tag, tags: self.some_tags(response) },
            StatusCode::NOT_FOUND => {
                RegistryError::NoRepository { host, repository, image: self.reference.to_string() }
            }
            _ => RegistryError::NotFound { host, what },
        }
    }

    fn some_tags(&self, response: reqwest::blocking::Response) -> Vec<String> {
        #[derive(Deserialize)]
        struct TagList {
            tags: Option<Vec<String>>,
        }
        let body = read_limited(response, MANIFEST_MAX).ok().flatten().unwrap_or_default();
        let list: Option<TagList> = serde_json::from_slice(&body).ok();
        let mut tags = list.and_then(|list| list.tags).unwrap_or_default();
        tags.sort_unstable();
        // Last ones: where tags are versions, the newer.
        let newest = tags.len().saturating_sub(TAGS_SHOWN);
        tags[newest..].iter().map(|tag| error::printable(tag)).collect()
    }
}

/// `sha256:` and the hex digest of the bytes.
fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Reads all of `reader`; `None` if that is more than `max_bytes`.
fn read_limited(reader: impl Read, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.take(max_bytes + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max_bytes).then_some(bytes))
}
