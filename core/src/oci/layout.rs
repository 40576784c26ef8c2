//! OCI image layouts: directories or archives with `oci-layout`, `index.json` and `blobs/`, as skopeo and buildah write
//! them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, PlatformBuilder};
use serde::Deserialize;
use thiserror::Error;

use super::digest::ContentDigest;
use super::files::{Directory, Files, read_bounded};
use super::manifest::{
    BlobDescriptor, CONFIG_MAX_BYTES, CheckedArtifact, CheckedConfig, INDEX_MEDIA_TYPES, MANIFEST_MAX_BYTES,
    ManifestError, parse_index,
};
use super::platform::Platform;
use super::source::{ImageSource, SourceError};

/// The file that tells what the directory is.
pub(crate) const MARKER: &str = "oci-layout";
/// Annotation that names an image in `index.json`.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Most images of an index that are read to find out what machine they are for.
const UNDESCRIBED_MAX: usize = 64;
/// Deepest nesting of indexes.
const INDEX_DEPTH_MAX: usize = 4;

/// Why an image cannot be found in an OCI layout.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// There is no such directory.
    #[error(
        "there is no directory {path}, and an OCI image layout is one: with oci-layout, index.json and blobs in it",
        path = path.display()
    )]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// It is no directory.
    #[error(
        "{path} is a file, and an OCI image layout is a directory; oci-archive:{path} is an archive of one",
        path = path.display()
    )]
    NotDirectory {
        /// The file.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{path} is not an OCI image layout, there is no oci-layout file in it", path = path.display())]
    NotLayout {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layout is of another version.
    #[error("{path} is an OCI image layout of version {version:?}, only 1.x is supported", path = path.display())]
    Version {
        /// The directory.
        path: PathBuf,
        /// The version.
        version: String,
    },
    /// A file of it cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An index leaves it to us to read all of its images.
    #[error("{path} has more than {UNDESCRIBED_MAX} images without a platform in an index, name one of them", path = path.display())]
    Undescribed {
        /// The directory.
        path: PathBuf,
    },
    /// A blob is not what its name says.
    #[error("{path} is damaged, it does not match its digest", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// An index or manifest is malformed, or is not for this machine.
    #[error("cannot select an image in {path}", path = path.display())]
    Manifest {
        /// The directory or index.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// No image has the name.
    #[error("there is no image {name:?} in {path}; it has {}", names(available), path = path.display())]
    NoSuchImage {
        /// The directory.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// The names there are.
        available: Vec<String>,
    },
    /// The directory holds several images, or none, and none was named.
    #[error("{path} does not hold exactly one image, name one of them: it has {}", names(available), path = path.display())]
    Ambiguous {
        /// The directory.
        path: PathBuf,
        /// The names there are.
        available: Vec<String>,
    },
}

/// Names of images, for a message.
pub(super) fn names(available: &[String]) -> String {
    if available.is_empty() { "no named images".to_owned() } else { available.join(", ") }
}

/// One image of an OCI layout.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    files: Box<dyn Files>,
    manifest: Vec<u8>,
}

impl Layout {
    /// Finds the image with this name; without a name, the only one of the directory. Of an image for several platforms,
    /// the one for `platform`.
    ///
    /// # Errors
    /// When the directory is not a layout, the image is not in it, or its manifest is damaged.
    pub fn open(path: &Path, name: Option<&str>, platform: &Platform) -> Result<Self, LayoutError> {
        let directory = Directory::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => LayoutError::NoDirectory { path: path.to_owned() },
            io::ErrorKind::NotADirectory => LayoutError::NotDirectory { path: path.to_owned() },
            _ => LayoutError::NotLayout { path: path.to_owned(), source },
        })?;
        Self::of_files(path, Box::new(directory), name, platform)
    }

    /// Finds the image in the files of a layout; `path` is what messages say.
    pub(crate) fn of_files(
        path: &Path,
        files: Box<dyn Files>,
        name: Option<&str>,
        platform: &Platform,
    ) -> Result<Self, LayoutError> {
        let mut layout = Self { path: path.to_owned(), files, manifest: Vec::new() };
        let marker = layout.files.open_document(MARKER).and_then(|file| read_bounded(file, MANIFEST_MAX_BYTES));
        layout.check_version(&marker.map_err(|source| LayoutError::NotLayout { path: path.to_owned(), source })?)?;
        layout.manifest = layout.select(name, platform)?;
        Ok(layout)
    }

    fn check_version(&self, marker: &[u8]) -> Result<(), LayoutError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let Marker { image_layout_version: version } = serde_json::from_slice(marker).map_err(|source| {
            let source = ManifestError::Json { document: "oci-layout file", source };
            LayoutError::Manifest { path: self.path.clone(), source }
        })?;
        if version.starts_with("1.") { Ok(()) } else { Err(LayoutError::Version { path: self.path.clone(), version }) }
    }

    fn select(&self, name: Option<&str>, platform: &Platform) -> Result<Vec<u8>, LayoutError> {
        let failed = |source| LayoutError::Manifest { path: self.path.clone(), source };
        let index = self.read("index.json")?;
        let mut manifests = parse_index(&index).map_err(failed)?.manifests().clone();
        if name.is_none_or(|name| !is_attachment(name)) {
            manifests.retain(|descriptor| !ref_name(descriptor).is_some_and(is_attachment));
        }
        let mut available: Vec<String> = manifests.iter().filter_map(ref_name).map(str::to_owned).collect();
        available.sort_unstable();
        available.dedup();
        let mut candidates: Vec<Descriptor> = match name {
            Some(name) => manifests.into_iter().filter(|descriptor| ref_name(descriptor) == Some(name)).collect(),
            None if available.len() > 1 => {
                return Err(LayoutError::Ambiguous { path: self.path.clone(), available });
            }
            // What has no name beside one that has belongs to it.
            None if available.len() == 1 => manifests.into_iter().filter(|one| ref_name(one).is_some()).collect(),
            None => manifests,
        };
        if candidates.is_empty() {
            return Err(match name {
                Some(name) => LayoutError::NoSuchImage { path: self.path.clone(), name: name.to_owned(), available },
                None => LayoutError::Ambiguous { path: self.path.clone(), available },
            });
        }
        for _ in 0..INDEX_DEPTH_MAX {
            let descriptor = match candidates.as_slice() {
                [only] if only.platform().is_none() => only,
                several => {
                    candidates = self.with_platforms(several)?;
                    platform.select(&candidates).map_err(failed)?
                }
            };
            let bytes = self.read_blob(descriptor)?;
            if !INDEX_MEDIA_TYPES.contains(&descriptor.media_type().to_string().as_str()) {
                return Ok(bytes);
            }
            candidates = parse_index(&bytes).map_err(failed)?.manifests().clone();
        }
        Err(failed(ManifestError::Index))
    }

    /// Those of several images whose platform is known, or found out.
    fn with_platforms(&self, several: &[Descriptor]) -> Result<Vec<Descriptor>, LayoutError> {
        let mut found: HashMap<String, Option<Descriptor>> = HashMap::new();
        let mut described = Vec::new();
        for descriptor in several {
            if descriptor.platform().is_some() {
                described.push(descriptor.clone());
                continue;
            }
            let read = found.len();
            match found.entry(descriptor.digest().to_string()) {
                Entry::Occupied(_) => {}
                Entry::Vacant(_) if read == UNDESCRIBED_MAX => {
                    return Err(LayoutError::Undescribed { path: self.path.clone() });
                }
                Entry::Vacant(vacant) => described.extend(vacant.insert(self.with_platform(descriptor)).clone()),
            }
        }
        Ok(described)
    }

    /// The descriptor of one of several images with the platform that its configuration states. `None`: it is no image
    /// that can be read.
    fn with_platform(&self, descriptor: &Descriptor) -> Option<Descriptor> {
        let manifest = CheckedArtifact::parse(&self.read_blob(descriptor).ok()?).ok()?;
        let config = self.files.open(&blob_path(&manifest.config.digest)).ok()?;
        let config = read_bounded(config, CONFIG_MAX_BYTES).ok()?;
        let config = CheckedConfig::parse(&config, manifest.layers.len()).ok()?.config;
        let platform = PlatformBuilder::default()
            .architecture(config.architecture().clone())
            .os(config.os().clone())
            .build()
            .ok()?;
        let mut descriptor = descriptor.clone();
        descriptor.set_platform(Some(platform));
        Some(descriptor)
    }

    /// Reads a manifest or index and checks it against its digest.
    fn read_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        let blob = BlobDescriptor::try_from(descriptor).map_err(|source| LayoutError::Manifest {
            path: self.path.clone(),
            source: ManifestError::Digest { document: "index", source },
        })?;
        let path = blob_path(&blob.digest);
        let bytes = self.read(&path)?;
        if bytes.len() as u64 != blob.size || !blob.digest.matches(&bytes) {
            return Err(LayoutError::Damaged { path: self.path.join(path) });
        }
        Ok(bytes)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, LayoutError> {
        let contents = self.files.open_document(path).and_then(|file| read_bounded(file, MANIFEST_MAX_BYTES));
        contents.map_err(|source| LayoutError::Read { path: self.path.join(path), source })
    }
}

impl ImageSource for Layout {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        Ok(self.manifest.clone())
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        let path = blob_path(&descriptor.digest);
        let opened = self.files.open(&path);
        opened.map_err(|source| SourceError::new(LayoutError::Read { path: self.path.join(path), source }))
    }
}

/// Name of a blob below the layout's directory.
fn blob_path(digest: &ContentDigest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn ref_name(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(REF_NAME).map(String::as_str)
}

/// Whether a name is not that of an image but of the signatures of one: `sha256-<digest of its manifest>.sig`.
fn is_attachment(name: &str) -> bool {
    let digest = name.strip_suffix(".sig").and_then(|name| name.split_once('-'));
    digest.is_some_and(|(algorithm, hex)| format!("{algorithm}:{hex}").parse::<ContentDigest>().is_ok())
}
