//! Published trees, written by hand: what is read must not depend on who wrote it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use osupdate::transport::registry::{AuthFiles, RegistriesFiles, RegistryError, TreeImage, TreeOptions};
use osupdate::transport::{ImageReference, registry::RegistryOptions};
use osupdate_core::observer::Silent;
use osupdate_core::oci::{
    ContentDigest, Layout as StoredLayout, Platform, PullError, PullOptions, StoredImage, open_layer, pull,
};
use osupdate_core::published::{
    Envelope, EnvelopeSignature, Index, Part, PublishedFile, PublishedImage, PublishedLayer, Summary, VERSION,
    chunk_path, chunks, encode, index_path, object_path,
};
use osupdate_core::repository::{Repository, Verity};
use osupdate_core::{Algorithm, Digest};
use tempfile::TempDir;

use crate::layout::Layout;
use crate::server::{Request, Server, options, reply};

/// Files of a layer.
pub(crate) type Files<'a> = &'a [(&'a str, &'a [u8])];

/// A tree in a directory `files/team`, with images `os`.
pub(crate) struct Tree {
    dir: TempDir,
    repository: Repository,
    pub(crate) summary: Summary,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(&dir.path().join("repo"));
        let summary = Summary {
            version: VERSION,
            serial: 0,
            created: "2026-01-01T00:00:00Z".to_owned(),
            expires: None,
            algorithm: "fsverity-sha512-12".to_owned(),
            images: Vec::new(),
        };
        Self { dir, repository, summary }
    }

    /// What a web server serves.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// The tree itself.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.root().join("team").join(file)
    }

    /// Publishes `os:TAG` with these layers.
    pub(crate) fn publish(&mut self, tag: &str, layers: &[Files<'_>]) -> Index {
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::create(dir.path());
        let image = layout.image(&Platform::host().architecture, layers);
        layout.tag(tag, &image);
        let layout = StoredLayout::open(dir.path(), Some(tag), &Platform::host()).unwrap();
        let image = pull(&self.repository, &layout, &PullOptions::default(), &Silent).unwrap();
        let index = self.index(dir.path(), &image);
        self.add(tag, &index);
        index
    }

    fn index(&self, layout: &Path, image: &StoredImage) -> Index {
        let blob = |digest: &ContentDigest| fs::read_to_string(layout.join("blobs/sha256").join(digest.hex())).unwrap();
        let manifest = blob(&image.manifest_digest);
        let config = serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["config"]["digest"].clone();
        let config = blob(&config.as_str().unwrap().parse().unwrap());
        let (mut objects, mut seen, mut layers) = (Vec::new(), HashSet::new(), Vec::new());
        for (diff_id, _) in &image.layers {
            let layer = open_layer(&self.repository, diff_id).unwrap();
            let mut names = Vec::new();
            for parts in chunks(&self.repository, &layer.stream) {
                let parts = parts.unwrap();
                let bytes = encode(&parts);
                let name = ContentDigest::sha256(&bytes);
                self.write(&chunk_path(&name), &zstd::encode_all(&bytes[..], 3).unwrap());
                names.push(name);
                for part in parts {
                    if let Part::External { digest, .. } = part
                        && seen.insert(digest)
                    {
                        objects.push(self.write_object(&digest));
                    }
                }
            }
            layers.push(PublishedLayer { diff_id: *diff_id, chunks: names });
        }
        Index { version: VERSION, manifest, config, layers, objects, attachments: Vec::new() }
    }

    fn write_object(&self, digest: &Digest) -> u64 {
        let bytes = self.repository.read_object(digest).unwrap();
        let compressed = zstd::encode_all(&bytes[..], 3).unwrap();
        if compressed.len() * 10 > bytes.len() * 9 {
            self.write(&object_path(digest, false), &bytes);
            return 0;
        }
        self.write(&object_path(digest, true), &compressed);
        compressed.len() as u64
    }

    /// Names an index in the summary, instead of the one that had the tag before.
    pub(crate) fn add(&mut self, tag: &str, index: &Index) {
        let (digest, file) = index.to_file().unwrap();
        self.write(&index_path(&digest), &file);
        self.summary.images.retain(|image| image.tag != tag);
        self.summary.images.push(PublishedImage {
            name: "os".to_owned(),
            tag: tag.to_owned(),
            platform: Platform::host().to_string(),
            manifest: ContentDigest::sha256(index.manifest.as_bytes()),
            index: PublishedFile { digest, size: file.len() as u64 },
        });
        self.summary.serial += 1;
        self.write_summary();
    }

    pub(crate) fn write_summary(&self) {
        self.write_envelope(|_| Vec::new());
    }

    /// Writes the summary with these signatures of its bytes.
    pub(crate) fn write_envelope(&self, sign: impl FnOnce(&[u8]) -> Vec<Vec<u8>>) {
        let mut envelope = Envelope { payload: serde_json::to_vec(&self.summary).unwrap(), signatures: Vec::new() };
        let signatures = sign(&envelope.signed_bytes());
        envelope.signatures =
            signatures.into_iter().map(|sig| EnvelopeSignature { keyid: String::new(), sig }).collect();
        self.write("summary.json", &envelope.to_file().unwrap());
    }

    pub(crate) fn write(&self, file: &str, bytes: &[u8]) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Serves it as it is.
    pub(crate) fn serve(&self) -> Server {
        self.serve_changed(|_, bytes| reply("200 OK", &[], &bytes))
    }

    /// Serves it with answers made of the files.
    pub(crate) fn serve_changed(
        &self,
        answer: impl Fn(&Request, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Server {
        let root = self.root();
        Server::start(move |request, _| match fs::read(root.join(request.path.trim_start_matches('/'))) {
            Ok(bytes) => answer(request, bytes),
            Err(_) => reply("404 Not Found", &[], b"<html>"),
        })
    }
}

pub(crate) fn new_repository(path: &Path) -> Repository {
    Repository::init(path, Algorithm::Sha512, Verity::Unverified).unwrap();
    Repository::open(path).unwrap()
}

/// Without anything of the machine that the test runs on.
pub(crate) fn tree_options(registries: Option<&str>) -> (TempDir, RegistryOptions) {
    let dir = tempfile::tempdir().unwrap();
    let auth = dir.path().join("auth.json");
    fs::write(&auth, "{}").unwrap();
    let mut options = options(AuthFiles::only(auth));
    if let Some(registries) = registries {
        let file = dir.path().join("registries.conf");
        fs::write(&file, registries).unwrap();
        options.registries = RegistriesFiles::only(Some(file), Vec::new());
    }
    (dir, options)
}

/// An image, by its reference.
pub(crate) fn image(reference: &str, registries: Option<&str>, tree: TreeOptions) -> Result<TreeImage, RegistryError> {
    let (_dir, options) = tree_options(registries);
    let ImageReference::Published(reference) = reference.parse().unwrap() else { panic!("{reference}") };
    TreeImage::new(&reference, &options, tree)
}

/// Pulls `team/os:TAG` from a server.
pub(crate) fn pull_from(server: &Server, tag: &str, repository: &Repository) -> Result<StoredImage, PullError> {
    let reference = format!("http://{}/team/os:{tag}", server.address);
    let seen = repository.seen_serial(&format!("http://{}/team", server.address)).unwrap();
    let image = image(&reference, None, TreeOptions { seen, ..TreeOptions::default() }).unwrap();
    pull(repository, &image, &PullOptions { tag: Some("os"), ..PullOptions::default() }, &Silent)
}
