//! References to images in files: directories and archives. A path ends at the first colon, as other tools have it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use osupdate_core::oci::ArchiveForm;

use super::ParseReferenceError;

/// Begins references to directories of blobs.
pub(super) const DIRECTORY: &str = "dir:";

/// Name of an image in an OCI layout directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciLayoutReference {
    /// The directory.
    pub path: PathBuf,
    /// The `org.opencontainers.image.ref.name` annotation of the image. `None`: the only image of the directory.
    pub tag: Option<String>,
}

/// Name of an image in a tar archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveReference {
    /// What the archive must be.
    pub form: ArchiveForm,
    /// The archive.
    pub path: PathBuf,
    /// The image in it: its `org.opencontainers.image.ref.name` annotation, or its name of Docker's. `None`: the only one.
    pub name: Option<String>,
}

/// What references to archives of one form begin with.
pub(super) fn prefix(form: ArchiveForm) -> &'static str {
    match form {
        ArchiveForm::Any => "",
        ArchiveForm::Oci => "oci-archive:",
        ArchiveForm::Docker => "docker-archive:",
    }
}

/// Whether a text can be nothing but a path.
pub(super) fn is_path(text: &str) -> bool {
    ["/", "./", "../"].iter().any(|start| text.starts_with(start))
}

/// The path and what follows its colon.
fn split(text: &str, transport: &'static str) -> Result<(PathBuf, Option<String>), ParseReferenceError> {
    let (path, name) = match text.split_once(':') {
        Some((_, "")) => return Err(ParseReferenceError::Tag(String::new())),
        Some((path, name)) => (path, Some(name.to_owned())),
        None => (text, None),
    };
    if path.is_empty() {
        return Err(ParseReferenceError::NoPath(transport));
    }
    Ok((path.into(), name))
}

/// The directory of a reference without its `dir:`.
pub(super) fn directory(path: &str) -> Result<PathBuf, ParseReferenceError> {
    if path.is_empty() { Err(ParseReferenceError::NoPath(DIRECTORY)) } else { Ok(path.into()) }
}

/// The absolute form of a path, if it can be part of a reference.
pub(super) fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    if path.to_str().is_none_or(|path| path.contains(':')) {
        let text =
            format!("the path {} cannot be part of an image reference: it has a colon or is not UTF-8", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(path)
}

impl FromStr for OciLayoutReference {
    type Err = ParseReferenceError;

    /// Parses a reference without its `oci:`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, tag) = split(text, "oci:")?;
        Ok(Self { path, tag })
    }
}

impl ArchiveReference {
    /// Parses a reference without its transport.
    pub(super) fn parse(form: ArchiveForm, text: &str) -> Result<Self, ParseReferenceError> {
        let (path, name) = split(text, prefix(form))?;
        Ok(Self { form, path, name })
    }
}

impl fmt::Display for OciLayoutReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, &self.path, self.tag.as_deref())
    }
}

impl fmt::Display for ArchiveReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(prefix(self.form))?;
        write(f, &self.path, self.name.as_deref())
    }
}

fn write(f: &mut fmt::Formatter<'_>, path: &Path, name: Option<&str>) -> fmt::Result {
    write!(f, "{}", path.display())?;
    match name {
        Some(name) => write!(f, ":{name}"),
        None => Ok(()),
    }
}
