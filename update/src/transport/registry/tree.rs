//! Images in published trees: the files of `HTTP.md` on a web server, spoken to as registries are.
//!
//! The summary is fetched once and decides which image a name stands for; the index that it names decides which files the
//! image consists of. Every file is checked here as far as it can be without the repository, so that one that is wrong is
//! fetched from the next place that has the tree.

mod error;

use std::io::{Cursor, Read};
use std::num::NonZeroUsize;
use std::sync::OnceLock;

use osupdate_core::Algorithm;
use osupdate_core::oci::{BlobDescriptor, ContentDigest, ImageSource, Platform, SourceError};
use osupdate_core::published::{
    self, Attachment, CHUNK_MAX_BYTES, ENVELOPE_MAX_BYTES, Envelope, Index, ObjectFile, PublishedImage,
    PublishedSource, SUMMARY_FILE, Summary,
};
use osupdate_core::repository::SeenSerial;
use osupdate_deploy::timestamp;
use reqwest::StatusCode;

use super::super::reference::{PublishedReference, RegistryReference};
use super::blob::{Blob, BlobReader};
use super::cause::Cause;
use super::endpoint::Endpoint;
use super::http::{Http, Request};
use super::meter::{Meter, Purpose};
use super::{RegistryError, RegistryOptions};
use crate::trust::SummaryKeys;
pub use error::TreeError;

/// Files that are fetched at once: most are small, and what takes time is the way to the server and back.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// Most bytes of the file of an index.
const INDEX_FILE_MAX_BYTES: u64 = 64 << 20;
/// What zstd adds to what it cannot compress, at most.
const ZSTD_OVERHEAD_BYTES: u64 = 4 << 10;

/// What is demanded of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeOptions {
    /// The highest serial that was seen of it: an older summary is refused.
    pub seen: Option<SeenSerial>,
    /// Public keys in PEM, of which one must have signed the summary.
    pub summary_key: Option<String>,
}

/// An image in a published tree.
#[derive(Debug)]
pub struct TreeImage {
    reference: PublishedReference,
    platform: Platform,
    http: Http,
    connections: Option<NonZeroUsize>,
    meter: Meter,
    seen: Option<SeenSerial>,
    summary_keys: Option<SummaryKeys>,
    opened: OnceLock<Opened>,
}

/// What the tree says of the image.
#[derive(Debug)]
struct Opened {
    serial: u64,
    /// The key that was demanded and has signed the summary.
    key: Option<String>,
    algorithm: Algorithm,
    index: Index,
}

impl TreeImage {
    /// Prepares to fetch; nothing is sent yet.
    ///
    /// # Errors
    /// When a configuration is not usable, or HTTP without TLS was not asked for.
    pub fn new(
        reference: &PublishedReference,
        options: &RegistryOptions,
        tree: TreeOptions,
    ) -> Result<Self, RegistryError> {
        if reference.plain && !options.plain_http {
            return Err(RegistryError::PlainHttp { image: reference.to_string() });
        }
        let TreeOptions { seen, summary_key } = tree;
        let summary_keys = summary_key.map(|pem| SummaryKeys::parse(&pem)).transpose();
        let options = RegistryOptions { plain_http: reference.plain, ..options.clone() };
        Ok(Self {
            reference: reference.clone(),
            http: Http::of_tree(&reference.image, &options)?,
            platform: options.platform,
            connections: options.limits.connections,
            meter: Meter::new(options.limits),
            seen,
            summary_keys: summary_keys.map_err(|error| RegistryError::SummaryKey(Box::new(error)))?,
            opened: OnceLock::new(),
        })
    }

    /// What is attached to the image under a tag.
    ///
    /// # Errors
    /// When the index cannot be had.
    pub(crate) fn attachment(&self, tag: &str) -> Result<Option<&Attachment>, RegistryError> {
        Ok(self.open()?.index.tagged(tag))
    }

    /// Manifest and all else of the image, of the first place whose summary is to be believed.
    fn open(&self) -> Result<&Opened, RegistryError> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let what = format!("index of {}", self.reference);
        let opened = self.http.try_each(&what, |endpoint| {
            // Whoever does not have the summary may have other files, but is not asked for them first.
            self.open_at(endpoint).inspect_err(|_| self.http.avoid(endpoint.host()))
        })?;
        Ok(self.opened.get_or_init(|| opened))
    }

    fn open_at(&self, endpoint: &Endpoint) -> Result<Opened, RegistryError> {
        let what = format!("{SUMMARY_FILE} of {}", self.reference.base());
        let file = self.document(endpoint, SUMMARY_FILE, ENVELOPE_MAX_BYTES as u64, &what)?;
        let refuse = |what: &str, error: TreeError| refused(endpoint, what, error);
        let envelope = Envelope::parse(&file).map_err(|error| refuse(&what, error.into()))?;
        let key = match &self.summary_keys {
            Some(keys) => Some(
                keys.verify(&envelope)
                    .map_err(|_| refuse(&what, TreeError::Signature { signatures: envelope.signatures.len() }))?,
            ),
            None => None,
        };
        let summary = Summary::parse(&envelope.payload).map_err(|error| refuse(&what, error.into()))?;
        self.check(&summary).map_err(|error| refuse(&what, error))?;
        let algorithm = summary.algorithm.parse();
        let algorithm = algorithm.map_err(|_| refuse(&what, TreeError::Algorithm(summary.algorithm.clone())))?;
        let image =
            select(&summary.images, endpoint.reference(), &self.platform).map_err(|error| refuse(&what, error))?;

        let what = format!("index of {}", self.reference);
        let path = published::index_path(&image.index.digest);
        let file = self.document(endpoint, &path, INDEX_FILE_MAX_BYTES.min(image.index.size), &what)?;
        let index = Index::from_file(&file, &image.index.digest).map_err(|error| refuse(&what, error.into()))?;
        if !image.manifest.matches(index.manifest.as_bytes()) {
            return Err(refuse(&what, TreeError::Manifest { expected: image.manifest }));
        }
        Ok(Opened { serial: summary.serial, key, algorithm, index })
    }

    /// Whether a summary is of now.
    fn check(&self, summary: &Summary) -> Result<(), TreeError> {
        if let Some(seen) = self.seen.as_ref().filter(|seen| summary.serial < seen.serial) {
            return Err(TreeError::Replayed { serial: summary.serial, seen: seen.clone() });
        }
        if let Some(expires) = &summary.expires {
            let time = timestamp::parse(expires).ok_or_else(|| TreeError::Time(expires.clone()))?;
            if time <= timestamp::now_secs() {
                return Err(TreeError::Expired { expires: expires.clone() });
            }
        }
        Ok(())
    }

    /// All of a file.
    fn document(&self, endpoint: &Endpoint, path: &str, max_bytes: u64, what: &str) -> Result<Vec<u8>, RegistryError> {
        let response = endpoint.get(Request { path, accept: None, from_byte: 0, what })?;
        if response.status() != StatusCode::OK {
            return Err(endpoint.refused(response, what));
        }
        let bytes = response.into_document(max_bytes).map_err(|error| RegistryError::Connection {
            host: endpoint.host().to_owned(),
            what: what.to_owned(),
            source: Cause::of(&error),
        })?;
        let bytes = bytes.ok_or_else(|| refused(endpoint, what, TreeError::TooLong { max_bytes }))?;
        self.meter.settle(bytes.len(), bytes.len(), Purpose::Document);
        Ok(bytes)
    }

    fn fetch_chunk(&self, name: &ContentDigest) -> Result<Vec<u8>, RegistryError> {
        let algorithm = self.open()?.algorithm;
        let (path, what) = (published::chunk_path(name), format!("chunk {name} of {}", self.reference));
        self.http.try_each(&what, |endpoint| {
            let file = self.document(endpoint, &path, CHUNK_MAX_BYTES as u64 + ZSTD_OVERHEAD_BYTES, &what)?;
            published::decode(&file, name, algorithm).map_err(|error| refused(endpoint, &what, error.into()))?;
            Ok(file)
        })
    }

    fn blob_of(&self, object: &ObjectFile) -> Blob<'_> {
        let what = format!("object {} of {}", object.digest, self.reference);
        let (path, size_bytes) = (object.path(), object.file_bytes());
        Blob { http: &self.http, meter: &self.meter, purpose: Purpose::Layer, path, what, size_bytes }
    }
}

fn refused(endpoint: &Endpoint, what: &str, error: TreeError) -> RegistryError {
    RegistryError::Tree { host: endpoint.host().to_owned(), what: what.to_owned(), source: Box::new(error) }
}

/// The image that a reference stands for.
fn select<'a>(
    images: &'a [PublishedImage],
    reference: &RegistryReference,
    platform: &Platform,
) -> Result<&'a PublishedImage, TreeError> {
    let name = reference.repository.rsplit('/').next().unwrap_or_default();
    let named: Vec<_> = images.iter().filter(|image| image.name == name).collect();
    let fitting: Vec<_> = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => named.iter().copied().filter(|image| image.manifest == *digest).collect(),
        (None, tag) => named.iter().copied().filter(|image| image.tag == tag.as_deref().unwrap_or("latest")).collect(),
    };
    if fitting.is_empty() {
        let mut available: Vec<_> = named.iter().map(|image| image.tag.clone()).collect();
        available.dedup();
        return Err(TreeError::NoImage { image: reference.to_string(), available });
    }
    let ranked = fitting.iter().filter_map(|image| Some((platform.rank(&image.platform.parse().ok()?)?, *image)));
    let best = ranked.min_by_key(|(rank, _)| *rank);
    best.map(|(_, image)| image).ok_or_else(|| TreeError::Platform {
        wanted: platform.clone(),
        available: fitting.iter().map(|image| image.platform.clone()).collect(),
    })
}

impl ImageSource for TreeImage {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        Ok(self.open().map_err(SourceError::new)?.index.manifest.clone().into_bytes())
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        let index = &self.open().map_err(SourceError::new)?.index;
        if !descriptor.digest.matches(index.config.as_bytes()) {
            let (host, what) = (self.reference.image.host.clone(), format!("blob {}", descriptor.digest));
            return Err(SourceError::new(RegistryError::NotFound { host, what }));
        }
        Ok(Box::new(Cursor::new(index.config.as_bytes())))
    }

    fn published(&self) -> Option<&dyn PublishedSource> {
        Some(self)
    }
}

impl PublishedSource for TreeImage {
    fn index(&self) -> Result<(&Index, Algorithm), SourceError> {
        let opened = self.open().map_err(SourceError::new)?;
        Ok((&opened.index, opened.algorithm))
    }

    fn serial(&self) -> Result<(String, u64), SourceError> {
        let opened = self.open().map_err(SourceError::new)?;
        Ok((self.reference.remembered_by(opened.key.as_deref()), opened.serial))
    }

    fn chunk(&self, name: &ContentDigest) -> Result<Vec<u8>, SourceError> {
        self.fetch_chunk(name).map_err(SourceError::new)
    }

    fn object(&self, object: &ObjectFile, offset: u64) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        Ok(Box::new(BlobReader::open(self.blob_of(object), offset).map_err(SourceError::new)?))
    }

    fn blame(&self, object: &ObjectFile) -> bool {
        let blob = self.blob_of(object);
        self.http.blame(&blob.path, &blob.what)
    }

    fn is_limited(&self) -> bool {
        self.meter.is_limited()
    }

    fn connections(&self) -> NonZeroUsize {
        self.connections.unwrap_or(CONNECTIONS)
    }
}

#[cfg(test)]
mod tests {
    use osupdate_core::published::PublishedFile;

    use super::*;
    use crate::transport::ImageReference;

    /// Which of the images for these platforms is taken, by its number.
    fn selected(platforms: &[&str], wanted: &str) -> Option<usize> {
        let images: Vec<_> = (0_u8..)
            .zip(platforms)
            .map(|(number, platform)| PublishedImage {
                name: "os".to_owned(),
                tag: "1".to_owned(),
                platform: (*platform).to_owned(),
                manifest: ContentDigest::sha256(&[number]),
                index: PublishedFile { digest: ContentDigest::sha256(&[number]), size: 1 },
            })
            .collect();
        let ImageReference::Published(reference) = "https://tree.test/os:1".parse().unwrap() else { panic!() };
        let image = select(&images, &reference.image, &wanted.parse().unwrap()).ok()?;
        images.iter().position(|other| other == image)
    }

    #[test]
    fn variants_are_chosen_as_in_a_registry() {
        let arm = ["linux/arm/v6", "linux/arm", "linux/arm64"];
        assert_eq!(selected(&arm, "linux/arm"), Some(1));
        assert_eq!(selected(&arm, "linux/arm/v6"), Some(0));
        assert_eq!(selected(&arm, "linux/arm/v7"), Some(1));
        assert_eq!(selected(&arm, "linux/arm64/v8"), Some(2));
        // What has no variant is for v7.
        assert_eq!(selected(&arm[1..], "linux/arm/v6"), None);
        assert_eq!(selected(&["linux/arm/v6", "linux/arm/v7"], "linux/arm"), Some(1));
        assert_eq!(selected(&["linux/amd64/v3", "linux/amd64/v1"], "linux/amd64"), Some(1));
    }
}
