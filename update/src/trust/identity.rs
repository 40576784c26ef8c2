//! What an image was signed as, and whether that is what is being pulled.

use std::fmt;

use osupdate_core::oci::ContentDigest;

use crate::transport::ImageReference;
use crate::transport::reference::{RegistryReference, is_host, is_name_part};

/// The host that names without one belong to.
const DOCKER_HUB: &str = "docker.io";
/// Another name of it.
const DOCKER_HUB_INDEX: &str = "index.docker.io/";

/// A reference in a signature or a policy. Unlike one that is pulled, it may have neither tag nor digest, and may leave out
/// Docker Hub's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// `host[:port]/path`, written out.
    pub(super) repository: String,
    tag: Option<String>,
    digest: Option<ContentDigest>,
}

impl Name {
    /// `None` if the text is no reference.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let names_host = text.split_once('/').is_some_and(|(host, _)| {
            host.contains(['.', ':']) || host == "localhost" || host.contains(char::is_uppercase)
        });
        let full = match text.strip_prefix(DOCKER_HUB_INDEX) {
            Some(path) => format!("{DOCKER_HUB}/{path}"),
            None if names_host => text.to_owned(),
            None => format!("{DOCKER_HUB}/{text}"),
        };
        let (_, path) = full.split_once('/')?;
        let name_only = !path.contains([':', '@']);
        let mut reference: RegistryReference = full.parse().ok()?;
        if name_only {
            reference.tag = None;
        }
        Some(Self {
            repository: format!("{}/{}", reference.host, reference.repository),
            tag: reference.tag,
            digest: reference.digest,
        })
    }

    /// The name of an image; only those in registries have one that can be signed.
    fn of(reference: &ImageReference) -> Option<Self> {
        match reference {
            ImageReference::Registry(reference) => Some(Self::pulled(reference)),
            ImageReference::Published(reference) => Some(Self::pulled(&reference.image)),
            ImageReference::OciLayout(_)
            | ImageReference::Archive(_)
            | ImageReference::Directory(_)
            | ImageReference::Local(_) => None,
        }
    }

    /// What is pulled. A tag beside a digest says nothing: the digest decides.
    fn pulled(reference: &RegistryReference) -> Self {
        let tag = if reference.digest.is_some() { None } else { reference.tag.clone() };
        Self { repository: format!("{}/{}", reference.host, reference.repository), tag, digest: reference.digest }
    }

    pub(super) fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Which identities in signatures a requirement accepts: `signedIdentity` in containers-policy.json(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SignedIdentity {
    /// That of the image as it is pulled.
    MatchExact,
    /// The same; for an image that is pulled by digest, any tag of its repository.
    MatchRepoDigestOrExact,
    /// Any of the repository that is pulled from.
    MatchRepository,
    /// This one.
    ExactReference(Name),
    /// Any of this repository, `host[:port]/path`.
    ExactRepository(String),
    /// As [`Self::MatchRepoDigestOrExact`], with the beginning of the repository's name replaced.
    RemapIdentity {
        /// What the name must begin with to be changed.
        prefix: String,
        /// What is put there.
        signed_prefix: String,
    },
}

impl SignedIdentity {
    /// Whether an image that was signed as `signed` may be pulled as `reference`.
    pub(super) fn accepts(&self, reference: &ImageReference, signed: &Name) -> bool {
        let pulled = Name::of(reference);
        match (self, pulled) {
            (Self::ExactReference(wanted), _) => !signed.is_name_only() && signed == wanted,
            (Self::ExactRepository(repository), _) => signed.repository == *repository,
            // What has no name of its own cannot match one.
            (_, None) => false,
            (Self::MatchExact, Some(pulled)) => !signed.is_name_only() && *signed == pulled,
            (Self::MatchRepoDigestOrExact, Some(pulled)) => digest_or_exact(&pulled, signed),
            (Self::MatchRepository, Some(pulled)) => signed.repository == pulled.repository,
            (Self::RemapIdentity { prefix, signed_prefix }, Some(mut pulled)) => {
                if let Some(rest) = pulled.repository.strip_prefix(prefix.as_str())
                    && (rest.is_empty() || rest.starts_with('/'))
                {
                    pulled.repository = format!("{signed_prefix}{rest}");
                }
                digest_or_exact(&pulled, signed)
            }
        }
    }

    /// What would be accepted, for people.
    pub(super) fn describe(&self, reference: &ImageReference) -> String {
        let pulled = Name::of(reference);
        match (self, pulled) {
            (Self::ExactReference(name), _) => name.to_string(),
            (Self::ExactRepository(repository), _) => format!("anything of {repository}"),
            (_, None) => {
                "nothing: only images in registries have a name that is signed (use exactReference or exactRepository)"
                    .to_owned()
            }
            (Self::MatchRepository, Some(pulled)) => format!("anything of {}", pulled.repository),
            (Self::MatchExact, Some(pulled)) => pulled.to_string(),
            (Self::MatchRepoDigestOrExact, Some(pulled)) => describe_digest_or_exact(&pulled),
            (Self::RemapIdentity { prefix, signed_prefix }, Some(mut pulled)) => {
                if let Some(rest) = pulled.repository.strip_prefix(prefix.as_str())
                    && (rest.is_empty() || rest.starts_with('/'))
                {
                    pulled.repository = format!("{signed_prefix}{rest}");
                }
                describe_digest_or_exact(&pulled)
            }
        }
    }
}

fn digest_or_exact(pulled: &Name, signed: &Name) -> bool {
    if signed.is_name_only() {
        return false;
    }
    // That the digest is the signed one is checked by itself.
    if pulled.digest.is_some() { signed.repository == pulled.repository } else { signed == pulled }
}

fn describe_digest_or_exact(pulled: &Name) -> String {
    if pulled.digest.is_some() { format!("any tag of {}", pulled.repository) } else { pulled.to_string() }
}

/// Whether a text can be a `prefix` or `signedPrefix`: a host, or the beginning of a repository's name.
pub(super) fn is_prefix(text: &str) -> bool {
    let mut parts = text.split('/');
    parts.next().is_some_and(is_host) && parts.all(is_name_part)
}

#[cfg(test)]
mod tests {
    use super::SignedIdentity as I;
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn accepts(identity: &I, pulled: &str, signed: &str) -> bool {
        identity.accepts(&pulled.parse().unwrap(), &Name::parse(signed).unwrap())
    }

    #[test]
    fn names_are_written_out() {
        let parse = |text| Name::parse(text).map(|name| name.to_string());
        assert_eq!(parse("busybox").as_deref(), Some("docker.io/library/busybox"));
        assert_eq!(parse("me/os:1").as_deref(), Some("docker.io/me/os:1"));
        assert_eq!(parse("index.docker.io/me/os").as_deref(), Some("docker.io/me/os"));
        assert_eq!(parse("quay.io/os").as_deref(), Some("quay.io/os"));
        assert_eq!(parse("h:5000/os:1").as_deref(), Some("h:5000/os:1"));
        let both = format!("h:5000/os:1@sha256:{HEX}");
        assert_eq!(parse(&both).as_deref(), Some(&*both));
        for text in ["", "/", "h.example/", "h.example/UP", "h.example/os:", "h.example/os@sha256:1", "a b"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn by_default_tags_must_be_the_same_and_digests_only_have_a_repository() {
        let identity = I::MatchRepoDigestOrExact;
        assert!(accepts(&identity, "h.example/os:1", "h.example/os:1"));
        assert!(accepts(&identity, "h.example/os", "h.example/os:latest"));
        assert!(!accepts(&identity, "h.example/os:1", "h.example/os:2"));
        assert!(!accepts(&identity, "h.example/os:1", "h.example/os"));
        assert!(!accepts(&identity, "h.example/os:1", "h.example/other:1"));
        let by_digest = format!("h.example/os@sha256:{HEX}");
        assert!(accepts(&identity, &by_digest, "h.example/os:1"));
        assert!(!accepts(&identity, &by_digest, "h.example/os"));
        assert!(!accepts(&identity, &by_digest, "h.example/os2:1"));
        // The tag beside a digest says nothing.
        assert!(accepts(&identity, &format!("h.example/os:9@sha256:{HEX}"), "h.example/os:1"));
        assert!(!accepts(&identity, "oci:/srv/os:1", "h.example/os:1"));
    }

    #[test]
    fn other_forms_accept_what_they_say() {
        assert!(accepts(&I::MatchExact, "h.example/os:1", "h.example/os:1"));
        assert!(!accepts(&I::MatchExact, &format!("h.example/os@sha256:{HEX}"), "h.example/os:1"));
        assert!(accepts(&I::MatchRepository, "h.example/os:1", "h.example/os"));
        assert!(!accepts(&I::MatchRepository, "h.example/os:1", "h.example/os/x:1"));
        let exact = I::ExactReference(Name::parse("vendor.example/os:1").unwrap());
        assert!(accepts(&exact, "h.example/os:5", "vendor.example/os:1"));
        assert!(accepts(&exact, "oci:/srv/os", "vendor.example/os:1"));
        assert!(!accepts(&exact, "h.example/os:5", "vendor.example/os:2"));
        let repository = I::ExactRepository("vendor.example/os".to_owned());
        assert!(accepts(&repository, "oci:/srv/os", "vendor.example/os:7"));
        assert!(accepts(&repository, "h.example/os:5", "vendor.example/os"));
        assert!(!accepts(&repository, "h.example/os:5", "h.example/os:5"));
    }

    #[test]
    fn remapping_changes_whole_parts_only() {
        let remap =
            |prefix: &str, signed: &str| I::RemapIdentity { prefix: prefix.into(), signed_prefix: signed.into() };
        let hosts = remap("mirror:5000", "vendor.example");
        assert!(accepts(&hosts, "mirror:5000/a/os:1", "vendor.example/a/os:1"));
        assert!(!accepts(&hosts, "mirror:5000/a/os:1", "vendor.example/a/os:2"));
        assert!(!accepts(&hosts, "mirror:5000/a/os:1", "mirror:5000/a/os:1"));
        assert!(accepts(&hosts, "other:5000/a/os:1", "other:5000/a/os:1"));
        let namespaces = remap("mirror:5000/vendor", "vendor.example/public");
        assert!(accepts(&namespaces, "mirror:5000/vendor/os:1", "vendor.example/public/os:1"));
        assert!(!accepts(&namespaces, "mirror:5000/vendors/os:1", "vendor.example/publics/os:1"));
        assert!(accepts(&namespaces, "mirror:5000/vendors/os:1", "mirror:5000/vendors/os:1"));
    }

    #[test]
    fn prefixes_have_no_tags() {
        for text in ["h.example", "h:5000", "h.example/a/b", "localhost"] {
            assert!(is_prefix(text), "{text}");
        }
        for text in ["", "/", "h.example/", "h.example/a:1", "h.example/A", "h.example/a@sha256:1", "-h"] {
            assert!(!is_prefix(text), "{text}");
        }
    }
}
