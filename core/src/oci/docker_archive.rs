//! One image in an archive that `docker save` and its like have written.
//!
//! ```text
//! manifest.json    [{"Config": "<file>", "RepoTags": ["<name>:<tag>", …], "Layers": ["<file>", …]}, …]
//! <config>         the configuration, with the diff_ids of all layers
//! <layer>          the tar archive of a layer, compressed or not; or a link to one
//! ```
//!
//! There is no manifest in such an archive. One is made, the same for the same archive: Docker's, with the configuration as
//! it is and a layer of type `…rootfs.diff.tar` for each of its diff_ids, or for a compressed file its own digest. Everything
//! is verified against it when the image is pulled.

use std::collections::HashMap;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::archive::Archive;
use super::digest::{ContentDigest, ContentHasher};
use super::files::{Files as _, read_bounded};
use super::image_archive::program_of;
use super::layout::names;
use super::manifest::{BlobDescriptor, CONFIG_MAX_BYTES, CheckedConfig, MANIFEST_MAX_BYTES, ManifestError};
use super::source::{ImageSource, SourceError};
use crate::digest::Algorithm;

/// The file that lists the images.
pub(super) const MARKER: &str = "manifest.json";

const MANIFEST_MEDIA_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_MEDIA_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_MEDIA_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Why an image cannot be found in what `docker save` wrote.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DockerArchiveError {
    /// A file of it cannot be read.
    #[error("cannot read {name} in {path}", path = path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The list of images or a configuration is malformed.
    #[error("cannot use the image in {path}", path = path.display())]
    Manifest {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// A layer is compressed in a way that no image is.
    #[error("layer {name} in {path} is compressed with {program}, which is not supported", path = path.display())]
    Compression {
        /// The archive.
        path: PathBuf,
        /// The file.
        name: String,
        /// What decompresses it.
        program: &'static str,
    },
    /// No image has the name.
    #[error("there is no image {name:?} in {path}; it has {}", names(available), path = path.display())]
    NoSuchImage {
        /// The archive.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// The names there are.
        available: Vec<String>,
    },
    /// The archive holds several images, or none, and none was named.
    #[error("{path} does not hold exactly one image, name one of them: it has {}", names(available), path = path.display())]
    Ambiguous {
        /// The archive.
        path: PathBuf,
        /// The names there are.
        available: Vec<String>,
    },
}

/// One image in an archive that `docker save` or one of its like has written.
#[derive(Debug)]
pub struct DockerArchive {
    path: PathBuf,
    archive: Archive,
    manifest: Vec<u8>,
    config: Vec<u8>,
    config_digest: ContentDigest,
    /// The file of each layer.
    layers: HashMap<ContentDigest, String>,
}

/// An image as the archive lists it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    size: u64,
    digest: ContentDigest,
}

impl DockerArchive {
    pub(super) fn open(path: &Path, archive: Archive, name: Option<&str>) -> Result<Self, DockerArchiveError> {
        let found = Found { path, archive: &archive };
        let list = found.read(MARKER, MANIFEST_MAX_BYTES)?;
        let images: Vec<Listed> = serde_json::from_slice(&list)
            .map_err(|source| ManifestError::Json { document: MARKER, source })
            .map_err(|source| found.unusable(source))?;
        let image = select(path, images, name)?;
        let config = found.read(&image.config, CONFIG_MAX_BYTES)?;
        let config_digest = ContentDigest::sha256(&config);
        let checked = CheckedConfig::parse(&config, image.layers.len()).map_err(|source| found.unusable(source))?;
        let mut layers = HashMap::new();
        let mut descriptors = Vec::new();
        // Layers without files are often the same, and one file must not be read as often as a list names it.
        let mut known: HashMap<Vec<u8>, Descriptor> = HashMap::new();
        for (file, diff_id) in image.layers.iter().zip(&checked.diff_ids) {
            let own_name = archive.own_name(file).map_err(|source| found.unreadable(file, source))?;
            let descriptor = match known.get(&own_name) {
                Some(descriptor) => descriptor.clone(),
                None => found.layer(file, diff_id)?,
            };
            layers.insert(descriptor.digest, file.clone());
            known.insert(own_name, descriptor.clone());
            descriptors.push(descriptor);
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST_MEDIA_TYPE,
            config: Descriptor {
                media_type: CONFIG_MEDIA_TYPE.to_owned(),
                size: config.len() as u64,
                digest: config_digest,
            },
            layers: descriptors,
        };
        let manifest = serde_json::to_vec(&manifest)
            .map_err(|source| found.unusable(ManifestError::Json { document: "manifest", source }))?;
        Ok(Self { path: path.to_owned(), archive, manifest, config, config_digest, layers })
    }
}

/// Finds the image that is asked for in the list.
fn select(path: &Path, images: Vec<Listed>, name: Option<&str>) -> Result<Listed, DockerArchiveError> {
    let tags = images.iter().flat_map(|image| image.repo_tags.iter().flatten().cloned());
    let mut available: Vec<String> = tags.collect();
    available.sort_unstable();
    available.dedup();
    let path = path.to_owned();
    match name {
        Some(name) => {
            let wanted = full_name(name);
            let has_name = |image: &Listed| image.repo_tags.iter().flatten().any(|tag| full_name(tag) == wanted);
            let name = name.to_owned();
            images.into_iter().find(has_name).ok_or(DockerArchiveError::NoSuchImage { path, name, available })
        }
        None => match <[Listed; 1]>::try_from(images) {
            Ok([only]) => Ok(only),
            Err(_) => Err(DockerArchiveError::Ambiguous { path, available }),
        },
    }
}

/// A name with everything that Docker lets people leave out.
fn full_name(name: &str) -> String {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

/// The archive while the image is looked for in it.
struct Found<'a> {
    path: &'a Path,
    archive: &'a Archive,
}

impl Found<'_> {
    fn read(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, DockerArchiveError> {
        let file = self.archive.open_document(name).and_then(|file| read_bounded(file, max_bytes));
        file.map_err(|source| self.unreadable(name, source))
    }

    /// How the manifest describes a layer. A compressed one is read for its digest.
    fn layer(&self, name: &str, diff_id: &ContentDigest) -> Result<Descriptor, DockerArchiveError> {
        let failed = |source| self.unreadable(name, source);
        let size = self.archive.size(name).map_err(failed)?;
        let mut start = Vec::new();
        let mut file = self.archive.open(name).map_err(failed)?;
        file.by_ref().take(6).read_to_end(&mut start).map_err(failed)?;
        let suffix = match program_of(&start) {
            None => {
                return Ok(Descriptor { media_type: LAYER_MEDIA_TYPE.to_owned(), size, digest: *diff_id });
            }
            Some(program @ ("gzip" | "zstd")) => program,
            Some(program) => {
                let (path, name) = (self.path.to_owned(), name.to_owned());
                return Err(DockerArchiveError::Compression { path, name, program });
            }
        };
        let mut hasher = ContentHasher::new(Algorithm::Sha256);
        io::copy(&mut Cursor::new(start).chain(file), &mut hasher).map_err(failed)?;
        Ok(Descriptor { media_type: format!("{LAYER_MEDIA_TYPE}.{suffix}"), size, digest: hasher.finish() })
    }

    fn unreadable(&self, name: &str, source: io::Error) -> DockerArchiveError {
        DockerArchiveError::Read { path: self.path.to_owned(), name: name.to_owned(), source }
    }

    fn unusable(&self, source: ManifestError) -> DockerArchiveError {
        DockerArchiveError::Manifest { path: self.path.to_owned(), source }
    }
}

impl ImageSource for DockerArchive {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        Ok(self.manifest.clone())
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        if descriptor.digest == self.config_digest {
            return Ok(Box::new(Cursor::new(&self.config)));
        }
        let name = self.layers.get(&descriptor.digest).cloned().unwrap_or_else(|| descriptor.digest.to_string());
        let found = Found { path: &self.path, archive: &self.archive };
        self.archive.open(&name).map_err(|source| SourceError::new(found.unreadable(&name, source)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_docker_means_them() {
        for (short, full) in [
            ("os", "os:latest"),
            ("docker.io/library/os:1", "os:1"),
            ("localhost:5000/os", "localhost:5000/os:latest"),
            ("docker.io/me/os:1", "me/os:1"),
        ] {
            assert_eq!(full_name(short), full);
            assert_eq!(full_name(full), full);
        }
    }
}
