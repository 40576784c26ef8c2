//! What goes wrong between us and a registry.

use std::io;

use osupdate_core::oci::{ContentDigest, MANIFEST_MAX_BYTES, ManifestError};
use reqwest::StatusCode;
use thiserror::Error;

use super::auth::AuthError;
use super::cause::Cause;
use super::clients::ClientError;
use super::credentials::CredentialsError;
use super::meter::LimitReached;
use super::proxy::ProxyError;
use super::registries::RegistriesError;
use super::retry;
use super::tree::TreeError;
use crate::exit::one_line;
use crate::trust::KeyError;

/// Why something could not be had from a registry.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The environment names a proxy that is none.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The configuration of registries does not allow it, or is not usable.
    #[error("cannot find out where to fetch {image} from")]
    Registries {
        /// The image as `host/name:tag`.
        image: String,
        /// Why.
        #[source]
        source: RegistriesError,
    },
    /// An image has mirrors or another location, and none of these places could deliver.
    #[error("none of the places of {image} could deliver {what}:{}", lines(failures))]
    Places {
        /// The image as `host/name:tag`.
        image: String,
        /// What was asked for.
        what: String,
        /// The places in the order in which they were asked, and what happened there; never empty.
        failures: Vec<(String, RegistryError)>,
    },
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
    #[error("cannot reach server {host} for {what}")]
    Unreachable {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The proxy that was to be used, if the environment has one: `host:port (from VARIABLE)`.
        proxy: Option<String>,
        /// Why.
        #[source]
        source: Cause,
    },
    /// TLS was spoken to something that does not speak it.
    #[error("server {host} does not speak TLS, asked for {what}")]
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
    #[error("server {host} does not speak plain HTTP, asked for {what}")]
    NotPlain {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// The certificate is not trusted.
    #[error("the certificate of server {host} cannot be trusted, asked for {what}")]
    Certificate {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The registry wants to see a certificate of ours, or refuses it.
    #[error("server {host} refuses us without a client certificate that it knows, asked for {what}")]
    ClientCertificate {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What TLS made of it.
        #[source]
        source: Cause,
    },
    /// We were sent somewhere where we do not go.
    #[error("server {host} sends us astray for {what}: {problem}")]
    Redirect {
        /// Who sent us.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// The connection broke.
    #[error("the connection to server {host} failed for {what}")]
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
    /// As much was fetched as is allowed.
    #[error("no more of {what} may be fetched")]
    Limit {
        /// The blob.
        what: String,
        /// How much.
        #[source]
        source: LimitReached,
    },
    /// With this limit, a blob would never be complete.
    #[error(
        "server {host} sends no parts of blobs: {what} has {size_bytes} bytes, which are fetched at once or not at all, and only \
         {max_bytes} are allowed"
    )]
    NoParts {
        /// The registry.
        host: String,
        /// The blob.
        what: String,
        /// Bytes that the manifest states.
        size_bytes: u64,
        /// Bytes of layers that may be fetched.
        max_bytes: u64,
    },
    /// A blob is not the one that the manifest names.
    #[error("server {host} says that {what} has {stated_bytes} bytes, the manifest states {size_bytes}")]
    BlobSize {
        /// The registry.
        host: String,
        /// The blob.
        what: String,
        /// Bytes that the registry states.
        stated_bytes: u64,
        /// Bytes that the manifest states.
        size_bytes: u64,
    },
    /// A blob is not the one that was asked for.
    #[error("what server {host} sends as {what} has digest {found}")]
    BlobDigest {
        /// The registry.
        host: String,
        /// The blob.
        what: String,
        /// Digest that it has.
        found: ContentDigest,
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
    #[error("server {host} denies access to {image}{}", message_suffix(.message))]
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
    #[error("server {host} does not have {what}")]
    NotFound {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// An address without TLS, and nobody said that it may be so.
    #[error("{image} is without TLS: anybody on the way can change what is fetched")]
    PlainHttp {
        /// The reference.
        image: String,
    },
    /// The key for a published tree cannot be used.
    #[error("cannot use the key for the summary of the published tree")]
    SummaryKey(#[source] Box<KeyError>),
    /// A file of a published tree is not to be believed.
    #[error("{what} on {host} is refused")]
    Tree {
        /// The web server.
        host: String,
        /// The file.
        what: String,
        /// Why.
        source: Box<TreeError>,
    },
    /// Any other answer.
    #[error("server {host} answered {status} to {what}{}", message_suffix(.message))]
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
    /// What is to be sent cannot be read.
    #[error("cannot read {what}, to send it")]
    Body {
        /// What was to be sent.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was sent has another digest for the registry than for us.
    #[error("server {host} took {what} with digest {found}")]
    Stored {
        /// The registry.
        host: String,
        /// What was sent.
        what: String,
        /// The digest that it states.
        found: ContentDigest,
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
    /// Whether the registry is there and does not have what was asked for.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::NoTag { .. } | Self::NoRepository { .. } => true,
            Self::Places { failures, .. } => failures.iter().all(|(_, error)| error.is_not_found()),
            _ => false,
        }
    }

    /// Whether another attempt may be answered differently.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Unreachable { .. } => true,
            Self::Status { status, .. } => retry::is_transient(*status),
            _ => false,
        }
    }

    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Places { failures, .. } => return failures.last().and_then(|(_, error)| error.hint()),
            Self::Unreachable { proxy: Some(proxy), .. } => {
                format!("check the server's address in the reference, the network, and the proxy {proxy}")
            }
            Self::Unreachable { proxy: None, .. } => {
                "check the server's address in the reference, and the network".to_owned()
            }
            Self::NotTls { .. } => "if it is a plain-HTTP server that you trust, say so with --plain-http".to_owned(),
            Self::NotPlain { .. } => "leave out --plain-http".to_owned(),
            Self::Certificate { host, .. } => format!(
                "put the certificate of the server's authority into /etc/containers/certs.d/{host}/ca.crt or into the \
                 system (update-ca-certificates, update-ca-trust), and check the clock"
            ),
            Self::ClientCertificate { host, .. } => {
                format!("put certificate and key into /etc/containers/certs.d/{host}/client.cert and client.key")
            }
            Self::Registries { source: RegistriesError::Blocked { .. }, .. } => {
                "an administrator decided this; see containers-registries.conf(5)".to_owned()
            }
            Self::NotARegistry { .. } => "check the host and port in the reference".to_owned(),
            Self::Denied { host, had_credentials: false, .. } => format!(
                "the repository does not exist, or needs a login: skopeo login --authfile /etc/osupdate/auth.json {host}"
            ),
            Self::Denied { host, had_credentials: true, .. } => {
                format!("check what the user of the auth file may do at {host}, and that the repository exists")
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
            Self::NoParts { size_bytes, .. } => format!("allow more: --max-bytes {size_bytes}"),
            Self::ManifestDigest { .. } | Self::BlobSize { .. } | Self::BlobDigest { .. } => {
                "the server, or a proxy before it, is faulty or not to be trusted".to_owned()
            }
            Self::PlainHttp { .. } => "write https://, or, if that is what you want, give --plain-http".to_owned(),
            Self::Tree { source, .. } => return source.hint(),
            Self::Client(_)
            | Self::SummaryKey(_)
            | Self::Proxy(_)
            | Self::Registries { .. }
            | Self::Redirect { .. }
            | Self::Credentials { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::Limit { .. }
            | Self::Status { .. }
            | Self::Body { .. }
            | Self::Stored { .. }
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

pub(super) fn message_suffix(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// One line for each place, with all of the reason.
fn lines(failures: &[(String, RegistryError)]) -> String {
    failures.iter().map(|(place, error)| format!("\n{place}: {}", one_line(error))).collect()
}
