//! What a policy and `registries.d` know an image by: a transport and, from the exact name to ever larger parts of the
//! world, scopes.
//!
//! ```text
//! docker://quay.example.com:5000/team/os:1    quay.example.com:5000/team/os:1
//!                                             quay.example.com:5000/team/os
//!                                             quay.example.com:5000/team
//!                                             quay.example.com:5000
//!                                             *.example.com
//!                                             *.com
//! oci:/srv/images/os:1                        /srv/images/os
//!                                             /srv/images
//!                                             /srv
//! ```
//!
//! The same as in containers-policy.json(5), and in that order.

use std::fs;
use std::io;
use std::path::Path;

use osupdate_core::oci::ImageArchive;

use crate::transport::reference::RegistryReference;
use crate::transport::{ImageReference, Source};

/// Transports whose scopes are paths.
const PATH_TRANSPORTS: [&str; 3] = ["oci", "dir", "oci-archive"];
/// Transports that have no scopes but the default one.
const SCOPELESS_TRANSPORTS: [&str; 2] = ["docker-archive", "tarball"];

/// The transport that an image belongs to. What an archive is, its contents may have told.
pub(super) fn transport(reference: &ImageReference, source: &Source) -> &'static str {
    match (reference, source) {
        (ImageReference::Registry(_) | ImageReference::Published(_), _) => "docker",
        (ImageReference::OciLayout(_), _) => "oci",
        (ImageReference::Directory(_), _) => "dir",
        (ImageReference::Local(reference), _) => reference.transport.name(),
        (ImageReference::Archive(_), Source::Archive(archive)) if matches!(**archive, ImageArchive::Docker(_)) => {
            "docker-archive"
        }
        (ImageReference::Archive(_), _) => "oci-archive",
    }
}

/// The scopes of an image, the most specific one first; not the default one, which is empty. `None`: it has some, which only
/// another program knows.
///
/// # Errors
/// When a file or directory does not exist.
pub(super) fn names(reference: &ImageReference, transport: &str) -> io::Result<Option<Vec<String>>> {
    if SCOPELESS_TRANSPORTS.contains(&transport) {
        return Ok(Some(Vec::new()));
    }
    let names = match reference {
        ImageReference::Registry(reference) => registry_names(reference),
        ImageReference::Published(reference) => registry_names(&reference.image),
        ImageReference::OciLayout(reference) => path_names(&reference.path)?,
        ImageReference::Archive(reference) => path_names(&reference.path)?,
        ImageReference::Directory(path) => path_names(path)?,
        ImageReference::Local(_) => return Ok(None),
    };
    Ok(Some(names))
}

/// The names of an image in a registry. A digest counts for more than a tag.
pub(super) fn registry_names(reference: &RegistryReference) -> Vec<String> {
    let repository = format!("{}/{}", reference.host, reference.repository);
    let exact = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => Some(format!("{repository}@{digest}")),
        (None, Some(tag)) => Some(format!("{repository}:{tag}")),
        (None, None) => None,
    };
    let parents =
        std::iter::successors(Some(repository.as_str()), |name| name.rsplit_once('/').map(|(parent, _)| parent));
    let host = reference.host.split_once(':').map_or(reference.host.as_str(), |(name, _)| name);
    let domains = std::iter::successors(host.split_once('.'), |(_, rest)| rest.split_once('.'));
    let wildcards = domains.map(|(_, domain)| format!("*.{domain}"));
    exact.into_iter().chain(parents.map(str::to_owned)).chain(wildcards).collect()
}

/// A path without symlinks and all directories above it, but the root.
fn path_names(path: &Path) -> io::Result<Vec<String>> {
    let path = fs::canonicalize(path)?;
    let above = path.ancestors().filter(|path| path.parent().is_some());
    Ok(above.map(|path| path.to_string_lossy().into_owned()).collect())
}

/// Checks a scope of a policy; the problem, if there is one. A scope that can match nothing is a mistake that would leave
/// an image to a wider one.
pub(super) fn problem(transport: &str, scope: &str) -> Option<&'static str> {
    if scope.is_empty() {
        return None;
    }
    if SCOPELESS_TRANSPORTS.contains(&transport) {
        return Some("this transport has no scopes but \"\"");
    }
    if !PATH_TRANSPORTS.contains(&transport) {
        return None;
    }
    if !scope.starts_with('/') {
        return Some("it is not an absolute path");
    }
    if scope == "/" {
        return Some("for all paths it is \"\"");
    }
    let parts = &mut scope[1..].split('/');
    parts.any(|part| matches!(part, "" | "." | "..")).then_some("it has empty parts, . or .. in it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        super::names(&text.parse().unwrap(), "docker").unwrap().unwrap()
    }

    #[test]
    fn names_of_a_registry_go_from_the_tag_to_the_top_level_domain() {
        assert_eq!(
            names("docker://quay.example.com:5000/team/os:1"),
            [
                "quay.example.com:5000/team/os:1",
                "quay.example.com:5000/team/os",
                "quay.example.com:5000/team",
                "quay.example.com:5000",
                "*.example.com",
                "*.com"
            ]
        );
        assert_eq!(names("localhost:5000/os"), ["localhost:5000/os:latest", "localhost:5000/os", "localhost:5000"]);
    }

    #[test]
    fn a_digest_counts_for_more_than_a_tag() {
        let hex = "0".repeat(64);
        assert_eq!(names(&format!("h.example/os:1@sha256:{hex}"))[0], format!("h.example/os@sha256:{hex}"));
    }

    #[test]
    fn names_of_a_directory_have_no_symlinks() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let names = path_names(&dir.path().join("link")).unwrap();
        assert_eq!(names[0], real.to_str().unwrap());
        assert_eq!(names[1], real.parent().unwrap().to_str().unwrap());
        assert!(!names.iter().any(|name| name == "/"));
    }

    #[test]
    fn scopes_that_match_nothing_are_refused() {
        assert_eq!(problem("oci", ""), None);
        assert_eq!(problem("oci", "/srv/images"), None);
        assert_eq!(problem("docker", "quay.io/a"), None);
        for scope in ["srv", "/", "/srv/", "/srv//a", "/srv/../a"] {
            assert!(problem("dir", scope).is_some(), "{scope}");
        }
        assert!(problem("docker-archive", "/a").is_some());
    }
}
