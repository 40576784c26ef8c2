//! Single requests, and the redirects that answer them.
//!
//! Registries redirect to wherever they store blobs. A redirect is followed at most ten times in a row, never out of TLS,
//! and never with our authorization to another host.

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use reqwest::{StatusCode, Url, blocking};

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

/// One GET request.
#[derive(Debug)]
pub(super) struct Get<'a> {
    pub(super) url: Url,
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    /// For this host only.
    pub(super) authorization: Option<&'a HeaderValue>,
    /// Whether a redirect may lead from https to http.
    pub(super) may_leave_tls: bool,
}

/// Sends a request, and follows redirects.
pub(super) fn get(clients: &Clients, get: Get<'_>) -> Result<Response, RequestError> {
    let Get { mut url, headers, mut authorization, may_leave_tls } = get;
    for _ in 0..=REDIRECTS_MAX {
        let mut request = clients.for_url(&url).map_err(RequestError::Client)?.get(url.clone());
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

/// Sends a form. It has secrets, so no redirect is followed.
pub(super) fn post_form(clients: &Clients, url: &Url, form: String) -> Result<Response, RequestError> {
    let client = clients.for_url(url).map_err(RequestError::Client)?;
    let request = client.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
    let response = request.send().map_err(|error| RequestError::Http { host: host(url), error })?;
    match redirect(&response, url, false) {
        Ok(None) => Ok(Response::new(response, clients.patience())),
        _ => {
            let problem = "an identity token is not sent on".to_owned();
            Err(RequestError::Redirect { host: host(url), problem })
        }
    }
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
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
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
    Ok(Some(next))
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
