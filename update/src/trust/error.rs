//! Why an image is not trusted, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use osupdate_core::oci::ContentDigest;
use thiserror::Error;

use super::fetch::FetchError;

/// Why the configuration of trust cannot be used. Nothing is pulled then: a policy that cannot be read may have forbidden it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is larger than configuration is.
    #[error("{} has more than {max_bytes} bytes", .path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        max_bytes: u64,
    },
    /// The policy is not one.
    #[error("trust policy {} is not valid", .path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A part of the policy makes no sense.
    #[error("trust policy {} is not valid: {problem}", .path.display())]
    PolicyPart {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// A file of `registries.d` is not what it should be.
    #[error("signature configuration {} is not valid: {problem}", .path.display())]
    RegistriesD {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Why the keys of a requirement cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A file or directory cannot be read.
    #[error("cannot read the key file {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is larger than keys are, or a directory has more of them.
    #[error("{place} has more than {max} {unit}, which is too much for trusted keys")]
    Size {
        /// The file or directory.
        place: String,
        /// The most that is read.
        max: u64,
        /// Of what.
        unit: &'static str,
    },
    /// There is no key in it.
    #[error("there is no {kind} key in {place}")]
    None {
        /// Which kind was looked for.
        kind: &'static str,
        /// The file or the policy.
        place: String,
    },
    /// It cannot be parsed.
    #[error("{place} holds no usable {kind} key: {problem}")]
    Malformed {
        /// Which kind was looked for.
        kind: &'static str,
        /// The file or the policy.
        place: String,
        /// What is wrong.
        problem: String,
    },
}

/// Why an image is not accepted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The directory of the image cannot be found, so that no scope can be.
    #[error("cannot find out which part of the trust policy {image} belongs to")]
    Scope {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The policy rejects it, whoever has signed it.
    #[error("trust policy {policy} rejects {image} ({scope})")]
    Rejected {
        /// The image.
        image: String,
        /// The policy file.
        policy: String,
        /// The part of it that decided.
        scope: String,
    },
    /// The policy wants something that does not exist here.
    #[error("trust policy {policy} wants something of {image} that osupdate does not support: {what} ({scope})")]
    Unsupported {
        /// The image.
        image: String,
        /// The policy file.
        policy: String,
        /// The part of it that decided.
        scope: String,
        /// What.
        what: String,
    },
    /// The keys that the policy names cannot be used.
    #[error("cannot load the keys that trust policy {policy} wants {image} to be signed with ({scope})")]
    Keys {
        /// The image.
        image: String,
        /// The policy file.
        policy: String,
        /// The part of it that decided.
        scope: String,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The signatures cannot be fetched.
    #[error("cannot fetch the signatures of {image}")]
    Fetch {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// There is no signature of the kind.
    #[error("{image} has no {kind} signature, but trust policy {policy} wants one ({scope}); looked in {places}")]
    NoSignature {
        /// The image, and the digest of its manifest.
        image: String,
        /// Which kind.
        kind: &'static str,
        /// The policy file.
        policy: String,
        /// The part of it that decided.
        scope: String,
        /// Where signatures were looked for.
        places: String,
        /// What to do, if that is known.
        hint: Option<String>,
    },
    /// No signature is accepted; there is one or there are several.
    #[error("no signature of {image} is accepted by trust policy {policy} ({scope})")]
    NotAccepted {
        /// The image, and the digest of its manifest.
        image: String,
        /// The policy file.
        policy: String,
        /// The part of it that decided.
        scope: String,
        /// What is wrong with each.
        #[source]
        source: SignatureErrors,
    },
}

impl TrustError {
    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Rejected { policy, .. } => {
                format!(
                    "if this image is to be used, give it a scope of its own in {policy}, with the key that signs it"
                )
            }
            Self::Unsupported { policy, scope, .. } => {
                format!(
                    "sign the image with a key (skopeo copy --sign-by or cosign sign --key) and name that in {scope} of {policy}"
                )
            }
            Self::Keys { policy, .. } => format!("put the public keys where {policy} says, or correct it"),
            Self::NoSignature { hint, .. } => return hint.clone(),
            Self::NotAccepted { source, .. } => return source.0.first().and_then(|first| first.problem.hint()),
            Self::Fetch { source, .. } => return source.hint(),
            Self::Scope { .. } => return None,
        })
    }
}

/// What is wrong with several signatures.
#[derive(Debug, Error)]
pub struct SignatureErrors(pub Vec<SignatureError>);

impl fmt::Display for SignatureErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Most signatures that a message is about.
        const SHOWN: usize = 5;
        for (i, error) in self.0.iter().take(SHOWN).enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// What is wrong with one signature.
#[derive(Debug, Error)]
#[error("{place}: {problem}")]
pub struct SignatureError {
    /// Where the signature is.
    pub place: String,
    /// What is wrong with it.
    pub problem: SignatureProblem,
}

/// Why a signature does not count.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignatureProblem {
    /// It is not a signature at all.
    #[error("it is not a signature: {0}")]
    Malformed(String),
    /// It is larger than signatures are, or unpacks to more.
    #[error("it is larger than a signature can be ({0})")]
    TooLarge(&'static str),
    /// It was made by a key that the policy does not name.
    #[error("it was made by key {key}, which {trusted} does not contain")]
    OtherKey {
        /// The key's fingerprint or ID as the signature states it.
        key: String,
        /// The trusted keys, by their files.
        trusted: String,
    },
    /// It was made by none of the keys, and does not say by which.
    #[error("it was not made by the key in {trusted}")]
    NotThisKey {
        /// The trusted keys, by their files.
        trusted: String,
    },
    /// The numbers are wrong: what was signed was changed, or the signature.
    #[error("it is not a good signature by key {key}: it, or what was signed, has been changed")]
    Bad {
        /// The key.
        key: String,
    },
    /// Made with something that is not safe any more.
    #[error("it was made with an algorithm that is not safe any more ({0})")]
    Weak(String),
    /// The key cannot be used at all.
    #[error("key {key} cannot be used: {problem}")]
    KeyUnusable {
        /// The key.
        key: String,
        /// Why.
        problem: String,
    },
    /// The key had expired before the signature was made.
    #[error("it was made on {made}, when key {key} had expired already (on {expired})")]
    MadeAfterExpiry {
        /// The key.
        key: String,
        /// Date of the signature.
        made: String,
        /// Date of the key's expiry.
        expired: String,
    },
    /// The key has expired since.
    #[error("key {key} expired on {expired}")]
    KeyExpired {
        /// The key.
        key: String,
        /// Date of the key's expiry.
        expired: String,
    },
    /// The key is revoked.
    #[error("key {key} is revoked ({reason})")]
    KeyRevoked {
        /// The key.
        key: String,
        /// Its owner's reason.
        reason: String,
    },
    /// It was made before the key.
    #[error("it was made on {made}, before key {key} existed")]
    MadeBeforeKey {
        /// The key.
        key: String,
        /// Date of the signature.
        made: String,
    },
    /// The signature itself has expired.
    #[error("it expired on {expired}")]
    Expired {
        /// Date of its expiry.
        expired: String,
    },
    /// The signature is from the future.
    #[error("it was made on {made}, which is in the future")]
    Future {
        /// Date of the signature.
        made: String,
    },
    /// It is about something else than an image.
    #[error("it is not about an image: {0}")]
    Payload(String),
    /// It is about another image.
    #[error("it is for an image with manifest {signed}, and this one is {found}")]
    Digest {
        /// The digest that was signed.
        signed: String,
        /// The manifest's digest.
        found: ContentDigest,
    },
    /// The image was signed as something else.
    #[error("it is for {signed:?}, and the policy accepts {accepted}")]
    Identity {
        /// What it was signed as.
        signed: String,
        /// What would be accepted.
        accepted: String,
    },
}

impl SignatureProblem {
    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Malformed(_) | Self::TooLarge(_) | Self::Payload(_) => {
                "check the place where the signatures are kept".to_owned()
            }
            Self::OtherKey { .. } | Self::NotThisKey { .. } => {
                "if that key is to be trusted, add its public key where the policy says".to_owned()
            }
            Self::Bad { .. } => "the place where the signatures are kept is faulty or not to be trusted".to_owned(),
            Self::Weak(_) => "sign the image anew with SHA-256 or better, and a key that is not too short".to_owned(),
            Self::KeyUnusable { .. } => {
                "renew the key's own signatures with a newer GnuPG (gpg --quick-set-expire), and export it anew".to_owned()
            }
            Self::MadeAfterExpiry { .. } | Self::KeyExpired { .. } => {
                "get the key with its new expiry date, if it has one, or have the image signed with another key".to_owned()
            }
            Self::KeyRevoked { .. } => "have the image signed with another key, and trust that one".to_owned(),
            Self::MadeBeforeKey { .. } | Self::Future { .. } => "check the clocks of this machine and the signer's".to_owned(),
            Self::Expired { .. } => "have the image signed anew".to_owned(),
            Self::Digest { .. } => "the image was changed after it was signed, or was never signed: have it signed anew".to_owned(),
            Self::Identity { .. } => {
                "pull it by the name that it was signed as, or say with signedIdentity in the policy which names are the same".to_owned()
            }
        })
    }
}
