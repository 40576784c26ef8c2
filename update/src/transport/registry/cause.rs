//! What the HTTP client met, as far as it matters to users.

use std::error::Error;
use std::fmt;
use std::io;

use rustls::AlertDescription;

use crate::output::printable;

/// What a peer says that wants to see a certificate of ours, or another one.
const CERTIFICATE_ALERTS: [AlertDescription; 7] = [
    AlertDescription::CertificateRequired,
    AlertDescription::BadCertificate,
    AlertDescription::UnknownCA,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRevoked,
];

/// The innermost reason of an HTTP client's error. Its outer layers only tell which layer of the client it passed, and
/// may show addresses with secrets in them.
#[derive(Debug)]
pub struct Cause(String);

impl Cause {
    /// The reason of `error`.
    pub(crate) fn of(error: &dyn Error) -> Self {
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Self(printable(&innermost.to_string()))
    }
}

impl From<String> for Cause {
    /// A reason of our own.
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Cause {}

/// What kind of failure the HTTP client met, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Not even connected; trying again at once will not help.
    Unreachable,
    /// The peer does not speak TLS.
    NotTls,
    /// The peer's certificate was refused.
    Certificate,
    /// The peer wants a certificate of ours, or refused it.
    ClientCertificate,
    /// Broken or timed out; another attempt may succeed.
    Transient,
}

impl Failure {
    /// Classifies an error of the HTTP client by the typed errors in its chain.
    pub(super) fn of(error: &reqwest::Error) -> Self {
        let broken_kinds = [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::UnexpectedEof,
        ];
        let mut broken = false;
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(cause) = next {
            let mut inner: Option<&(dyn Error + 'static)> = Some(cause);
            // TLS errors travel inside of I/O errors, which hide them: their source is that of the inner error.
            while let Some(io_error) = inner.and_then(|inner| inner.downcast_ref::<io::Error>()) {
                broken |= broken_kinds.contains(&io_error.kind());
                inner = io_error.get_ref().map(|inner| inner as &(dyn Error + 'static));
            }
            let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
            if let Some(failure) = tls.and_then(Self::of_tls) {
                return failure;
            }
            next = cause.source();
        }
        // An alert that comes late has gone through HTTP/2, which keeps the text only.
        if CERTIFICATE_ALERTS.iter().any(|alert| Cause::of(error).0 == rustls::Error::AlertReceived(*alert).to_string())
        {
            return Self::ClientCertificate;
        }
        // A time-out while connecting may be a lost packet; refused, no route and no such name are facts.
        if !broken && error.is_connect() && !error.is_timeout() { Self::Unreachable } else { Self::Transient }
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidMessage(_) => Some(Self::NotTls),
            rustls::Error::InvalidCertificate(_) => Some(Self::Certificate),
            rustls::Error::AlertReceived(alert) if CERTIFICATE_ALERTS.contains(alert) => Some(Self::ClientCertificate),
            _ => None,
        }
    }
}
