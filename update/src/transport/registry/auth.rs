//! Authorization: what a registry asks for, and the answer to it.
//!
//! A registry that wants to know who we are answers 401 with challenges (`WWW-Authenticate`, RFC 9110 section 11). For
//! `Bearer` a token is fetched from the realm that it names, with our credentials if we have some, else anonymously; for
//! `Basic` the credentials themselves are the answer.
//!
//! The realm may be on another host: that is how the protocol works, and the registry could pass our credentials on in any
//! case. But it is spoken to by verified TLS wherever the registry is, and neither credentials nor identity tokens follow
//! a redirect away from it.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use thiserror::Error;

use super::cause::{Cause, Failure};
use super::challenge::{Challenge, parse_challenges};
use super::clients::Clients;
use super::complaint::Complaint;
use super::credentials::Credentials;
use super::request::{self, Get, RequestError};
use super::retry::is_transient;
use crate::output::printable;

/// Largest answer of a token service that we read.
const TOKEN_ANSWER_MAX: u64 = 1 << 20;
/// Longest token that is sent on.
const TOKEN_MAX: usize = 64 << 10;
/// What we are called by token services that want to know.
const CLIENT_ID: &str = "osupdate";

/// Why we cannot log in.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuthError {
    /// There is no challenge that we can answer.
    #[error("the registry asks for a login of a kind that is not supported: {0:?}")]
    Challenge(String),
    /// The realm is not an address.
    #[error("the registry names the token service {0:?}, which is not an address")]
    Realm(String),
    /// The realm would be spoken to without TLS.
    #[error("the registry names the token service {0:?}, which is not reached by https")]
    PlainRealm(String),
    /// The token service cannot be asked.
    #[error("cannot ask the token service {realm}")]
    Request {
        /// The service.
        realm: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The token service leads us elsewhere.
    #[error("the token service {realm} redirects in a way that is not followed: {problem}")]
    Redirect {
        /// The service.
        realm: String,
        /// What is wrong.
        problem: String,
    },
    /// The token service gives none.
    #[error("the token service {realm} answered {status}{}", super::error::message_suffix(.message))]
    Refused {
        /// The service.
        realm: String,
        /// Its answer.
        status: StatusCode,
        /// What it says.
        message: String,
    },
    /// The token service's answer has no token.
    #[error("the answer of the token service {realm} has no token: {problem}")]
    NoToken {
        /// The service.
        realm: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// A login that failed.
#[derive(Debug)]
pub(super) struct LoginFailed {
    pub(super) error: AuthError,
    /// Another attempt may succeed.
    pub(super) is_transient: bool,
}

impl From<AuthError> for LoginFailed {
    fn from(error: AuthError) -> Self {
        Self { error, is_transient: false }
    }
}

/// The state of our authorization with one repository; shared by all threads that fetch from it.
#[derive(Debug)]
pub(super) struct Authorization {
    credentials: Option<Credentials>,
    repository: String,
    current: Mutex<Option<HeaderValue>>,
}

/// What to do after a challenge.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Ask again, there is a new header.
    Retry,
    /// There is nothing more to offer.
    GiveUp,
}

impl Authorization {
    /// For pulling from one repository.
    pub(super) fn new(credentials: Option<Credentials>, repository: &str) -> Self {
        Self { credentials, repository: repository.to_owned(), current: Mutex::new(None) }
    }

    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// The header to send, once a challenge was answered.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers the challenges of a 401 that came although `used` was sent. `plain`: the registry is spoken to without TLS.
    pub(super) fn answer(
        &self,
        clients: &Clients,
        plain: bool,
        headers: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<Answer, LoginFailed> {
        // Held while the token is fetched, so that several threads with an expired one fetch only one.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref() != used {
            return Ok(Answer::Retry);
        }
        let texts: Vec<_> = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let challenges: Vec<_> = texts.iter().flat_map(|text| parse_challenges(text)).collect();
        let by_name = |name: &str| challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(name));
        let header = if let Some(bearer) = by_name("bearer") {
            self.token(clients, plain, bearer)?
        } else if by_name("basic").is_some() {
            match self.basic() {
                Some(header) if Some(&header) != used => header,
                _ => return Ok(Answer::GiveUp),
            }
        } else if texts.is_empty() {
            return Ok(Answer::GiveUp);
        } else {
            return Err(AuthError::Challenge(printable(&texts.join(", "))).into());
        };
        *current = Some(header);
        Ok(Answer::Retry)
    }

    fn basic(&self) -> Option<HeaderValue> {
        match self.credentials.as_ref()? {
            Credentials::Password { user, password } => {
                sensitive(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Credentials::IdentityToken(_) => None,
        }
    }

    /// Fetches a token, and makes a header of it.
    fn token(&self, clients: &Clients, plain: bool, challenge: &Challenge) -> Result<HeaderValue, LoginFailed> {
        let realm = challenge.parameter("realm").unwrap_or_default();
        let mut url = Url::parse(realm).map_err(|_| AuthError::Realm(printable(realm)))?;
        match url.scheme() {
            "https" => {}
            "http" if plain => {}
            _ => return Err(AuthError::PlainRealm(printable(url.as_str())).into()),
        }
        request::strip_user(&mut url);
        let realm = printable(url.as_str());
        let default_scope = format!("repository:{}:pull", self.repository);
        let service = challenge.parameter("service").map(|service| ("service", service));
        let scope = ("scope", challenge.parameter("scope").unwrap_or(&default_scope));
        let parameters = service.into_iter().chain([scope]);
        let response = match &self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                let grant = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", token)];
                let form = form(parameters.chain(grant));
                request::post_form(clients, &url, form)
            }
            _ => {
                url.query_pairs_mut().extend_pairs(parameters);
                let headers = [(ACCEPT, HeaderValue::from_static("application/json"))];
                let basic = self.basic();
                request::get(
                    clients,
                    Get {
                        method: Method::GET,
                        url,
                        headers: &headers,
                        authorization: basic.as_ref(),
                        may_leave_tls: false,
                    },
                )
            }
        };
        let failed = |source, is_transient| LoginFailed {
            error: AuthError::Request { realm: realm.clone(), source },
            is_transient,
        };
        let response = response.map_err(|error| match error {
            RequestError::Http { error, .. } => failed(Cause::of(&error), Failure::of(&error) == Failure::Transient),
            RequestError::Redirect { problem, .. } => AuthError::Redirect { realm: realm.clone(), problem }.into(),
            RequestError::Client(error) => failed(Cause::of(&error), false),
        })?;
        let status = response.status();
        let body = response.into_document(TOKEN_ANSWER_MAX).map_err(|error| failed(Cause::of(&error), true))?;
        if !status.is_success() {
            let message = Complaint::parse(&body.unwrap_or_default()).message;
            let error = AuthError::Refused { realm, status, message };
            return Err(LoginFailed { error, is_transient: is_transient(status) });
        }
        let no_token = |problem| AuthError::NoToken { realm: realm.clone(), problem };
        let body = body.ok_or_else(|| no_token("it has more than 1 MiB"))?;
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let answer: Token = serde_json::from_slice(&body).map_err(|_| no_token("it is not JSON of the known form"))?;
        let filled = |token: Option<String>| token.filter(|token| !token.is_empty());
        let token = filled(answer.token).or(filled(answer.access_token));
        let token = token.ok_or_else(|| no_token("neither token nor access_token is there"))?;
        if token.len() > TOKEN_MAX {
            return Err(no_token("it has more than 64 KiB").into());
        }
        Ok(sensitive(&format!("Bearer {token}")).ok_or_else(|| no_token("it has characters that no token has"))?)
    }
}

/// A header that is not shown in logs.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Parameters in the form that web forms are sent in.
fn form<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut url = Url::parse("form:").expect("a constant address");
    url.query_pairs_mut().extend_pairs(parameters);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn forms_are_escaped() {
        assert_eq!(super::form([("a", "b c"), ("d", "e&f=g:/+")].into_iter()), "a=b+c&d=e%26f%3Dg%3A%2F%2B");
    }
}
