//! Authorization: what a registry asks for, and the answer to it.
//!
//! A registry that wants to know who we are answers 401 with challenges (`WWW-Authenticate`, RFC 9110 section 11). For
//! `Bearer` a token is fetched from the realm that it names, with our credentials if we have some, else anonymously; for
//! `Basic` the credentials themselves are the answer.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use thiserror::Error;

use super::credentials::Credentials;
use super::error::{Cause, Complaint};
use super::read_limited;

/// Largest answer of a token service that we read.
const TOKEN_ANSWER_MAX: u64 = 1 << 20;

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
    /// The token service gives none.
    #[error("the token service {realm} answered {status}: {message}")]
    Refused {
        /// The service.
        realm: String,
        /// Its answer.
        status: StatusCode,
        /// What it says.
        message: String,
    },
    /// The token service's answer has no token.
    #[error("the answer of the token service {realm} has no token")]
    NoToken {
        /// The service.
        realm: String,
    },
}

/// The state of our authorization with one repository; shared by all threads that fetch from it.
#[derive(Debug)]
pub(super) struct Authorization {
    credentials: Option<Credentials>,
    repository: String,
    plain_http: bool,
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
    pub(super) fn new(credentials: Option<Credentials>, repository: &str, plain_http: bool) -> Self {
        Self { credentials, repository: repository.to_owned(), plain_http, current: Mutex::new(None) }
    }

    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// The header to send, once a challenge was answered.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers the challenges of a 401 that came although `used` was sent.
    pub(super) fn answer(
        &self,
        client: &Client,
        headers: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<Answer, AuthError> {
        // Held while the token is fetched, so that several threads with an expired one fetch only one.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref() != used {
            return Ok(Answer::Retry);
        }
        let texts: Vec<_> = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let challenges: Vec<_> = texts.iter().flat_map(|text| parse_challenges(text)).collect();
        let by_name = |name: &str| challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(name));
        let header = if let Some(bearer) = by_name("bearer") {
            let token = self.token(client, bearer)?;
            HeaderValue::try_from(format!("Bearer {token}")).ok()
        } else if by_name("basic").is_some() {
            match self.basic() {
                Some(header) if Some(&header) != used => Some(header),
                _ => return Ok(Answer::GiveUp),
            }
        } else if texts.is_empty() {
            return Ok(Answer::GiveUp);
        } else {
            return Err(AuthError::Challenge(super::error::printable(&texts.join(", "))));
        };
        let Some(mut header) = header else { return Ok(Answer::GiveUp) };
        header.set_sensitive(true);
        *current = Some(header);
        Ok(Answer::Retry)
    }

    fn basic(&self) -> Option<HeaderValue> {
        let Credentials { user, password } = self.credentials.as_ref()?;
        let mut header =
            HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    fn token(&self, client: &Client, challenge: &Challenge) -> Result<String, AuthError> {
        let realm = challenge.parameter("realm").unwrap_or_default();
        let mut url = Url::parse(realm).map_err(|_| AuthError::Realm(super::error::printable(realm)))?;
        match url.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
            _ => return Err(AuthError::PlainRealm(url.to_string())),
        }
        let realm = url.to_string();
        let default_scope = format!("repository:{}:pull", self.repository);
        if let Some(service) = challenge.parameter("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", challenge.parameter("scope").unwrap_or(&default_scope));
        let mut request = client.get(url);
        if let Some(basic) = self.basic() {
            request = request.header(AUTHORIZATION, basic);
        }
        let failed = |source| AuthError::Request { realm: realm.clone(), source };
        let response = request.send().map_err(|error| failed(Cause::of(&error)))?;
        let status = response.status();
        let body = read_answer(response).map_err(|error| failed(Cause::of(&error)))?;
        if !status.is_success() {
            return Err(AuthError::Refused { realm, status, message: Complaint::parse(&body).message });
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let token: Option<Token> = serde_json::from_slice(&body).ok();
        token.and_then(|answer| answer.token.or(answer.access_token)).ok_or(AuthError::NoToken { realm })
    }
}

fn read_answer(response: Response) -> std::io::Result<Vec<u8>> {
    Ok(read_limited(response, TOKEN_ANSWER_MAX)?.unwrap_or_default())
}

/// One challenge of a `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Parses `Scheme key=value, key="quoted value", Scheme2 …`; what does not fit is passed over.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() && after.is_empty() {
            return challenges;
        }
        match after.trim_start().strip_prefix('=') {
            Some(value) if !word.is_empty() => {
                let (value, after) = parse_value(value.trim_start());
                if let Some(challenge) = challenges.last_mut() {
                    challenge.parameters.push((word.to_owned(), value));
                }
                rest = after;
            }
            // A stray = or, after a scheme, its token68 padding.
            Some(after) => rest = after,
            None => {
                challenges.push(Challenge { scheme: word.to_owned(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((i, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[i + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed_as_they_occur() {
        let all = parse_challenges(
            r#"Negotiate, Bearer realm="https://auth.example/token?a=b, c",service=registry , scope="repository:a/b:pull,push", Basic realm="a \"b\"""#,
        );
        let schemes: Vec<_> = all.iter().map(|challenge| challenge.scheme.as_str()).collect();
        assert_eq!(schemes, ["Negotiate", "Bearer", "Basic"]);
        assert_eq!(all[1].parameter("Realm"), Some("https://auth.example/token?a=b, c"));
        assert_eq!(all[1].parameter("service"), Some("registry"));
        assert_eq!(all[1].parameter("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(all[2].parameter("realm"), Some(r#"a "b""#));
    }

    #[test]
    fn broken_challenges_end() {
        for text in ["", "=", "==,", "Bearer", "Bearer realm=\"", "Bearer realm=\"\\", ",,Bearer =x", "realm=x"] {
            parse_challenges(text);
        }
        assert_eq!(parse_challenges("realm=x"), []);
    }
}
