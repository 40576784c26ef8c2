//! Certificates for single registries, from the directories that container tools have for them (containers-certs.d(5)).
//!
//! ```text
//! /etc/containers/certs.d/registry.example.com:5000/
//!     ca.crt           certificate authorities (PEM), trusted besides those of the system
//!     client.cert      our certificate, which the registry asks for
//!     client.key       its key
//! ```
//!
//! Of several directories for a registry the first one that exists is used, alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// Why the certificates for a registry cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificatesError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{} has no usable {expected} in PEM form", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// "certificate" or "private key".
        expected: &'static str,
        /// What is wrong.
        #[source]
        source: PemProblem,
    },
    /// One of a pair is missing.
    #[error(
        "there is {} but not {}: a client's certificate and key come in pairs, and certificate authorities end in .crt",
        .path.display(), .missing.display()
    )]
    Pair {
        /// What is there.
        path: PathBuf,
        /// What is not.
        missing: PathBuf,
    },
    /// Certificate and key do not belong together.
    #[error("the certificate {} and its key cannot be used", .path.display())]
    Identity {
        /// The certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The certificate authorities of the system cannot be had.
    #[error("cannot load the certificate authorities of the system")]
    System(#[source] rustls::Error),
}

/// What is wrong with a file.
#[derive(Debug, Error)]
pub enum PemProblem {
    /// There is none.
    #[error("there is none in the file")]
    Empty,
    /// The form is wrong.
    #[error(transparent)]
    Pem(rustls::pki_types::pem::Error),
    /// The contents are wrong.
    #[error(transparent)]
    Certificate(rustls::Error),
}

/// Where certificates for single registries are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateDirectories(Vec<PathBuf>);

impl CertificateDirectories {
    /// Those of the system; for users other than root their own one first. What root trusts does not depend on whose
    /// environment it runs in.
    pub fn standard() -> Self {
        let user = super::registries::user_directory().map(|directory| directory.join("certs.d"));
        let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
        Self(user.into_iter().chain(system).collect())
    }

    /// These directories only.
    pub fn only(directories: Vec<PathBuf>) -> Self {
        Self(directories)
    }

    /// The directory for a registry, `host[:port]`.
    pub(super) fn find(&self, host: &str) -> Option<PathBuf> {
        self.0.iter().map(|directory| directory.join(host)).find(|directory| directory.is_dir())
    }
}

/// Our certificate for a registry that asks for one.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) path: PathBuf,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// The certificates for one registry.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) identity: Option<Arc<Identity>>,
}

impl Certificates {
    /// Reads a directory. Files with other endings are passed over.
    pub(super) fn load(directory: &Path) -> Result<Self, CertificatesError> {
        let failed = |source| CertificatesError::Read { path: directory.to_owned(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            paths.push(entry.map_err(failed)?.path());
        }
        paths.sort_unstable();
        let mut certificates = Self::default();
        for path in &paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => certificates.authorities.extend(authorities(path)?),
                Some("cert") => match &certificates.identity {
                    None => certificates.identity = Some(Arc::new(identity(path, &paths)?)),
                    Some(first) => tracing::warn!(
                        "{} is not used, only the first client certificate is: {}",
                        path.display(),
                        first.path.display()
                    ),
                },
                Some("key") => drop(counterpart(path, "cert", &paths)?),
                _ => {}
            }
        }
        Ok(certificates)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificatesError> {
    fs::read(path).map_err(|source| CertificatesError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let failed = |source| CertificatesError::Pem { path: path.to_owned(), expected: "certificate", source };
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| failed(PemProblem::Pem(error)))?;
    if certificates.is_empty() { Err(failed(PemProblem::Empty)) } else { Ok(certificates) }
}

fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let authorities = certificates(path)?;
    let mut store = RootCertStore::empty();
    for authority in &authorities {
        store.add(authority.clone()).map_err(|source| CertificatesError::Pem {
            path: path.to_owned(),
            expected: "certificate",
            source: PemProblem::Certificate(source),
        })?;
    }
    Ok(authorities)
}

fn identity(path: &Path, paths: &[PathBuf]) -> Result<Identity, CertificatesError> {
    let key_path = counterpart(path, "key", paths)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?).map_err(|error| CertificatesError::Pem {
        path: key_path,
        expected: "private key",
        source: PemProblem::Pem(error),
    })?;
    Ok(Identity { path: path.to_owned(), chain: certificates(path)?, key })
}

/// The other file of a pair.
fn counterpart(path: &Path, extension: &str, paths: &[PathBuf]) -> Result<PathBuf, CertificatesError> {
    let other = path.with_extension(extension);
    match paths.contains(&other) {
        true => Ok(other),
        false => Err(CertificatesError::Pair { path: path.to_owned(), missing: other }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<Certificates, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Certificates::load(dir.path())
            .map_err(|error| error.to_string().replace(&dir.path().display().to_string(), "DIR"))
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        let nothing = load(&[("README", "x")]).unwrap();
        assert!(nothing.authorities.is_empty() && nothing.identity.is_none());
        assert_eq!(load(&[("ca.crt", "")]).unwrap_err(), "DIR/ca.crt has no usable certificate in PEM form");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(load(&[("ca.crt", broken)]).unwrap_err(), "DIR/ca.crt has no usable certificate in PEM form");
        let error = load(&[("client.cert", broken)]).unwrap_err();
        assert!(error.starts_with("there is DIR/client.cert but not DIR/client.key:"), "{error}");
        let error = load(&[("client.key", "")]).unwrap_err();
        assert!(error.starts_with("there is DIR/client.key but not DIR/client.cert:"), "{error}");
        let error = load(&[("client.cert", broken), ("client.key", "x")]).unwrap_err();
        assert_eq!(error, "DIR/client.key has no usable private key in PEM form");
    }

    #[test]
    fn the_first_directory_decides() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(b.join("h.example:5000")).unwrap();
        let directories = CertificateDirectories::only(vec![a.clone(), b.clone()]);
        assert_eq!(directories.find("h.example:5000"), Some(b.join("h.example:5000")));
        fs::create_dir_all(a.join("h.example:5000")).unwrap();
        assert_eq!(directories.find("h.example:5000"), Some(a.join("h.example:5000")));
        assert_eq!(directories.find("h.example"), None);
    }
}
