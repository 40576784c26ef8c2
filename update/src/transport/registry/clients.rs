//! The HTTP clients for one registry, and for those that it sends us to.
//!
//! The registry's own settings (no verification, our certificate) are for it alone; whoever else we are sent to is
//! verified, and is not shown our certificate. The registry's certificate authorities are trusted for them, too: where a
//! registry has a private authority, so have its token service and its storage.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use reqwest::blocking::Client;
use reqwest::redirect::Policy;
use thiserror::Error;

use super::cause::Cause;
use super::certificates::{CertificateDirectories, Certificates, CertificatesError};
use super::proxy::Proxies;
use super::request;
use super::response::Patience;
use super::tls::{self, Trust};

/// Why there is no HTTP client.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Certificates cannot be used.
    #[error("cannot use the certificates for {host}")]
    Certificates {
        /// The host.
        host: String,
        /// Why.
        #[source]
        source: CertificatesError,
    },
    /// The HTTP library says no.
    #[error("cannot set up the HTTP client")]
    Http(#[source] Cause),
}

/// What all clients have in common.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) connect_timeout: Duration,
    pub(super) patience: Patience,
    pub(super) proxies: Proxies,
    pub(super) directories: CertificateDirectories,
}

/// What a client is for.
#[derive(Debug, PartialEq, Eq)]
enum Purpose {
    /// The registry itself.
    Registry,
    /// Another port of a registry whose certificate is not verified.
    SameHost,
    /// A host with certificates of its own, in this directory.
    Known(PathBuf),
    /// Anybody else.
    Other,
}

/// Clients, made as they are needed. There are only as many as there are directories with certificates, and three.
#[derive(Debug)]
pub(super) struct Clients {
    /// The registry's address, with `http` if it is never spoken to by TLS.
    registry: Url,
    insecure: bool,
    certificates: Certificates,
    settings: Settings,
    made: Mutex<Vec<(Purpose, Client)>>,
    /// The registry has asked for a certificate of ours.
    asked: Arc<AtomicBool>,
    /// It has answered a request.
    answered: AtomicBool,
}

impl Clients {
    /// For a registry at an address; `name` is what its directory of certificates is called.
    pub(super) fn new(registry: Url, name: &str, insecure: bool, settings: Settings) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Certificates { host: name.to_owned(), source };
        let certificates = match settings.directories.find(name) {
            Some(directory) if registry.scheme() == "https" => Certificates::load(&directory).map_err(failed)?,
            _ => Certificates::default(),
        };
        let (made, asked, answered) = (Mutex::default(), Arc::default(), AtomicBool::new(false));
        Ok(Self { registry, insecure, certificates, settings, made, asked, answered })
    }

    /// Remembers that the registry has answered.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Whether the registry has asked for a certificate of ours and not answered anything since. It ends the connection then if it is not
    /// content, after we have begun to speak, so that its reason may get lost.
    pub(super) fn wants_certificate(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && !self.answered.load(Ordering::Relaxed)
    }

    pub(super) fn patience(&self) -> Patience {
        self.settings.patience
    }

    /// The proxy that is used for most addresses with this scheme, for people.
    pub(super) fn proxy(&self, scheme: &str) -> Option<String> {
        self.settings.proxies.describe(scheme)
    }

    /// The client for an address.
    pub(super) fn for_url(&self, url: &Url) -> Result<Client, ClientError> {
        let purpose = self.purpose(url);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = made.iter().find(|(other, _)| *other == purpose) {
            return Ok(client.clone());
        }
        let client = self.make(&purpose, url)?;
        made.push((purpose, client.clone()));
        Ok(client)
    }

    fn purpose(&self, url: &Url) -> Purpose {
        let same_host = url.host() == self.registry.host();
        // An insecure registry may turn out to speak HTTP, at the same port or at that of HTTP.
        let same_scheme = url.scheme() == self.registry.scheme() || self.insecure;
        if same_host && same_scheme && url.port() == self.registry.port() {
            Purpose::Registry
        } else if same_host && self.insecure {
            Purpose::SameHost
        } else if let Some(directory) = self.settings.directories.find(&request::host(url)) {
            Purpose::Known(directory)
        } else {
            Purpose::Other
        }
    }

    fn make(&self, purpose: &Purpose, url: &Url) -> Result<Client, ClientError> {
        let failed = |source| ClientError::Certificates { host: request::host(url), source };
        let own = &self.certificates;
        let config = match purpose {
            Purpose::Registry if self.registry.scheme() == "http" => tls::config(Trust::Nobody, None),
            Purpose::Registry if self.insecure => tls::config(Trust::Anybody, own.identity.as_deref()),
            Purpose::Registry => tls::config(Trust::Authorities(&own.authorities), own.identity.as_deref()),
            Purpose::SameHost => tls::config(Trust::Anybody, None),
            Purpose::Known(directory) => Certificates::load(directory).and_then(|mut certificates| {
                certificates.authorities.extend_from_slice(&own.authorities);
                tls::config(Trust::Authorities(&certificates.authorities), certificates.identity.as_deref())
            }),
            Purpose::Other => tls::config(Trust::Authorities(&own.authorities), None),
        };
        let mut config = config.map_err(failed)?;
        if *purpose == Purpose::Registry {
            tls::note_requests(&mut config, self.asked.clone());
        }
        let client = Client::builder()
            .tls_backend_preconfigured(config)
            .user_agent(concat!("osupdate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.settings.connect_timeout)
            // For the blocking client: until the head of the answer, then for each read.
            .timeout(self.settings.patience.idle)
            .redirect(Policy::none());
        let client = self.settings.proxies.apply(client).and_then(|client| client.build());
        client.map_err(|error| ClientError::Http(Cause::of(&error)))
    }
}
