//! What goes wrong between us and a registry.

use std::error::Error;
use std::fmt;
use std::io;

use osupdate_core::oci::{ContentDigest, MANIFEST_MAX_BYTES, ManifestError};
use reqwest::StatusCode;
use thiserror::Error;

use super::auth::AuthError;
use super::credentials::CredentialsError;

/// Why something could not be had from a registry.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[source] Cause),
    /// An auth file is not usable.
    #[error("cannot read the credentials for {image}")]
    Credentials {
        /// The image as `host/name:tag`.
        image: String,
        /// Why.
        #[source]
        source: CredentialsError,
    },
    /// No connection: name not found, refused, timed out.
    #[error("cannot reach registry {host} for {what}")]
    Unreachable {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// TLS was spoken to something that does not speak it.
    #[error("registry {host} does not speak TLS, asked for {what}")]
    NotTls {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What TLS made of it.
        #[source]
        source: Cause,
    },
    /// Plain HTTP was spoken to something that wants TLS.
    #[error("registry {host} does not speak plain HTTP, asked for {what}")]
    NotPlain {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// The certificate is not trusted.
    #[error("the certificate of registry {host} cannot be trusted, asked for {what}")]
    Certificate {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The connection broke, or a redirect is not acceptable.
    #[error("the connection to registry {host} failed for {what}")]
    Connection {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A blob ended early and could not be continued.
    #[error("{what} ended after {got_bytes} of {size_bytes} bytes, however often it was continued")]
    Truncated {
        /// The blob.
        what: String,
        /// Bytes that came.
        got_bytes: u64,
        /// Bytes that the manifest states.
        size_bytes: u64,
    },
    /// The host answers, but not as a registry does.
    #[error("{host} is not a container registry: it answered {status} to {what}")]
    NotARegistry {
        /// The host.
        host: String,
        /// Its answer.
        status: StatusCode,
        /// What was asked for.
        what: String,
    },
    /// The registry wants credentials or other ones.
    #[error("registry {host} denies access to {image}{}", message_suffix(.message))]
    Denied {
        /// The registry.
        host: String,
        /// The image as `host/name:tag`.
        image: String,
        /// Whether we had credentials for it.
        had_credentials: bool,
        /// What the registry says.
        message: String,
    },
    /// No token could be had.
    #[error("cannot log in to registry {host} for {image}")]
    Auth {
        /// The registry.
        host: String,
        /// The image as `host/name:tag`.
        image: String,
        /// Why.
        #[source]
        source: AuthError,
    },
    /// There is no such repository.
    #[error("registry {host} has no repository {repository} (asked for {image})")]
    NoRepository {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
        /// The image as `host/name:tag`.
        image: String,
    },
    /// There is no such tag.
    #[error("repository {repository} in registry {host} has no tag {tag}")]
    NoTag {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
        /// The tag.
        tag: String,
        /// Some tags that it has.
        tags: Vec<String>,
    },
    /// There is no manifest or blob with this digest.
    #[error("registry {host} does not have {what}")]
    NotFound {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// Any other answer.
    #[error("registry {host} answered {status} to {what}{}", message_suffix(.message))]
    Status {
        /// The registry.
        host: String,
        /// Its answer.
        status: StatusCode,
        /// What was asked for.
        what: String,
        /// What the registry says.
        message: String,
    },
    /// The manifest is larger than manifests may be.
    #[error("{what} is larger than {} MiB", MANIFEST_MAX_BYTES >> 20)]
    ManifestSize {
        /// The manifest.
        what: String,
    },
    /// The manifest is not the one that was asked for.
    #[error("{what} has digest {found}, expected {expected} ({expected_by})")]
    ManifestDigest {
        /// The manifest.
        what: String,
        /// Digest that it should have.
        expected: ContentDigest,
        /// Who says so.
        expected_by: &'static str,
        /// Digest that it has.
        found: ContentDigest,
    },
    /// The bytes are not a manifest.
    #[error("{what} is not valid")]
    ManifestJson {
        /// The manifest.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The manifest is of a kind that we do not read, or contradicts itself.
    #[error("{what} is not usable: {problem}")]
    ManifestKind {
        /// The manifest.
        what: String,
        /// Why.
        problem: String,
    },
    /// The list is malformed, or has no image for this machine.
    #[error("cannot select an image from {what}")]
    List {
        /// The manifest list.
        what: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
}

impl RegistryError {
    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { .. } => "check the registry's address in the reference, and the network".to_owned(),
            Self::NotTls { .. } => "if it is a plain-HTTP registry that you trust, say so with --plain-http".to_owned(),
            Self::NotPlain { .. } => "leave out --plain-http".to_owned(),
            Self::Certificate { .. } => {
                "install the certificate of the registry's authority in the system (update-ca-certificates, \
                 update-ca-trust), and check the clock"
                    .to_owned()
            }
            Self::NotARegistry { .. } => "check the host and port in the reference".to_owned(),
            Self::Denied { host, had_credentials: false, .. } => format!(
                "the repository does not exist, or needs a login: skopeo login --authfile /etc/osupdate/auth.json {host}"
            ),
            Self::Denied { host, had_credentials: true, .. } => {
                format!("check that the user of the auth file may pull from {host}, and that the repository exists")
            }
            Self::NoRepository { .. } => "check the repository name in the reference".to_owned(),
            Self::NoTag { tags, .. } if tags.is_empty() => "it has no tags at all: was an image pushed?".to_owned(),
            Self::NoTag { tags, .. } => format!("tags that it has: {}", tags.join(", ")),
            Self::List { source: ManifestError::Platform { .. }, .. } => {
                "build and push the image for this architecture, too".to_owned()
            }
            Self::Truncated { .. } | Self::Connection { .. } => {
                "run the command again; what is already here is not fetched again".to_owned()
            }
            Self::ManifestDigest { .. } => {
                "the registry, or a proxy before it, is faulty or not to be trusted".to_owned()
            }
            Self::Client(_)
            | Self::Credentials { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::Status { .. }
            | Self::ManifestSize { .. }
            | Self::ManifestJson { .. }
            | Self::ManifestKind { .. }
            | Self::List { .. } => return None,
        })
    }
}

impl From<RegistryError> for io::Error {
    /// For readers, which can only tell an [`io::Error`].
    fn from(error: RegistryError) -> Self {
        Self::other(error)
    }
}

fn message_suffix(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// The innermost reason of an HTTP client's error. Its outer layers only tell which layer of the client it passed, and
/// may show addresses with secrets in them.
#[derive(Debug)]
pub struct Cause(String);

impl Cause {
    /// The reason of `error`.
    pub(super) fn of(error: &dyn Error) -> Self {
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Self(innermost.to_string())
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
    /// A redirect that we do not follow.
    Redirect,
    /// Broken or timed out; another attempt may succeed.
    Transient,
}

impl Failure {
    /// Classifies an error of the HTTP client by the typed errors in its chain.
    pub(super) fn of(error: &reqwest::Error) -> Self {
        if error.is_redirect() {
            return Self::Redirect;
        }
        let broken_kinds = [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::UnexpectedEof,
        ];
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(cause) = next {
            // TLS errors travel inside of I/O errors, whose source is that of the inner error.
            let io_error = cause.downcast_ref::<io::Error>();
            if io_error.is_some_and(|error| broken_kinds.contains(&error.kind())) {
                return Self::Transient;
            }
            let inner = io_error.and_then(|error| error.get_ref());
            let text = inner.map(ToString::to_string).unwrap_or_else(|| cause.to_string());
            // The TLS library is not a direct dependency: its errors are told by their text.
            if text.starts_with("received corrupt message") {
                return Self::NotTls;
            }
            if text.starts_with("invalid peer certificate") {
                return Self::Certificate;
            }
            next = cause.source();
        }
        // A time-out while connecting may be a lost packet; refused, no route and no such name are facts.
        if error.is_connect() && !error.is_timeout() { Self::Unreachable } else { Self::Transient }
    }
}

/// What a registry says in the body of an error: `{"errors": [{"code": …, "message": …}]}`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Complaint {
    /// The first error's message, or code; empty if there is none. One line, printable, of bounded length.
    pub(super) message: String,
    /// Whether the body has the form that registries use.
    pub(super) is_registry: bool,
}

impl Complaint {
    /// Reads the body of an error.
    pub(super) fn parse(body: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Body {
            errors: Vec<Item>,
        }
        #[derive(serde::Deserialize)]
        struct Item {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        match serde_json::from_slice::<Body>(body) {
            Ok(Body { errors }) => {
                let message = errors.into_iter().next().map(|item| match item.message.is_empty() {
                    true => item.code,
                    false => item.message,
                });
                Self { message: printable(&message.unwrap_or_default()), is_registry: true }
            }
            Err(_) => Self::default(),
        }
    }
}

/// Text of a stranger for the terminal: control characters left out, at most 200 characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
