//! [`Verdict`]: what a policy says of one image.

use std::fmt;
use std::path::PathBuf;

use osupdate_deploy::timestamp;

/// An image is accepted by the policy: whoever has signed it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The part of the policy that decided, for people: `scope "registry.example.com/os" of transport docker`.
    pub scope: String,
    /// The policy file; `None` if there is none.
    pub policy: Option<PathBuf>,
    /// Whose signatures the policy asked for, and found good. Empty: it asked for none, the image counts as unsigned.
    pub signers: Vec<Signer>,
}

impl Verdict {
    /// Whether the policy asked for a signature, and a good one is there.
    pub fn is_signed(&self) -> bool {
        !self.signers.is_empty()
    }
}

/// The kind of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureKind {
    /// A simple signature, made with OpenPGP.
    OpenPgp,
    /// A sigstore signature, as cosign makes them.
    Sigstore,
}

impl SignatureKind {
    /// The name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenPgp => "OpenPGP",
            Self::Sigstore => "sigstore",
        }
    }
}

/// Who signed an image, by one good signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The kind of the signature.
    pub kind: SignatureKind,
    /// The key that signed. OpenPGP: the fingerprint of the primary key, in upper-case hex. sigstore: `sha256:` and the
    /// hash of the public key (DER, SubjectPublicKeyInfo) in lower-case hex.
    pub key: String,
    /// The primary user ID of an OpenPGP key. Whoever made the key chose it; nobody has checked it.
    pub user_id: Option<String>,
    /// The file that the key is trusted by; `None` if it is in the policy itself.
    pub key_file: Option<PathBuf>,
    /// When it was signed, as the signer states it, in seconds since 1970.
    pub signed_at: Option<i64>,
    /// What the image was signed as: a reference, `registry.example.com/os:1`.
    pub identity: String,
}

impl fmt::Display for Signer {
    /// `OpenPGP key 0123… (Name <name@example.com>), 2026-11-24T10:00:00Z, as registry.example.com/os:1`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key {}", self.kind.name(), self.key)?;
        if let Some(user_id) = &self.user_id {
            write!(f, " ({user_id})")?;
        }
        if let Some(secs) = self.signed_at {
            write!(f, ", {}", timestamp::format(secs))?;
        }
        write!(f, ", as {}", self.identity)
    }
}
