//! Requests for one image, to all the places that have it.
//!
//! The places are asked in the order of `registries.conf`; once one of them has answered, it is asked first. What is
//! fetched is named by digests, so that it does not matter for its contents who delivered it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::reference::RegistryReference;
use super::RegistryOptions;
use super::clients::Settings;
use super::endpoint::{Endpoint, Layout};
use super::error::RegistryError;
use super::proxy::Proxies;
use super::registries::Place;
use super::response::Patience;
use super::retry::Retry;
use crate::exit::one_line;

/// Attempts for a place if there is another one.
const MIRROR_ATTEMPTS: u32 = 2;

/// All places that have an image.
#[derive(Debug)]
pub(super) struct Http {
    image: String,
    /// Never empty. The last one is no mirror.
    endpoints: Vec<Endpoint>,
    /// Which of them answered.
    preferred: AtomicUsize,
    /// Those that are asked only after all others.
    avoided: Vec<AtomicBool>,
    /// Who sent which blob, by its path, where more than one can.
    deliveries: Mutex<HashMap<String, Delivery>>,
    /// Whether there is more to tell than the image's name does.
    configured: bool,
    pub(super) retry: Retry,
}

/// Who sent a blob.
#[derive(Debug, Default)]
struct Delivery {
    /// Registries that have sent a part of it since its first byte was asked for.
    hosts: Vec<String>,
    /// How often it was wrong.
    wrong: usize,
}

/// One GET request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// Path below the repository, or the tree.
    pub(super) path: &'a str,
    /// Media types that we understand.
    pub(super) accept: Option<&'a str>,
    /// First byte that we want.
    pub(super) from_byte: u64,
    /// What it is, for people.
    pub(super) what: &'a str,
}

impl Http {
    /// For an image in a registry.
    pub(super) fn new(reference: &RegistryReference, options: &RegistryOptions) -> Result<Self, RegistryError> {
        Self::with_layout(reference, Layout::Registry, options)
    }

    /// For an image in a published tree.
    pub(super) fn of_tree(reference: &RegistryReference, options: &RegistryOptions) -> Result<Self, RegistryError> {
        Self::with_layout(reference, Layout::Tree, options)
    }

    fn with_layout(
        reference: &RegistryReference,
        layout: Layout,
        options: &RegistryOptions,
    ) -> Result<Self, RegistryError> {
        let image = reference.to_string();
        let failed = |source| RegistryError::Registries { image: image.clone(), source };
        let registries = options.registries.load().map_err(failed)?;
        let places = registries.places(reference).map_err(failed)?;
        let settings = Settings {
            connect_timeout: options.connect_timeout,
            patience: Patience { idle: options.idle_timeout, document: options.document_timeout },
            proxies: Proxies::from_environment()?,
            directories: options.certificates.clone(),
        };
        let configured = places.len() > 1 || places.iter().any(|place| place.reference != *reference);
        let open = |place: Place| -> Result<Endpoint, RegistryError> {
            let at = &place.reference;
            let credentials = options
                .auth_files
                .find(at, &registries.credential_helpers, Path::new("registries.conf"))
                .map_err(|source| RegistryError::Credentials { image: at.to_string(), source })?;
            // What the user allows for the registry that he names is not allowed for others.
            let plain = options.plain_http && at.host == reference.host;
            let attempts = if place.is_mirror { MIRROR_ATTEMPTS } else { options.retry.attempts };
            let retry = Retry { attempts: attempts.min(options.retry.attempts), ..options.retry.clone() };
            Ok(Endpoint::new(place, layout, plain, credentials, retry, settings.clone())?)
        };
        let mut endpoints = Vec::with_capacity(places.len());
        for place in places {
            let mirror = place.is_mirror.then(|| place.reference.to_string());
            match (open(place), mirror) {
                (Ok(endpoint), _) => endpoints.push(endpoint),
                (Err(error), Some(mirror)) => {
                    tracing::warn!("{}, not using the mirror {mirror}", one_line(&error));
                }
                (Err(error), None) => return Err(error),
            }
        }
        let avoided = endpoints.iter().map(|_| AtomicBool::new(false)).collect();
        let (preferred, deliveries, retry) = (AtomicUsize::new(0), Mutex::default(), options.retry.clone());
        Ok(Self { image, endpoints, preferred, avoided, deliveries, configured, retry })
    }

    /// The registry itself.
    pub(super) fn registry(&self) -> Option<&Endpoint> {
        self.endpoints.last()
    }

    /// Whether somebody else than the registry itself may deliver.
    pub(super) fn has_mirrors(&self) -> bool {
        self.endpoints.len() > 1
    }

    /// Asks all other places first from now on.
    pub(super) fn avoid(&self, host: &str) {
        let places = || self.endpoints.iter().zip(&self.avoided);
        for (endpoint, avoided) in places() {
            if endpoint.host() == host {
                avoided.store(true, Ordering::Relaxed);
            }
        }
        if places().all(|(_, avoided)| avoided.load(Ordering::Relaxed)) {
            for (endpoint, avoided) in places() {
                avoided.store(endpoint.host() == host, Ordering::Relaxed);
            }
        }
    }

    /// Remembers who sends a blob from a byte on.
    pub(super) fn sends(&self, path: &str, position: u64, host: &str) {
        if !self.has_mirrors() {
            return;
        }
        let mut deliveries = self.deliveries();
        let hosts = &mut deliveries.entry(path.to_owned()).or_default().hosts;
        if position == 0 {
            hosts.clear();
        }
        if !hosts.iter().any(|known| known == host) {
            hosts.push(host.to_owned());
        }
    }

    /// Avoids the one that sent a blob that is wrong. Whether somebody else may have the right one: as often as there are other
    /// places.
    pub(super) fn blame(&self, path: &str, what: &str) -> bool {
        let mut deliveries = self.deliveries();
        let Some(delivery) = deliveries.get_mut(path) else { return false };
        delivery.wrong += 1;
        let others = delivery.wrong < self.endpoints.len();
        let next = if others { ", trying another place" } else { "" };
        tracing::warn!("what server {} sends as {what} has another digest{next}", delivery.hosts.join(" and "));
        // If there were several, nobody knows which of them it was.
        if let [host] = &delivery.hosts[..] {
            self.avoid(host);
        }
        others
    }

    fn deliveries(&self) -> MutexGuard<'_, HashMap<String, Delivery>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with each place until it succeeds. Failures are logged if there is another place, and are all in the
    /// error if there is none left.
    pub(super) fn try_each<T>(
        &self,
        what: &str,
        action: impl Fn(&Endpoint) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let others = (0..self.endpoints.len()).filter(|&i| i != preferred);
        let mut order: Vec<usize> = [preferred].into_iter().chain(others).collect();
        order.sort_by_key(|&i| self.avoided[i].load(Ordering::Relaxed));
        let mut failures = Vec::new();
        for (n, &i) in order.iter().enumerate() {
            let endpoint = &self.endpoints[i];
            match action(endpoint) {
                Ok(done) => {
                    self.preferred.store(i, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(error) if !self.configured => return Err(error),
                Err(error) => {
                    if let Some(&next) = order.get(n + 1) {
                        let next = place(&self.endpoints[next]);
                        tracing::warn!("{}, trying {next} instead", one_line(&error));
                    }
                    failures.push((place(endpoint), error));
                }
            }
        }
        Err(RegistryError::Places { image: self.image.clone(), what: what.to_owned(), failures })
    }
}

/// A place for people.
fn place(endpoint: &Endpoint) -> String {
    let kind = if endpoint.is_mirror() { " (mirror)" } else { "" };
    format!("{}/{}{kind}", endpoint.host(), endpoint.reference().repository)
}
