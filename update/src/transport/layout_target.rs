//! OCI image layouts that images are written to: directories, and archives of them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use osupdate_core::durable;
use osupdate_core::oci::{ContentDigest, MANIFEST_MAX_BYTES};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use thiserror::Error;

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why an image was not written to a layout.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteLayoutError {
    /// There is something else.
    #[error("{path} is neither empty nor an OCI image layout", path = path.display())]
    NotLayout {
        /// The directory.
        path: PathBuf,
    },
    /// Its index is not one.
    #[error("{path} is damaged, it is not an index of images", path = path.display())]
    Index {
        /// The file.
        path: PathBuf,
    },
    /// The archive is there already.
    #[error("{path} is there already, and archives are not added to", path = path.display())]
    ArchiveExists {
        /// The archive.
        path: PathBuf,
    },
    /// An operation on a file failed.
    #[error("cannot {action} {path}", path = path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn failed<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T, WriteLayoutError> {
    result.map_err(|source| WriteLayoutError::File { action, path: path.to_owned(), source })
}

/// A name in an OCI layout directory.
#[derive(Debug)]
pub struct LayoutTarget {
    path: PathBuf,
    tag: Option<String>,
}

impl LayoutTarget {
    /// Opens a layout, or makes one of an empty directory, or where there is none.
    ///
    /// # Errors
    /// When there is something else, or it cannot be made.
    pub fn open(path: &Path, tag: Option<&str>) -> Result<Self, WriteLayoutError> {
        let blobs = path.join("blobs/sha256");
        if !path.join(MARKER).exists() {
            failed("make the directory", path, fs::create_dir_all(path))?;
            if failed("list", path, fs::read_dir(path))?.next().is_some() {
                return Err(WriteLayoutError::NotLayout { path: path.to_owned() });
            }
            failed("make the directory", &blobs, fs::create_dir_all(&blobs))?;
            write(path, MARKER, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        failed("make the directory", &blobs, fs::create_dir_all(&blobs))?;
        Ok(Self { path: path.to_owned(), tag: tag.map(str::to_owned) })
    }

    fn blob(&self, digest: &ContentDigest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// Whether a blob is there: they get their names when they are complete.
    pub fn has_blob(&self, digest: &ContentDigest) -> bool {
        self.blob(digest).is_file()
    }

    /// Writes a blob, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_blob(&self, digest: &ContentDigest, mut contents: &File) -> Result<(), WriteLayoutError> {
        let path = self.blob(digest);
        let directory = path.parent().unwrap_or(&self.path);
        failed("make the directory", directory, fs::create_dir_all(directory))?;
        let mut write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new().permissions(readable()).tempfile_in(directory)?;
            contents.rewind()?;
            io::copy(&mut contents, file.as_file_mut())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(directory)?.sync_all()
        };
        failed("write", &path, write())
    }

    /// Writes a manifest and gives it the name; an image that had it goes without one, unless it is the same.
    ///
    /// # Errors
    /// When the index cannot be read or written.
    pub fn put_manifest(&self, manifest: &[u8], media_type: &str) -> Result<(), WriteLayoutError> {
        let digest = ContentDigest::sha256(manifest);
        let mut file = failed("make a temporary file in", &self.path, tempfile::tempfile_in(&self.path))?;
        failed("write", &self.path, file.write_all(manifest))?;
        self.put_blob(&digest, &file)?;
        let path = self.path.join(INDEX);
        let mut index = match fs::read(&path) {
            Ok(bytes) if bytes.len() as u64 <= MANIFEST_MAX_BYTES => {
                serde_json::from_slice(&bytes).map_err(|_| WriteLayoutError::Index { path: path.clone() })?
            }
            Ok(_) => return Err(WriteLayoutError::Index { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                json!({"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": []})
            }
            Err(error) => return failed("read", &path, Err(error)),
        };
        let Some(manifests) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
            return Err(WriteLayoutError::Index { path });
        };
        let mut descriptor = json!({"mediaType": media_type, "digest": digest, "size": manifest.len()});
        if let Some(tag) = &self.tag {
            descriptor["annotations"] = json!({REF_NAME: tag});
        }
        manifests.retain(|other| other["annotations"][REF_NAME].as_str() != self.tag.as_deref());
        manifests.push(descriptor);
        write(&self.path, INDEX, index.to_string().as_bytes())
    }
}

fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

fn write(directory: &Path, name: &str, contents: &[u8]) -> Result<(), WriteLayoutError> {
    let result = File::open(directory).and_then(|fd| durable::write_file(fd.as_fd(), name, 0o644, contents));
    failed("write", &directory.join(name), result)
}

/// An archive of an OCI layout with one image.
#[derive(Debug)]
pub struct ArchiveTarget {
    path: PathBuf,
    pub(super) layout: LayoutTarget,
    // Beside the archive, where there must be room for it anyway; removed at the end.
    dir: TempDir,
}

impl ArchiveTarget {
    /// Prepares to write an archive, which must not exist.
    ///
    /// # Errors
    /// When it does, or there is no directory for it.
    pub fn open(path: &Path, name: Option<&str>) -> Result<Self, WriteLayoutError> {
        if path.exists() {
            return Err(WriteLayoutError::ArchiveExists { path: path.to_owned() });
        }
        let parent = beside(path);
        let dir = failed("make a temporary directory in", parent, TempDir::with_prefix_in(".osupdate-", parent))?;
        let layout = LayoutTarget::open(&dir.path().join("layout"), name)?;
        Ok(Self { path: path.to_owned(), layout, dir })
    }

    /// Writes the manifest and makes the archive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_manifest(self, manifest: &[u8], media_type: &str) -> Result<(), WriteLayoutError> {
        self.layout.put_manifest(manifest, media_type)?;
        failed("write", &self.path, self.write())?;
        let path = self.dir.path().to_owned();
        failed("remove", &path, self.dir.close())
    }

    /// Files in the order of their names, without times and owners.
    fn write(&self) -> io::Result<()> {
        let file = NamedTempFile::with_prefix_in(".osupdate-", beside(&self.path))?;
        file.as_file().set_permissions(readable())?;
        let mut archive = tar::Builder::new(BufWriter::new(file));
        let root = self.layout.path.as_path();
        let mut names = vec![PathBuf::from(INDEX), PathBuf::from(MARKER)];
        for algorithm in sorted(&root.join("blobs"))? {
            let directory = Path::new("blobs").join(&algorithm);
            names.extend(sorted(&root.join(&directory))?.into_iter().map(|name| directory.join(name)));
        }
        names.sort();
        for name in names {
            let contents = File::open(root.join(&name))?;
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.metadata()?.len());
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_entry_type(tar::EntryType::Regular);
            archive.append_data(&mut header, name, contents)?;
        }
        let file = archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(&self.path)?;
        File::open(beside(&self.path))?.sync_all()
    }
}

fn sorted(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    let mut names: Vec<_> = names.collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// The directory that a file is in.
fn beside(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
