//! Single requests, and the redirects that answer them.
//!
//! Registries redirect to wherever they store blobs. A redirect is followed at most ten times in a row, never out of TLS,
//! and never with our authorization to another host.

use std::time::Duration;

use reqwest::blocking::{self, Body};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};

use super::clients::{ClientError, Clients};
use super::response::Response;
use crate::output::printable;

const REDIRECTS_MAX: usize = 10;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum RequestError {
    /// The HTTP client met an error.
    Http {
        /// Whom it spoke to, `host[:port]`.
        host: String,
        error: reqwest::Error,
    },
    /// We were sent somewhere where we do not go.
    Redirect {
        /// Who sent us.
        host: String,
        problem: String,
    },
    /// There is no client.
    Client(ClientError),
}

/// One request for something.
#[derive(Debug)]
pub(super) struct Get<'a> {
    /// GET or HEAD.
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    /// For this host only.
    pub(super) authorization: Option<&'a HeaderValue>,
    /// Whether a redirect may lead from https to http.
    pub(super) may_leave_tls: bool,
}

/// Sends a request, and follows redirects.
pub(super) fn get(clients: &Clients, get: Get<'_>) -> Result<Response, RequestError> {
    let Get { method, mut url, headers, mut authorization, may_leave_tls } = get;
    for _ in 0..=REDIRECTS_MAX {
        let mut request = clients.for_url(&url).map_err(RequestError::Client)?.request(method.clone(), url.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = request.send().map_err(|error| RequestError::Http { host: host(&url), error })?;
        let next = redirect(&response, &url, may_leave_tls)
            .map_err(|problem| RequestError::Redirect { host: host(&url), problem })?;
        let Some(next) = next else { return Ok(Response::new(response, clients.patience())) };
        tracing::debug!("{} redirects to {}", host(&url), host(&next));
        if next.origin() != url.origin() {
            authorization = None;
        }
        url = next;
    }
    Err(RequestError::Redirect { host: host(&url), problem: format!("more than {REDIRECTS_MAX} redirects") })
}

/// One request that changes something.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    pub(super) authorization: Option<&'a HeaderValue>,
    pub(super) body: Body,
    /// Longest wait for the head of the answer, if it is not the usual one: until the body is sent.
    pub(super) timeout: Option<Duration>,
    /// Why a redirect is not followed.
    pub(super) stays: &'static str,
}

/// Sends a request that changes something, or has secrets: no redirect is followed.
pub(super) fn change(clients: &Clients, change: Change<'_>) -> Result<Response, RequestError> {
    let Change { method, url, headers, authorization, body, timeout, stays } = change;
    let mut request = clients.for_url(&url).map_err(RequestError::Client)?.request(method, url.clone()).body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    if let Some(timeout) = timeout {
        request = request.timeout(timeout);
    }
    let response = request.send().map_err(|error| RequestError::Http { host: host(&url), error })?;
    match redirect(&response, &url, false) {
        Ok(None) => Ok(Response::new(response, clients.patience())),
        _ => Err(RequestError::Redirect { host: host(&url), problem: stays.to_owned() }),
    }
}

/// Sends a form. It has secrets.
pub(super) fn post_form(clients: &Clients, url: &Url, form: String) -> Result<Response, RequestError> {
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))];
    let (method, url, body) = (Method::POST, url.clone(), Body::from(form));
    let stays = "an identity token is not sent on";
    change(clients, Change { method, url, headers: &headers, authorization: None, body, timeout: None, stays })
}

/// Where an answer sends us, if it does; the problem if we do not go there.
fn redirect(response: &blocking::Response, url: &Url, may_leave_tls: bool) -> Result<Option<Url>, String> {
    let is_redirect = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !is_redirect {
        return Ok(None);
    }
    location(response.headers(), url, may_leave_tls).map(Some)
}

/// The address in the header `Location` of an answer from `url`; the problem if we do not go there.
pub(super) fn location(headers: &HeaderMap, url: &Url, may_leave_tls: bool) -> Result<Url, String> {
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or("a redirect without an address")?;
    let mut next =
        url.join(location).map_err(|_| format!("a redirect to {:?}, which is no address", printable(location)))?;
    match (url.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") if may_leave_tls => {}
        ("https", "http") => return Err(format!("a redirect from https to {}, without TLS", host(&next))),
        (_, scheme) => return Err(format!("a redirect to an address of the kind {}", printable(scheme))),
    }
    strip_user(&mut next);
    Ok(next)
}

/// Takes a user name and password out of an address: nobody tells us who we are.
pub(super) fn strip_user(url: &mut Url) {
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        tracing::debug!("the address of {:?} cannot have a user name", url.scheme());
    }
}

/// `host[:port]` of an address.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
