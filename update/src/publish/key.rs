//! The key that signs a summary.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, ParsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use osupdate_core::oci::ContentDigest;
use osupdate_core::published::{Envelope, EnvelopeSignature};
use thiserror::Error;

/// Why a key cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SummaryKeyError {
    /// The file cannot be read.
    #[error("cannot read the key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is locked with a passphrase.
    #[error("the private key in {} is encrypted, which is not supported", .0.display())]
    Encrypted(PathBuf),
    /// It has no key that can be used.
    #[error("{} has no private key in PEM for Ed25519 or ECDSA with P-256", .0.display())]
    Form(PathBuf),
    /// It does not sign.
    #[error("the key cannot sign the summary")]
    Sign,
}

impl SummaryKeyError {
    /// The next step for the user.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Encrypted(_) => Some("decrypt it for the time being: openssl pkey -in KEY -out DECRYPTED"),
            Self::Form(_) => Some(
                "make one with: openssl genpkey -algorithm ed25519 -out KEY; and its public half for those who verify: \
                 openssl pkey -in KEY -pubout",
            ),
            Self::Read { .. } | Self::Sign => None,
        }
    }
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    EcdsaP256(EcdsaKeyPair),
}

/// A private key that signs summaries.
pub struct SummaryKey {
    pair: Pair,
    /// The public key in DER.
    public: Vec<u8>,
}

impl fmt::Debug for SummaryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SummaryKey").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

impl SummaryKey {
    /// Reads a private key in PEM: PKCS #8, or the older form of OpenSSL for elliptic curves.
    ///
    /// # Errors
    /// When there is none that can be used.
    pub fn read(path: &Path) -> Result<Self, SummaryKeyError> {
        let text = fs::read(path).map_err(|source| SummaryKeyError::Read { path: path.to_owned(), source })?;
        let text = String::from_utf8_lossy(&text);
        if text.contains("-----BEGIN ENCRYPTED ") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(SummaryKeyError::Encrypted(path.to_owned()));
        }
        Self::parse(&text).ok_or_else(|| SummaryKeyError::Form(path.to_owned()))
    }

    fn parse(text: &str) -> Option<Self> {
        let der = |kind: &str| {
            let (_, body) = text.split_once(&format!("-----BEGIN {kind}-----"))?;
            let (body, _) = body.split_once(&format!("-----END {kind}-----"))?;
            STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
        };
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair = match der("PRIVATE KEY") {
            Some(der) => match Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
                Ok(pair) => Pair::Ed25519(pair),
                Err(_) => Pair::EcdsaP256(EcdsaKeyPair::from_pkcs8(algorithm, &der).ok()?),
            },
            None => Pair::EcdsaP256(EcdsaKeyPair::from_private_key_der(algorithm, &der("EC PRIVATE KEY")?).ok()?),
        };
        let public = match &pair {
            Pair::Ed25519(pair) => pair.public_key().as_der().ok()?.as_ref().to_vec(),
            Pair::EcdsaP256(pair) => pair.public_key().as_der().ok()?.as_ref().to_vec(),
        };
        Some(Self { pair, public })
    }

    /// `sha256:` and the hash of the public key in DER.
    pub fn fingerprint(&self) -> String {
        ContentDigest::sha256(&self.public).to_string()
    }

    /// Signs a summary; the signature comes after those that are there.
    pub(super) fn sign(&self, envelope: &mut Envelope) -> Result<(), SummaryKeyError> {
        let bytes = envelope.signed_bytes();
        let sig = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(&bytes).as_ref().to_vec(),
            Pair::EcdsaP256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), &bytes).map_err(|_| SummaryKeyError::Sign)?;
                signature.as_ref().to_vec()
            }
        };
        envelope.signatures.push(EnvelopeSignature { keyid: self.fingerprint(), sig });
        Ok(())
    }

    /// Whether this key has signed a summary.
    pub(super) fn has_signed(&self, envelope: &Envelope) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.pair {
            Pair::Ed25519(_) => &signature::ED25519,
            Pair::EcdsaP256(_) => &signature::ECDSA_P256_SHA256_ASN1,
        };
        let Ok(public) = ParsedPublicKey::new(algorithm, &self.public) else { return false };
        let bytes = envelope.signed_bytes();
        envelope.signatures.iter().any(|signature| public.verify_sig(&bytes, &signature.sig).is_ok())
    }
}
