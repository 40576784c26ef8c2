//! One place that has an image: a repository in a registry, with its authorization, its retries and its trust.

use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::blocking::Body;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderName, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::super::reference::RegistryReference;
use super::auth::{self, Authorization, LoginFailed};
use super::cause::{Cause, Failure};
use super::clients::{ClientError, Clients, Settings};
use super::complaint::Complaint;
use super::credentials::Credentials;
use super::error::RegistryError;
use super::http::Request;
use super::registries::Place;
use super::request::{self, Change, Get, RequestError};
use super::response::Response;
use super::retry::{Retry, RetryAfter, is_transient};
use crate::exit::one_line;

/// Most of an error's body that we read.
const COMPLAINT_MAX: u64 = 64 << 10;
/// Docker Hub is called docker.io but answers here.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// What is behind a reference, and so what addresses are made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A repository in a registry.
    Registry,
    /// A published tree: files below the directory that has the name of the image.
    Tree,
}

/// A repository in a registry, or a published tree.
#[derive(Debug)]
pub(super) struct Endpoint {
    reference: RegistryReference,
    layout: Layout,
    is_mirror: bool,
    /// What it is called in addresses, with TLS and without.
    addresses: [String; 2],
    clients: Clients,
    authorization: Authorization,
    retry: Retry,
    /// Without TLS; an insecure registry may turn out to be so.
    plain: AtomicBool,
    /// The file that says that it is insecure.
    insecure: Option<PathBuf>,
    warned: Once,
}

impl Endpoint {
    pub(super) fn new(
        place: Place,
        layout: Layout,
        plain: bool,
        credentials: Option<Credentials>,
        retry: Retry,
        settings: Settings,
    ) -> Result<Self, ClientError> {
        let Place { reference, insecure, is_mirror } = place;
        let url = |scheme| {
            let url = Url::parse(&format!("{scheme}://{}/", address(&reference)));
            url.map_err(|error| ClientError::Http(Cause::of(&error)))
        };
        let (with_tls, without) = (url("https")?, url("http")?);
        let addresses = [&with_tls, &without].map(request::host);
        let registry = if plain { without } else { with_tls };
        let name = &reference.host;
        Ok(Self {
            clients: Clients::new(registry, name, insecure.is_some(), settings)?,
            authorization: Authorization::new(credentials, &reference.repository),
            reference,
            layout,
            is_mirror,
            addresses,
            retry,
            plain: AtomicBool::new(plain),
            insecure,
            warned: Once::new(),
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.reference.host
    }

    /// What the image is called here.
    pub(super) fn reference(&self) -> &RegistryReference {
        &self.reference
    }

    pub(super) fn is_mirror(&self) -> bool {
        self.is_mirror
    }

    fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Relaxed)
    }

    fn scheme(&self) -> &'static str {
        if self.is_plain() { "http" } else { "https" }
    }

    /// Asks for something until there is an answer that another attempt would not change; whatever its status, but never
    /// 401. Retries are logged.
    pub(super) fn get(&self, request: Request<'_>) -> Result<Response, RegistryError> {
        self.until_answered(self.retry.attempts, request.what, &|authorization| {
            self.send(Method::GET, request, authorization)
        })
    }

    /// The same, only for the head of the answer.
    pub(super) fn head(&self, request: Request<'_>) -> Result<Response, RegistryError> {
        self.until_answered(self.retry.attempts, request.what, &|authorization| {
            self.send(Method::HEAD, request, authorization)
        })
    }

    /// Sends a request that changes something.
    pub(super) fn change(&self, change: &Call<'_>) -> Result<Response, RegistryError> {
        // Of what has a large body, half may have arrived.
        let attempts = if change.timeout.is_some() { 1 } else { self.retry.attempts };
        self.until_answered(attempts, change.what, &|authorization| {
            let url = match change.address {
                Address::Path(path) => self.url(path)?,
                Address::Url(url) => url.clone(),
            };
            let authorization = authorization.filter(|_| self.is_own(&request::host(&url)));
            let (method, headers, timeout) = (change.method.clone(), change.headers, change.timeout);
            let body = (change.body)();
            let stays = "what is pushed is not sent on";
            request::change(&self.clients, Change { method, url, headers, authorization, body, timeout, stays })
        })
    }

    /// The address that an answer names for what comes next.
    pub(super) fn next(&self, response: &Response, what: &str) -> Result<Url, RegistryError> {
        request::location(response.headers(), response.url(), self.insecure.is_some())
            .map_err(|problem| RegistryError::Redirect { host: self.host().to_owned(), what: what.to_owned(), problem })
    }

    fn until_answered(&self, attempts: u32, what: &str, send: Send<'_>) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        loop {
            let last = attempt >= attempts;
            let plain = self.is_plain();
            let (problem, wait) = match self.authorized(what, send) {
                Ok(response) if is_transient(response.status()) && !last => {
                    let wait = match RetryAfter::of(response.headers(), SystemTime::now()) {
                        RetryAfter::Unsaid => None,
                        RetryAfter::Wait(wait) => Some(wait),
                        RetryAfter::TooLong(wait) => {
                            let message = format!("it asks to come back in {} seconds", wait.as_secs());
                            let (host, what) = (self.host().to_owned(), what.to_owned());
                            return Err(RegistryError::Status { host, status: response.status(), what, message });
                        }
                    };
                    (format!("it answered {}", response.status()), wait)
                }
                Ok(response) => return Ok(response),
                Err(RequestFailed::Transient(error)) if !last => (one_line(&error), None),
                Err(RequestFailed::Transient(error) | RequestFailed::Final(error)) => return Err(error),
                Err(RequestFailed::Http { host, error }) => match Failure::of(&error) {
                    failure if !plain && self.becomes_plain(&host, failure) => continue,
                    Failure::Transient if !last => (Cause::of(&error).to_string(), None),
                    _ => return Err(self.failed(&host, &error, what)),
                },
            };
            tracing::warn!("server {}: {problem} for {what}, trying again", self.host());
            attempt += 1;
            self.retry.wait(attempt, wait);
        }
    }

    /// Speaks HTTP with an insecure registry from now on, if a failure of HTTPS is reason to.
    fn becomes_plain(&self, host: &str, failure: Failure) -> bool {
        let speaks_no_tls = match failure {
            Failure::NotTls => true,
            // HTTPS and HTTP have different ports.
            Failure::Unreachable => !has_port(self.host()),
            _ => false,
        };
        let plain = self.insecure.is_some() && speaks_no_tls && self.is_own(host);
        if plain && !self.plain.swap(true, Ordering::Relaxed) {
            tracing::warn!("server {} does not speak TLS, using HTTP", self.host());
        }
        plain
    }

    /// Sends the request once; with a new authorization again if the registry wants one.
    fn authorized(&self, what: &str, send: Send<'_>) -> Result<Response, RequestFailed> {
        self.warn_if_insecure();
        // The second challenge is for a token that expired, the third cannot be answered.
        for _ in 0..3 {
            let header = self.authorization.header();
            let response = match send(header.as_ref()) {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED => response,
                Ok(response) => {
                    self.clients.answered();
                    return Ok(response);
                }
                Err(RequestError::Http { host, error }) => return Err(RequestFailed::Http { host, error }),
                Err(RequestError::Redirect { host, problem }) => {
                    let what = what.to_owned();
                    return Err(RequestFailed::Final(RegistryError::Redirect { host, what, problem }));
                }
                Err(RequestError::Client(error)) => return Err(RequestFailed::Final(error.into())),
            };
            self.clients.answered();
            // Whoever we were redirected to may not ask for the registry's credentials.
            let from = request::host(response.url());
            if !self.is_own(&from) {
                let (host, what) = (self.host().to_owned(), what.to_owned());
                let problem = format!("{from}, where it redirects to, asks for a login, which is for {host} alone");
                return Err(RequestFailed::Final(RegistryError::Redirect { host, what, problem }));
            }
            let next = self.authorization.answer(&self.clients, self.is_plain(), response.headers(), header.as_ref());
            let next = next.map_err(|LoginFailed { error: source, is_transient }| {
                let (host, image) = (self.host().to_owned(), self.reference.to_string());
                let error = RegistryError::Auth { host, image, source };
                if is_transient { RequestFailed::Transient(error) } else { RequestFailed::Final(error) }
            })?;
            if next == auth::Answer::GiveUp {
                return Err(RequestFailed::Final(self.denied(response)));
            }
        }
        Err(RequestFailed::Final(RegistryError::Denied {
            host: self.host().to_owned(),
            image: self.reference.to_string(),
            had_credentials: self.authorization.has_credentials(),
            message: "it does not accept the token that it gave".to_owned(),
        }))
    }

    /// The address of something in the repository or tree.
    fn url(&self, path: &str) -> Result<Url, RequestError> {
        let (address, repository) = (address(&self.reference), &self.reference.repository);
        let scheme = self.scheme();
        let url = match (self.layout, repository.rsplit_once('/')) {
            (Layout::Registry, _) => format!("{scheme}://{address}/v2/{repository}/{path}"),
            (Layout::Tree, Some((directory, _))) => format!("{scheme}://{address}/{directory}/{path}"),
            (Layout::Tree, None) => format!("{scheme}://{address}/{path}"),
        };
        Url::parse(&url).map_err(|error| RequestError::Client(ClientError::Http(Cause::of(&error))))
    }

    fn send(
        &self,
        method: Method,
        request: Request<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RequestError> {
        let url = self.url(request.path)?;
        // Digests are of the bytes as they are stored.
        let mut headers = vec![(ACCEPT_ENCODING, HeaderValue::from_static("identity"))];
        if let Some(accept) = request.accept.and_then(|accept| HeaderValue::try_from(accept).ok()) {
            headers.push((ACCEPT, accept));
        }
        if request.from_byte > 0 {
            let range = format!("bytes={}-", request.from_byte);
            headers.extend(HeaderValue::try_from(range).ok().map(|range| (RANGE, range)));
        }
        let may_leave_tls = self.insecure.is_some();
        request::get(&self.clients, Get { method, url, headers: &headers, authorization, may_leave_tls })
    }

    /// Whether this is the registry, and not one that it sent us to.
    fn is_own(&self, host: &str) -> bool {
        self.addresses.iter().any(|own| own == host)
    }

    fn warn_if_insecure(&self) {
        if let Some(file) = &self.insecure {
            let warn = || {
                tracing::warn!(
                    "registry {} is not verified, as {} has insecure = true: anybody on the way can put another image in \
                     the place of the one that is asked for",
                    self.host(),
                    file.display()
                );
            };
            self.warned.call_once(warn);
        }
    }

    fn denied(&self, response: Response) -> RegistryError {
        RegistryError::Denied {
            host: self.host().to_owned(),
            image: self.reference.to_string(),
            had_credentials: self.authorization.has_credentials(),
            message: Complaint::parse(&body(response)).message,
        }
    }

    /// A host and what was asked for, for people: whoever we were redirected to is not the registry that they know.
    fn named(&self, host: &str, what: &str) -> (String, String) {
        match self.is_own(host) {
            true => (self.host().to_owned(), what.to_owned()),
            false => (host.to_owned(), format!("{what} (redirected there by {})", self.host())),
        }
    }

    /// The error for a failed request to `host`.
    fn failed(&self, host: &str, error: &reqwest::Error, what: &str) -> RegistryError {
        tracing::debug!("{what}: {error:?}");
        let unwelcome = self.is_own(host) && self.clients.wants_certificate();
        let ((host, what), source) = (self.named(host, what), Cause::of(error));
        let unreachable = |host, what, source| {
            let proxy = self.clients.proxy(self.scheme());
            RegistryError::Unreachable { host, what, proxy, source }
        };
        match Failure::of(error) {
            Failure::Unreachable => unreachable(host, what, source),
            Failure::NotTls => RegistryError::NotTls { host, what, source },
            Failure::Certificate => RegistryError::Certificate { host, what, source },
            Failure::ClientCertificate => RegistryError::ClientCertificate { host, what, source },
            Failure::Transient if unwelcome => RegistryError::ClientCertificate { host, what, source },
            Failure::Transient if error.is_connect() => unreachable(host, what, source),
            Failure::Transient => RegistryError::Connection { host, what, source },
        }
    }

    /// The error for an answer that is not what was asked for.
    pub(super) fn refused(&self, response: Response, what: &str) -> RegistryError {
        let (status, from) = (response.status(), request::host(response.url()));
        if status == StatusCode::FORBIDDEN && self.is_own(&from) {
            return self.denied(response);
        }
        let is_registry = self.layout == Layout::Tree
            || response.headers().contains_key("docker-distribution-api-version")
            || !self.is_own(&from);
        let (host, what) = self.named(&from, what);
        let body = body(response);
        if self.is_plain() && status == StatusCode::BAD_REQUEST && String::from_utf8_lossy(&body).contains("HTTPS") {
            return RegistryError::NotPlain { host, what };
        }
        let complaint = Complaint::parse(&body);
        match status {
            StatusCode::NOT_FOUND if is_registry || complaint.is_registry => RegistryError::NotFound { host, what },
            _ if status.is_client_error() && !is_registry && !complaint.is_registry => {
                RegistryError::NotARegistry { host, status, what }
            }
            _ => RegistryError::Status { host, status, what, message: complaint.message },
        }
    }
}

/// Sends a request once, with an authorization.
type Send<'a> = &'a dyn Fn(Option<&HeaderValue>) -> Result<Response, RequestError>;

/// One request that changes something.
#[allow(missing_debug_implementations, reason = "bodies have nothing to show")]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) address: Address<'a>,
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    /// Makes the body, for each attempt.
    pub(super) body: &'a dyn Fn() -> Body,
    /// For large bodies: until they are sent.
    pub(super) timeout: Option<Duration>,
    /// What it is, for people.
    pub(super) what: &'a str,
}

/// Where a request goes.
pub(super) enum Address<'a> {
    /// Below `/v2/<repository>/`.
    Path(&'a str),
    /// Where the registry has sent us.
    Url(&'a Url),
}

/// Why a request has no answer.
enum RequestFailed {
    /// Perhaps another attempt has one.
    Http { host: String, error: reqwest::Error },
    /// The same, of a login.
    Transient(RegistryError),
    /// That is it.
    Final(RegistryError),
}

/// Where the registry of a reference answers.
fn address(reference: &RegistryReference) -> &str {
    if reference.host == "docker.io" { DOCKER_HUB_API } else { &reference.host }
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'))
}

/// What an error says, as far as it is read.
fn body(response: Response) -> Vec<u8> {
    response.into_document(COMPLAINT_MAX).ok().flatten().unwrap_or_default()
}
