//! A web server with files beside the registry: spoken to through the same proxies and with the same certificates, and
//! redirects are followed as they are from registries.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode, Url};
use thiserror::Error;

use super::cause::{Cause, Failure};
use super::certificates::CertificateDirectories;
use super::clients::{Clients, Settings};
use super::proxy::Proxies;
use super::request::{self, Get, RequestError};
use super::response::Patience;
use super::retry::{Retry, is_transient};
use super::{ClientError, ProxyError};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long answers are waited for.
const PATIENCE: Patience = Patience { idle: Duration::from_secs(30), document: Duration::from_secs(60) };

/// Why a file could not be had.
#[derive(Debug, Error)]
pub(crate) enum FileServerError {
    /// There is no HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The environment names a proxy that is none.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The connection, or a redirect, failed at this host.
    #[error("{host}")]
    Request {
        host: String,
        #[source]
        problem: Cause,
    },
    /// The server answers something else.
    #[error("{0}")]
    Status(StatusCode),
}

/// What is at an address.
#[derive(Debug)]
pub(crate) enum FileContents {
    /// These bytes.
    Whole(Vec<u8>),
    /// More bytes than anybody wants.
    TooLarge,
}

/// The server.
#[derive(Debug)]
pub(crate) struct FileServer {
    clients: Clients,
    retry: Retry,
}

impl FileServer {
    /// Prepares for files below this address.
    pub(crate) fn new(base: &Url) -> Result<Self, FileServerError> {
        let settings = Settings {
            connect_timeout: CONNECT_TIMEOUT,
            patience: PATIENCE,
            proxies: Proxies::from_environment()?,
            directories: CertificateDirectories::standard(),
        };
        let clients = Clients::new(base.clone(), &request::host(base), false, settings)?;
        Ok(Self { clients, retry: Retry { attempts: 3, ..Retry::default() } })
    }

    /// Gets a file; `None` if there is none. A web page is none: some servers have one for every address.
    pub(crate) fn get(&self, url: &Url, max_bytes: u64) -> Result<Option<FileContents>, FileServerError> {
        let mut attempt = 1;
        loop {
            let last = attempt >= self.retry.attempts;
            let error = match self.try_get(url, max_bytes) {
                Ok(Ok(file)) => return Ok(file),
                Ok(Err(error)) if !last => error,
                Ok(Err(error)) | Err(error) => return Err(error),
            };
            tracing::warn!("{}: {error}, trying again", request::host(url));
            attempt += 1;
            self.retry.wait(attempt, None);
        }
    }

    /// Asks once. The inner error may not come again.
    fn try_get(
        &self,
        url: &Url,
        max_bytes: u64,
    ) -> Result<Result<Option<FileContents>, FileServerError>, FileServerError> {
        let get =
            Get { method: Method::GET, url: url.clone(), headers: &[], authorization: None, may_leave_tls: false };
        let response = match request::get(&self.clients, get) {
            Ok(response) => response,
            Err(RequestError::Client(error)) => return Err(error.into()),
            Err(RequestError::Redirect { host, problem }) => {
                return Err(FileServerError::Request { host, problem: Cause::from(problem) });
            }
            Err(RequestError::Http { host, error }) => {
                let transient = Failure::of(&error) == Failure::Transient;
                let error = FileServerError::Request { host, problem: Cause::of(&error) };
                return if transient { Ok(Err(error)) } else { Err(error) };
            }
        };
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_page = content_type.is_some_and(|value| value.trim().to_ascii_lowercase().starts_with("text/html"));
        match response.status() {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Ok(None)),
            StatusCode::OK if is_page => Ok(Ok(None)),
            StatusCode::OK => {
                let host = request::host(response.url());
                Ok(match response.into_document(max_bytes) {
                    Ok(bytes) => Ok(Some(bytes.map_or(FileContents::TooLarge, FileContents::Whole))),
                    Err(error) => Err(FileServerError::Request { host, problem: Cause::of(&error) }),
                })
            }
            status if is_transient(status) => Ok(Err(FileServerError::Status(status))),
            status => Err(FileServerError::Status(status)),
        }
    }
}
