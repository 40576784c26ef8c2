//! Image references: what users write to name an image outside of the repository.
//!
//! ```text
//! docker://HOST[:PORT]/NAME[:TAG][@sha256:HEX]     an image in a registry; the prefix may be left out
//! oci:PATH[:TAG]                                   an image in an OCI layout directory
//! ```
//!
//! The text that [`fmt::Display`] writes is canonical: it has the transport and, unless there is a digest, the tag. It is
//! stored as the origin of a deployment.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use osupdate_core::oci::ContentDigest;
use thiserror::Error;

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
    /// An image in an OCI layout directory.
    OciLayout(OciLayoutReference),
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

/// Name of an image in an OCI layout directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciLayoutReference {
    /// The directory.
    pub path: PathBuf,
    /// The `org.opencontainers.image.ref.name` annotation of the image. `None`: the only image of the directory.
    pub tag: Option<String>,
}

/// Why a text is not an image reference.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseReferenceError {
    /// There is no text.
    #[error("an image reference cannot be empty")]
    Empty,
    /// The transport is not one of ours.
    #[error("transport {0:?} is not supported, use docker:// (a registry) or oci: (a directory)")]
    Transport(String),
    /// A web address was given.
    #[error("a reference has no {0}, write docker://HOST[:PORT]/NAME[:TAG]")]
    WebAddress(&'static str),
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
    /// `oci:` without a directory.
    #[error("there is no directory after oci:")]
    NoPath,
}

impl ImageReference {
    /// Makes the path of a directory absolute, so that the reference means the same from everywhere.
    ///
    /// # Errors
    /// When the absolute path cannot be written in a reference: it has a colon, or is not UTF-8.
    pub fn absolute(self) -> io::Result<Self> {
        Ok(match self {
            Self::OciLayout(OciLayoutReference { path, tag }) => {
                let path = std::path::absolute(path)?;
                if path.to_str().is_none_or(|path| path.contains(':')) {
                    let text = format!(
                        "the path {} cannot be part of an image reference: it has a colon or is not UTF-8",
                        path.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
                Self::OciLayout(OciLayoutReference { path, tag })
            }
            registry @ Self::Registry(_) => registry,
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
        if let Some(rest) = text.strip_prefix("oci:") {
            return rest.parse().map(Self::OciLayout);
        }
        if text.starts_with("http://") {
            return Err(ParseReferenceError::WebAddress("http://"));
        }
        if text.starts_with("https://") {
            return Err(ParseReferenceError::WebAddress("https://"));
        }
        if let Some(transport) = foreign_transport(text) {
            return Err(ParseReferenceError::Transport(transport.to_owned()));
        }
        text.parse().map(Self::Registry)
    }
}

/// The transport of other container tools that this text begins with.
fn foreign_transport(text: &str) -> Option<&str> {
    const KNOWN: [&str; 11] = [
        "atomic",
        "containers-storage",
        "dir",
        "docker",
        "docker-archive",
        "docker-daemon",
        "oci-archive",
        "ostree",
        "ostree-image-signed",
        "ostree-unverified-registry",
        "sif",
    ];
    let (transport, rest) = text.split_once(':')?;
    (KNOWN.contains(&transport) || rest.starts_with("//")).then_some(transport)
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::OciLayout(reference) => write!(f, "oci:{reference}"),
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
        let (name, digest) = match text.split_once('@') {
            // In docker://user:password@host/name a slash follows the @.
            Some((_, digest)) if digest.contains('/') => return Err(ParseReferenceError::UserInfo),
            Some((name, digest)) => match digest.parse() {
                Ok(digest) => (name, Some(digest)),
                Err(_) => return Err(ParseReferenceError::Digest(digest.to_owned())),
            },
            None => (text, None),
        };
        let Some((host, path)) = name.split_once('/') else {
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
        let namespace = if host == DOCKER_HUB && !repository.contains('/') { DOCKER_HUB_NAMESPACE } else { "" };
        Ok(Self { host: host.to_owned(), repository: format!("{namespace}{repository}"), tag, digest })
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

impl FromStr for OciLayoutReference {
    type Err = ParseReferenceError;

    /// Parses a reference without its `oci:`. The path ends at the first colon, as other tools have it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, tag) = match text.split_once(':') {
            Some((_, "")) => return Err(ParseReferenceError::Tag(String::new())),
            Some((path, tag)) => (path, Some(tag.to_owned())),
            None => (text, None),
        };
        if path.is_empty() {
            return Err(ParseReferenceError::NoPath);
        }
        Ok(Self { path: Path::new(path).to_owned(), tag })
    }
}

impl fmt::Display for OciLayoutReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

/// A host name, an IPv4 address or an IPv6 address in brackets, with an optional port.
fn is_host(text: &str) -> bool {
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
fn is_name_part(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut separators = text.split(alphanumeric).filter(|separator| !separator.is_empty());
    !text.is_empty()
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && separators.all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|c| c == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn canonical(text: &str) -> String {
        text.parse::<ImageReference>().unwrap().to_string()
    }

    fn error(text: &str) -> ParseReferenceError {
        text.parse::<ImageReference>().unwrap_err()
    }

    #[test]
    fn path_that_a_reference_cannot_hold_is_refused() {
        let with_colon = OciLayoutReference { path: "/mnt/usb:1/os".into(), tag: None };
        let err = ImageReference::OciLayout(with_colon).absolute().unwrap_err().to_string();
        assert!(err.contains("/mnt/usb:1/os"), "{err}");
    }

    #[test]
    fn references_have_a_canonical_text() {
        assert_eq!(canonical("docker://localhost:5000/os"), "docker://localhost:5000/os:latest");
        assert_eq!(canonical("quay.io/a/b-c__d.e:v1.2"), "docker://quay.io/a/b-c__d.e:v1.2");
        assert_eq!(canonical("docker.io/debian:13"), "docker://docker.io/library/debian:13");
        assert_eq!(canonical("docker.io/library/debian"), "docker://docker.io/library/debian:latest");
        assert_eq!(canonical("[::1]:5000/os:1"), "docker://[::1]:5000/os:1");
        assert_eq!(canonical(&format!("h.example/os@sha256:{HEX}")), format!("docker://h.example/os@sha256:{HEX}"));
        assert_eq!(canonical(&format!("h:1/os:2@sha256:{HEX}")), format!("docker://h:1/os:2@sha256:{HEX}"));
        assert_eq!(canonical("oci:dir"), "oci:dir");
        assert_eq!(canonical("oci:/a/b:os:1"), "oci:/a/b:os:1");
        for text in ["docker://localhost:5000/os", "oci:/a/b:tag"] {
            assert_eq!(canonical(&canonical(text)), canonical(text));
        }
    }

    #[test]
    fn an_oci_tag_may_contain_colons() {
        let ImageReference::OciLayout(reference) = "oci:/a/b:host/os:1".parse().unwrap() else { panic!() };
        assert_eq!(reference.path, Path::new("/a/b"));
        assert_eq!(reference.tag.as_deref(), Some("host/os:1"));
    }

    #[test]
    fn errors_name_the_part() {
        use ParseReferenceError as E;
        assert_eq!(error(""), E::Empty);
        assert_eq!(error("docker://"), E::Empty);
        assert_eq!(error("debian"), E::NoHost("debian".into()));
        assert_eq!(error("debian:13"), E::NoHost("debian:13".into()));
        assert_eq!(error("docker://me/os:1"), E::NoHost("me/os:1".into()));
        assert_eq!(error("quay.io"), E::NoRepository("quay.io".into()));
        assert_eq!(error("localhost:5000"), E::NoRepository("localhost:5000".into()));
        assert_eq!(error("quay.io/"), E::NoRepository("quay.io".into()));
        assert_eq!(error("quay.io/:1"), E::NoRepository("quay.io".into()));
        assert_eq!(error("quay.io:x/os"), E::Host("quay.io:x".into()));
        assert_eq!(error("quay.io:65536/os"), E::Host("quay.io:65536".into()));
        assert_eq!(error("quay..io/os"), E::Host("quay..io".into()));
        assert_eq!(error("[::g]/os"), E::Host("[::g]".into()));
        assert_eq!(error("quay.io/OS"), E::Repository("OS".into()));
        assert_eq!(error("quay.io/a//b"), E::Repository("a//b".into()));
        assert_eq!(error("quay.io/a-"), E::Repository("a-".into()));
        assert_eq!(error("quay.io/a___b"), E::Repository("a___b".into()));
        assert_eq!(error("quay.io/os:"), E::Tag(String::new()));
        assert_eq!(error("quay.io/os:-x"), E::Tag("-x".into()));
        assert_eq!(error("quay.io/os@sha256:12"), E::Digest("sha256:12".into()));
        assert_eq!(error("docker://me:secret@quay.io/os"), E::UserInfo);
        assert_eq!(error("https://quay.io/os"), E::WebAddress("https://"));
        assert_eq!(error("oci-archive:x.tar"), E::Transport("oci-archive".into()));
        assert_eq!(error("docker:quay.io/os"), E::Transport("docker".into()));
        assert_eq!(error("oci:"), E::NoPath);
        assert_eq!(error("oci::tag"), E::NoPath);
        assert_eq!(error("oci:dir:"), E::Tag(String::new()));
        assert_eq!(error(&format!("quay.io/{}", "a".repeat(250))), E::NameLength(258));
    }
}
