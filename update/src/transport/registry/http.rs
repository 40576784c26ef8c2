//! Requests to one registry: authorization, redirects, time-outs, retries.

use std::thread;
use std::time::Duration;

use reqwest::blocking::{Client, Response};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, RANGE, RETRY_AFTER};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{StatusCode, Url};

use super::super::reference::RegistryReference;
use super::auth::{Answer, Authorization};
use super::error::{Cause, Complaint, Failure, RegistryError};
use super::{RegistryOptions, read_limited};

/// Longest wait that a registry can ask us for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Longest wait of our own between two attempts.
const DELAY_MAX: Duration = Duration::from_secs(30);
/// Most of an error's body that we read.
const COMPLAINT_MAX: u64 = 64 << 10;
const REDIRECTS_MAX: usize = 10;
/// Docker Hub is called docker.io but answers here.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// How often and how patiently a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts for one answer, the first included; for a blob also the times it may break and be continued.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles for each further one.
    pub first_delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, first_delay: Duration::from_millis(500) }
    }
}

impl Retry {
    /// Waits before attempt `next` (2 is the second).
    pub(super) fn wait(&self, next: u32, asked: Option<Duration>) {
        let own = self.first_delay.saturating_mul(1 << (next.saturating_sub(2)).min(16)).min(DELAY_MAX);
        thread::sleep(asked.map_or(own, |asked| asked.min(RETRY_AFTER_MAX)));
    }
}

/// A connection to the repository of one image.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    base: String,
    host: String,
    image: String,
    plain_http: bool,
    authorization: Authorization,
    pub(super) retry: Retry,
}

/// One GET request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// Path below `/v2/<repository>/`.
    pub(super) path: &'a str,
    /// Media types that we understand.
    pub(super) accept: Option<&'a str>,
    /// First byte that we want.
    pub(super) from_byte: u64,
    /// What it is, for people.
    pub(super) what: &'a str,
}

impl Http {
    pub(super) fn new(reference: &RegistryReference, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let credentials = options
            .auth_files
            .find(reference)
            .map_err(|source| RegistryError::Credentials { image: reference.to_string(), source })?;
        let client = Client::builder()
            .user_agent(concat!("osupdate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            // For the blocking client: until the head of the answer, then for each read.
            .timeout(options.idle_timeout)
            .redirect(Policy::custom(check_redirect))
            .build()
            .map_err(|error| RegistryError::Client(Cause::of(&error)))?;
        let scheme = if options.plain_http { "http" } else { "https" };
        let address = if reference.host == "docker.io" { DOCKER_HUB_API } else { &reference.host };
        Ok(Self {
            client,
            base: format!("{scheme}://{address}/v2/{}/", reference.repository),
            host: reference.host.clone(),
            image: reference.to_string(),
            plain_http: options.plain_http,
            authorization: Authorization::new(credentials, &reference.repository, options.plain_http),
            retry: options.retry.clone(),
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn has_credentials(&self) -> bool {
        self.authorization.has_credentials()
    }

    /// Sends the request until there is an answer that another attempt would not change; whatever its status, but never
    /// 401. Retries are logged.
    pub(super) fn get(&self, request: Request<'_>) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        loop {
            let last = attempt >= self.retry.attempts;
            let (problem, wait) = match self.authorized(request)? {
                Ok(response) if is_transient(response.status()) && !last => {
                    (format!("it answered {}", response.status()), retry_after(&response))
                }
                Ok(response) => return Ok(response),
                Err(error) if Failure::of(&error) == Failure::Transient && !last => {
                    (Cause::of(&error).to_string(), None)
                }
                Err(error) => return Err(self.failed(&error, request.what)),
            };
            tracing::warn!("registry {}: {problem} for {}, trying again", self.host, request.what);
            attempt += 1;
            self.retry.wait(attempt, wait);
        }
    }

    /// Sends the request once; with a new authorization again if the registry wants one.
    fn authorized(&self, request: Request<'_>) -> Result<reqwest::Result<Response>, RegistryError> {
        // The second challenge is for a token that expired, the third cannot be answered.
        for _ in 0..3 {
            let header = self.authorization.header();
            let response = match self.send(request, header.as_ref()) {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED => response,
                other => return Ok(other),
            };
            // Whoever we were redirected to may not ask for the registry's credentials.
            if !self.is_registry(response.url()) {
                return Err(self.denied(response));
            }
            let answer = self
                .authorization
                .answer(&self.client, response.headers(), header.as_ref())
                .map_err(|source| RegistryError::Auth { host: self.host.clone(), image: self.image.clone(), source })?;
            if answer == Answer::GiveUp {
                return Err(self.denied(response));
            }
        }
        Err(RegistryError::Denied {
            host: self.host.clone(),
            image: self.image.clone(),
            had_credentials: self.has_credentials(),
            message: "it does not accept the token that it gave".to_owned(),
        })
    }

    fn send(
        &self,
        request: Request<'_>,
        authorization: Option<&reqwest::header::HeaderValue>,
    ) -> reqwest::Result<Response> {
        let mut get = self.client.get(format!("{}{}", self.base, request.path));
        // Digests are of the bytes as they are stored.
        get = get.header(ACCEPT_ENCODING, "identity");
        if let Some(accept) = request.accept {
            get = get.header(ACCEPT, accept);
        }
        if request.from_byte > 0 {
            get = get.header(RANGE, format!("bytes={}-", request.from_byte));
        }
        if let Some(authorization) = authorization {
            get = get.header(AUTHORIZATION, authorization);
        }
        get.send()
    }

    /// Whether this is an address of the registry itself.
    fn is_registry(&self, url: &Url) -> bool {
        let place = |url: &Url| (url.host_str().map(str::to_owned), url.port_or_known_default());
        Url::parse(&self.base).is_ok_and(|base| place(&base) == place(url))
    }

    fn denied(&self, response: Response) -> RegistryError {
        RegistryError::Denied {
            host: self.host.clone(),
            image: self.image.clone(),
            had_credentials: self.has_credentials(),
            message: complaint(response).message,
        }
    }

    /// The error for a failed request.
    pub(super) fn failed(&self, error: &reqwest::Error, what: &str) -> RegistryError {
        tracing::debug!("{what}: {error:?}");
        let (host, what, source) = (self.host.clone(), what.to_owned(), Cause::of(error));
        match Failure::of(error) {
            Failure::Unreachable => RegistryError::Unreachable { host, what, source },
            Failure::NotTls => RegistryError::NotTls { host, what, source },
            Failure::Certificate => RegistryError::Certificate { host, what, source },
            Failure::Transient if error.is_connect() => RegistryError::Unreachable { host, what, source },
            Failure::Redirect | Failure::Transient => RegistryError::Connection { host, what, source },
        }
    }

    /// The error for an answer that is not what was asked for.
    pub(super) fn refused(&self, response: Response, what: &str) -> RegistryError {
        let status = response.status();
        if status == StatusCode::FORBIDDEN {
            return self.denied(response);
        }
        let is_registry = response.headers().contains_key("docker-distribution-api-version");
        let (host, what) = (self.host.clone(), what.to_owned());
        let body = read_limited(response, COMPLAINT_MAX).ok().flatten().unwrap_or_default();
        if self.plain_http && status == StatusCode::BAD_REQUEST && String::from_utf8_lossy(&body).contains("HTTPS") {
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

fn complaint(response: Response) -> Complaint {
    Complaint::parse(&read_limited(response, COMPLAINT_MAX).ok().flatten().unwrap_or_default())
}

/// Follows redirects, of which registries make use for blobs, but never out of TLS. The HTTP client does not send our
/// authorization to another host.
fn check_redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let from_https = attempt.previous().last().is_some_and(|url: &Url| url.scheme() == "https");
    if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error("more than 10 redirects")
    } else if from_https && attempt.url().scheme() != "https" {
        attempt.error("redirect from https to an address without TLS")
    } else {
        attempt.follow()
    }
}

fn is_transient(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
