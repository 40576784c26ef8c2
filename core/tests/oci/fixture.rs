//! OCI layouts for tests: those of the vectors, and ones made on the spot.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use osupdate_core::observer::{Event, Observer};
use osupdate_core::oci::{BlobDescriptor, ContentDigest, ImageSource, Layout, Platform, SourceError};
use osupdate_core::repository::{Repository, Verity};
use osupdate_core::splitstream::Chunk;
use osupdate_core::tar::{EntryKind, FormatError, Input, Reader, SparseMap};
use osupdate_core::tree::Content;
use osupdate_core::{Algorithm, Digest, fsverity};
use serde_json::json;
use tempfile::TempDir;

/// A vector, unpacked.
pub(crate) struct Fixture(TempDir);

impl Fixture {
    /// Unpacks an archive of `vectors/`.
    pub(crate) fn unpack(name: &str) -> Self {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
        let dir = tempfile::tempdir().unwrap();
        unpack(&fs::read(archive).unwrap(), dir.path());
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The only image of a layout.
    pub(crate) fn layout(&self, name: &str) -> Layout {
        let platform: Platform = "linux/amd64".parse().unwrap();
        Layout::open(&self.path(name), None, &platform).unwrap()
    }
}

/// A new repository without fs-verity, which not every file system has.
pub(crate) fn repository(algorithm: Algorithm) -> (TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    Repository::init(dir.path(), algorithm, Verity::Unverified).unwrap();
    let repository = Repository::open(dir.path()).unwrap();
    (dir, repository)
}

/// A new repository whose images are in these formats.
pub(crate) fn repository_with_formats(default: u8, extra: &[u8]) -> (TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let metadata = json!({
        "version": 1, "algorithm": "fsverity-sha512-12", "erofs_formats": {"default": default, "extra": extra}
    });
    fs::write(dir.path().join("meta.json"), metadata.to_string()).unwrap();
    let repository = Repository::open(dir.path()).unwrap();
    (dir, repository)
}

/// An archive in memory; contents are kept in order.
struct Memory<'a>(&'a [u8], Vec<&'a [u8]>);

impl Input for Memory<'_> {
    type Error = FormatError;

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FormatError> {
        let n = buffer.len().min(self.0.len());
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }

    fn contents(&mut self, size: u64) -> Result<Option<Content>, FormatError> {
        let (body, rest) = self.0.split_at(usize::try_from(size).unwrap());
        self.0 = rest;
        self.1.push(body);
        Ok(Some(Content::object(digest(body), size)))
    }

    fn expand(&mut self, _: Content, _: &SparseMap) -> Result<Content, FormatError> {
        panic!("a sparse file in a vector");
    }
}

fn digest(body: &[u8]) -> Digest {
    fsverity::digest(Algorithm::Sha512, body)
}

fn unpack(archive: &[u8], dir: &Path) {
    let mut reader = Reader::new(Memory(archive, Vec::new()));
    while let Some(entry) = reader.next_entry().unwrap() {
        let path = dir.join(str::from_utf8(&entry.path).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match entry.kind {
            EntryKind::Directory => fs::create_dir_all(path).unwrap(),
            EntryKind::Regular(Content::Inline(bytes)) => fs::write(path, bytes).unwrap(),
            EntryKind::Regular(_) => fs::write(path, reader.input().1.last().unwrap()).unwrap(),
            EntryKind::Symlink(target) => {
                std::os::unix::fs::symlink(str::from_utf8(&target).unwrap(), path).unwrap();
            }
            kind => panic!("{kind:?} in a vector"),
        }
    }
}

/// An image made on the spot; its blobs can be tampered with.
pub(crate) struct Image {
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: BTreeMap<ContentDigest, Vec<u8>>,
    pub(crate) config_digest: ContentDigest,
    /// Digests of the layers' blobs.
    pub(crate) layers: Vec<ContentDigest>,
    pub(crate) diff_ids: Vec<ContentDigest>,
    /// What was asked for, in order.
    pub(crate) fetched: Mutex<Vec<ContentDigest>>,
}

impl Image {
    /// An image of uncompressed layers.
    pub(crate) fn new(layers: &[Vec<u8>]) -> Self {
        let plain: Vec<_> = layers.iter().map(|layer| ("tar", layer.clone(), layer.clone())).collect();
        Self::compressed(&plain)
    }

    /// An image of layers: last part of the media type, uncompressed bytes, blob.
    pub(crate) fn compressed(layers: &[(&str, Vec<u8>, Vec<u8>)]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|(_, layer, _)| ContentDigest::sha256(layer)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": &diff_ids}
        });
        let config = config.to_string().into_bytes();
        let config_digest = ContentDigest::sha256(&config);
        let descriptor = |media_type: String, blob: &[u8]| json!({"mediaType": media_type, "digest": ContentDigest::sha256(blob), "size": blob.len()});
        let layer = |form: &str, blob: &[u8]| descriptor(format!("application/vnd.oci.image.layer.v1.{form}"), blob);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json".into(), &config),
            "layers": layers.iter().map(|(form, _, blob)| layer(form, blob)).collect::<Vec<_>>(),
        });
        let blobs = layers.iter().map(|(_, _, blob)| (ContentDigest::sha256(blob), blob.clone()));
        Self {
            manifest: manifest.to_string().into_bytes(),
            layers: layers.iter().map(|(_, _, blob)| ContentDigest::sha256(blob)).collect(),
            blobs: blobs.chain([(config_digest, config)]).collect(),
            config_digest,
            diff_ids,
            fetched: Mutex::default(),
        }
    }

    /// An artifact of these blobs; its configuration is `{}`.
    pub(crate) fn artifact(blobs: &[&[u8]], subject: Option<&ContentDigest>) -> Self {
        let descriptor = |media_type: &str, blob: &[u8]| json!({"mediaType": media_type, "digest": ContentDigest::sha256(blob), "size": blob.len()});
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.example.packages",
            "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": blobs.iter().map(|blob| descriptor("text/plain", blob)).collect::<Vec<_>>(),
        });
        if let Some(subject) = subject {
            manifest["subject"] =
                json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": subject, "size": 1});
        }
        let digests: Vec<_> = blobs.iter().map(|blob| ContentDigest::sha256(blob)).collect();
        let config_digest = ContentDigest::sha256(b"{}");
        Self {
            manifest: manifest.to_string().into_bytes(),
            blobs: digests
                .iter()
                .copied()
                .zip(blobs.iter().map(|blob| blob.to_vec()))
                .chain([(config_digest, b"{}".to_vec())])
                .collect(),
            config_digest,
            layers: digests,
            diff_ids: Vec::new(),
            fetched: Mutex::default(),
        }
    }

    pub(crate) fn manifest_digest(&self) -> ContentDigest {
        ContentDigest::sha256(&self.manifest)
    }

    /// Writes an OCI layout with the image under a name.
    pub(crate) fn write_layout(&self, dir: &Path, name: &str) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for (digest, blob) in
            self.blobs.iter().map(|(digest, blob)| (*digest, blob)).chain([(self.manifest_digest(), &self.manifest)])
        {
            fs::write(blobs.join(digest.hex()), blob).unwrap();
        }
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let manifest = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": self.manifest_digest(),
            "size": self.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": name},
            // cfsctl takes nothing without, artifacts neither.
            "platform": {"os": "linux", "architecture": Platform::host().architecture},
        });
        fs::write(dir.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string()).unwrap();
    }

    /// What was fetched since the last call.
    pub(crate) fn take_fetched(&self) -> Vec<ContentDigest> {
        std::mem::take(&mut self.fetched.lock().unwrap())
    }
}

impl ImageSource for Image {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        Ok(self.manifest.clone())
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.fetched.lock().unwrap().push(descriptor.digest);
        match self.blobs.get(&descriptor.digest) {
            Some(blob) => Ok(Box::new(&blob[..])),
            None => Err(SourceError::new(format!("there is no blob {}", descriptor.digest))),
        }
    }
}

/// A layer with `/usr`, and these files with as many bytes.
pub(crate) fn layer(files: &[(&str, usize)]) -> Vec<u8> {
    let mut archive = header("usr/", b'5', 0);
    for (name, size) in files {
        archive.extend(header(name, b'0', *size));
        archive.extend(name.bytes().cycle().take(*size));
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

pub(crate) fn header(name: &str, typeflag: u8, size: usize) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(if typeflag == b'5' { b"0000755\0" } else { b"0000644\0" });
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = typeflag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The uncompressed layer that a stream was made of.
pub(crate) fn merged(repository: &Repository, stream: &Digest) -> Vec<u8> {
    let mut merged = Vec::new();
    for chunk in repository.open_stream(stream, None).unwrap().chunks() {
        match chunk.unwrap() {
            Chunk::Inline(bytes) => merged.extend(bytes),
            Chunk::External(digest) => merged.extend(repository.read_object(&digest).unwrap()),
        }
    }
    merged
}

/// All files of a repository: path, symlink target or size.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_symlink() {
                files.insert(entry.path(), fs::read_link(entry.path()).unwrap().display().to_string());
            } else {
                files.insert(entry.path(), entry.metadata().unwrap().len().to_string());
            }
        }
    }
    files
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut messages = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        messages.push(error.to_string());
        source = error.source();
    }
    messages
}

/// Writes down events.
#[derive(Default)]
pub(crate) struct Record(pub(crate) Mutex<Vec<String>>);

impl Observer for Record {
    fn event(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}
