//! Image references: what users write to name an image outside of the repository.
//!
//! ```text
//! docker://HOST[:PORT]/NAME[:TAG][@sha256:HEX]     an image in a registry; the prefix may be left out
//! https://HOST[:PORT]/[DIR/]NAME[:TAG][@sha256:HEX]  an image in a published tree; with http:// without TLS
//! oci:PATH[:TAG]                                   an image in an OCI layout directory
//! oci-archive:PATH[:TAG]                           the same in a tar archive
//! docker-archive:PATH[:NAME]                       an image in an archive that docker save has written
//! PATH[:NAME]                                      an archive of either form; a path that begins with / or ., or ends
//!                                                  with .tar
//! dir:PATH                                         an image in a directory that skopeo copy has written
//! containers-storage:NAME                          an image of podman and buildah, read with skopeo
//! docker-daemon:NAME                               an image of Docker, read with skopeo
//! ```
//!
//! The text that [`fmt::Display`] writes is canonical: it has the transport and, unless there is a digest, the tag. It is
//! stored as the origin of a deployment.

mod file;
mod local;
mod published;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use osupdate_core::oci::{ArchiveForm, ContentDigest};
use thiserror::Error;

pub use file::{ArchiveReference, OciLayoutReference};
pub use local::{LocalReference, LocalTransport};
pub use published::PublishedReference;

/// Longest repository name, with the host, in the reference grammar.
const NAME_MAX: usize = 255;
/// Longest tag in the reference grammar.
const TAG_MAX: usize = 128;
/// The host that Docker Hub is called by, and its namespace for names without one.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_NAMESPACE: &str = "library/";

/// Name of an image outside of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageReference {
    /// An image in a registry.
    Registry(RegistryReference),
    /// An image in a published tree on a web server.
    Published(PublishedReference),
    /// An image in an OCI layout directory.
    OciLayout(OciLayoutReference),
    /// An image in a tar archive.
    Archive(ArchiveReference),
    /// An image in a directory of blobs.
    Directory(PathBuf),
    /// An image that another program keeps on this machine.
    Local(LocalReference),
}

/// Name of an image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryReference {
    /// Host name or address, with `:port` if one was given.
    pub host: String,
    /// Repository name, such as `library/debian`.
    pub repository: String,
    /// Tag. `latest` if neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest of the manifest or manifest list; it decides if there is a tag, too.
    pub digest: Option<ContentDigest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseReferenceError {
    /// There is no text.
    #[error("an image reference cannot be empty")]
    Empty,
    /// The transport is not one of ours.
    #[error("transport {0:?} is not supported; those that are: {transports}", transports = TRANSPORTS.join(", "))]
    Transport(String),
    /// The registry is missing.
    #[error("{0:?} has no registry host, write it in front, such as docker.io/library/{0} or localhost:5000/{0}")]
    NoHost(String),
    /// The host is not one.
    #[error("{0:?} is not a registry host, expected a name or address and, if needed, :PORT")]
    Host(String),
    /// A user name is in the reference.
    #[error("user names and passwords do not belong in a reference, put them into an auth file (skopeo login)")]
    UserInfo,
    /// There is a host only.
    #[error("there is no repository name after the registry host {0:?}")]
    NoRepository(String),
    /// The repository name is not one.
    #[error(
        "repository name {0:?} is not valid: it is made of lower-case letters and digits, with . _ or - between them, \
         and / between parts"
    )]
    Repository(String),
    /// The name is too long.
    #[error("the repository name has {0} characters, the most is 255")]
    NameLength(usize),
    /// The tag is not one.
    #[error("tag {0:?} is not valid: it is made of letters, digits and . _ - (1 to 128, not beginning with . or -)")]
    Tag(String),
    /// The digest is not one.
    #[error("digest {0:?} is not valid: expected sha256: and 64 lower-case hex digits")]
    Digest(String),
    /// A transport that needs a path, without one.
    #[error("there is no path after {0}")]
    NoPath(&'static str),
    /// A transport that needs a name, without one or with one that no image has.
    #[error("{name:?} after {transport}: is not the name of an image")]
    LocalName {
        /// The transport.
        transport: LocalTransport,
        /// What was given.
        name: String,
    },
}

/// What references begin with that name their transport.
pub const TRANSPORTS: [&str; 9] = [
    "docker://",
    "https://",
    "http://",
    "oci:",
    "oci-archive:",
    "docker-archive:",
    "dir:",
    "containers-storage:",
    "docker-daemon:",
];

impl ImageReference {
    /// Whether a text begins with the name of a transport, and so can be nothing but a reference.
    pub fn has_transport(text: &str) -> bool {
        TRANSPORTS.iter().any(|transport| text.starts_with(transport))
    }

    /// The address of the published tree that the image is in.
    pub fn tree(&self) -> Option<String> {
        match self {
            Self::Published(reference) => Some(reference.base()),
            _ => None,
        }
    }

    /// Makes the path of a directory or archive absolute, so that the reference means the same from everywhere.
    ///
    /// # Errors
    /// When the absolute path cannot be written in a reference: it has a colon, or is not UTF-8.
    pub fn absolute(self) -> io::Result<Self> {
        Ok(match self {
            Self::OciLayout(OciLayoutReference { path, tag }) => {
                Self::OciLayout(OciLayoutReference { path: file::absolute(&path)?, tag })
            }
            Self::Archive(ArchiveReference { form, path, name }) => {
                Self::Archive(ArchiveReference { form, path: file::absolute(&path)?, name })
            }
            Self::Directory(path) => Self::Directory(file::absolute(&path)?),
            same @ (Self::Registry(_) | Self::Published(_) | Self::Local(_)) => same,
        })
    }
}

impl FromStr for ImageReference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseReferenceError::Empty);
        }
        if let Some(rest) = text.strip_prefix("docker://") {
            return rest.parse().map(Self::Registry);
        }
        for plain in [false, true] {
            if let Some(rest) = text.strip_prefix(published::scheme(plain)) {
                return PublishedReference::parse(plain, rest).map(Self::Published);
            }
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return rest.parse().map(Self::OciLayout);
        }
        for form in [ArchiveForm::Oci, ArchiveForm::Docker] {
            if let Some(rest) = text.strip_prefix(file::prefix(form)) {
                return ArchiveReference::parse(form, rest).map(Self::Archive);
            }
        }
        if let Some(path) = text.strip_prefix(file::DIRECTORY) {
            return file::directory(path).map(Self::Directory);
        }
        if let Some((transport, name)) = LocalTransport::split(text) {
            return LocalReference::new(transport, name).map(Self::Local);
        }
        if let Some(transport) = foreign_transport(text) {
            return Err(ParseReferenceError::Transport(transport.to_owned()));
        }
        if file::is_path(text) {
            return ArchiveReference::parse(ArchiveForm::Any, text).map(Self::Archive);
        }
        // Of what has no registry's host in front.
        let is_archive = || text.split(':').next().is_some_and(|path| path.ends_with(".tar"));
        match text.parse() {
            Err(
                ParseReferenceError::NoHost(_) | ParseReferenceError::NoRepository(_) | ParseReferenceError::Host(_),
            ) if is_archive() => ArchiveReference::parse(ArchiveForm::Any, text).map(Self::Archive),
            result => result.map(Self::Registry),
        }
    }
}

/// The transport of other container tools that this text begins with.
fn foreign_transport(text: &str) -> Option<&str> {
    const KNOWN: [&str; 6] = ["atomic", "docker", "ostree", "ostree-image-signed", "ostree-unverified-registry", "sif"];
    let (transport, rest) = text.split_once(':')?;
    (KNOWN.contains(&transport) || rest.starts_with("//")).then_some(transport)
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::Published(reference) => reference.fmt(f),
            Self::OciLayout(reference) => write!(f, "oci:{reference}"),
            Self::Archive(reference) => reference.fmt(f),
            Self::Directory(path) => write!(f, "{}{}", file::DIRECTORY, path.display()),
            Self::Local(reference) => reference.fmt(f),
        }
    }
}

impl FromStr for RegistryReference {
    type Err = ParseReferenceError;

    /// Parses a reference without its `docker://`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseReferenceError::Empty);
        }
        let (name, after) = text.split_once('@').unwrap_or((text, ""));
        // In docker://user:password@host/name a slash follows the @.
        if after.contains('/') {
            return Err(ParseReferenceError::UserInfo);
        }
        let Some((host, _)) = name.split_once('/') else {
            let looks_like_host = name.starts_with("localhost") || name.contains('.') && !name.contains(':');
            return Err(if looks_like_host {
                ParseReferenceError::NoRepository(name.to_owned())
            } else {
                ParseReferenceError::NoHost(text.to_owned())
            });
        };
        // As in the Docker grammar: a first part without any of these is part of the name.
        let names_host = host.contains(['.', ':']) || host == "localhost" || host.contains(char::is_uppercase);
        if !names_host {
            return Err(ParseReferenceError::NoHost(text.to_owned()));
        }
        let mut reference = Self::at_host(text)?;
        if reference.host == DOCKER_HUB && !reference.repository.contains('/') {
            reference.repository.insert_str(0, DOCKER_HUB_NAMESPACE);
        }
        Ok(reference)
    }
}

impl RegistryReference {
    /// Parses what begins with a host, whatever it looks like.
    fn at_host(text: &str) -> Result<Self, ParseReferenceError> {
        let (name, digest) = match text.split_once('@') {
            Some((_, digest)) if digest.contains('/') => return Err(ParseReferenceError::UserInfo),
            Some((name, digest)) => match digest.parse() {
                Ok(digest) => (name, Some(digest)),
                Err(_) => return Err(ParseReferenceError::Digest(digest.to_owned())),
            },
            None => (text, None),
        };
        let Some((host, path)) = name.split_once('/') else {
            return Err(ParseReferenceError::NoRepository(name.to_owned()));
        };
        if !is_host(host) {
            return Err(ParseReferenceError::Host(host.to_owned()));
        }
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) if is_tag(tag) => (repository, Some(tag.to_owned())),
            Some((_, tag)) => return Err(ParseReferenceError::Tag(tag.to_owned())),
            None if digest.is_none() => (path, Some("latest".to_owned())),
            None => (path, None),
        };
        if repository.is_empty() {
            return Err(ParseReferenceError::NoRepository(host.to_owned()));
        }
        if !repository.split('/').all(is_name_part) {
            return Err(ParseReferenceError::Repository(repository.to_owned()));
        }
        if host.len() + 1 + repository.len() > NAME_MAX {
            return Err(ParseReferenceError::NameLength(host.len() + 1 + repository.len()));
        }
        Ok(Self { host: host.to_owned(), repository: repository.to_owned(), tag, digest })
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A host name, an IPv4 address or an IPv6 address in brackets, with an optional port.
pub(crate) fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    if port.is_some_and(|port| !port.bytes().all(|c| c.is_ascii_digit()) || port.parse::<u16>().is_err()) {
        return false;
    }
    if text.starts_with('[') {
        return name.parse::<std::net::Ipv6Addr>().is_ok();
    }
    name.split('.').all(|label| {
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    })
}

fn is_tag(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    (1..=TAG_MAX).contains(&text.len()) && !text.starts_with(['.', '-']) && text.bytes().all(inner)
}

/// Letters and digits, with one `.`, one or two `_`, or any number of `-` between them.
pub(crate) fn is_name_part(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut separators = text.split(alphanumeric).filter(|separator| !separator.is_empty());
    !text.is_empty()
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && separators.all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|c| c == b'-'))
}

#[cfg(test)]
mod tests;
