//! sigstore signatures by a key: ECDSA with P-256 or P-384, Ed25519 or RSA, over the document as it is stored.
//!
//! The hash is SHA-256 whatever the curve, as cosign and podman have it. Nothing is asked of a transparency log, and no
//! certificate is believed.

use std::fmt;
use std::path::PathBuf;

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use osupdate_core::oci::ContentDigest;

use super::error::{KeyError, SignatureProblem};
use super::keys::KeyFile;
use super::policy::KeySource;

const KIND: &str = "sigstore";
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";
/// The keys that are supported, and how they sign.
static ALGORITHMS: [&dyn VerificationAlgorithm; 4] = [
    &signature::ECDSA_P256_SHA256_ASN1,
    &signature::ECDSA_P384_SHA256_ASN1,
    &signature::ED25519,
    &signature::RSA_PKCS1_2048_8192_SHA256,
];

/// Trusted public keys.
#[derive(Debug)]
pub(super) struct PublicKeys {
    keys: Vec<PublicKey>,
    /// Where they are, for people.
    place: String,
}

/// One of them.
pub(super) struct PublicKey {
    /// `sha256:` and the hash of the key in DER.
    pub(super) fingerprint: String,
    /// The file that it is in.
    pub(super) file: Option<PathBuf>,
    parsed: ParsedPublicKey,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey").field("fingerprint", &self.fingerprint).field("file", &self.file).finish()
    }
}

impl PublicKeys {
    /// Reads the keys, PEM with one or several `PUBLIC KEY` each.
    pub(super) fn load(source: &KeySource) -> Result<Self, KeyError> {
        let place = source.describe();
        let mut keys = Vec::new();
        for file in source.read()? {
            let malformed =
                |problem: &str| KeyError::Malformed { kind: KIND, place: file.place(), problem: problem.to_owned() };
            let text = std::str::from_utf8(&file.bytes).map_err(|_| malformed("it is not PEM"))?;
            let before = keys.len();
            for block in text.split(BEGIN).skip(1) {
                let (body, _) = block.split_once(END).ok_or_else(|| malformed("its PEM has no end"))?;
                let base64: String = body.split_ascii_whitespace().collect();
                let der = STANDARD.decode(base64).map_err(|_| malformed("its PEM is not base64"))?;
                let parsed = ALGORITHMS.iter().find_map(|algorithm| ParsedPublicKey::new(*algorithm, &der).ok());
                let Some(parsed) = parsed else {
                    return Err(malformed("only P-256, P-384, Ed25519 and RSA from 2048 bits on are supported"));
                };
                keys.push(PublicKey {
                    fingerprint: ContentDigest::sha256(&der).to_string(),
                    file: file.path.clone(),
                    parsed,
                });
            }
            if keys.len() == before {
                return Err(no_key(&file));
            }
        }
        if keys.is_empty() {
            return Err(KeyError::None { kind: KIND, place });
        }
        Ok(Self { keys, place })
    }

    pub(super) fn fingerprints(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| &*key.fingerprint)
    }

    /// The key that made a signature.
    pub(super) fn verify(&self, payload: &[u8], signature: &[u8]) -> Result<&PublicKey, SignatureProblem> {
        let made_it = |key: &&PublicKey| key.parsed.verify_sig(payload, signature).is_ok();
        let key = self.keys.iter().find(made_it);
        key.ok_or_else(|| SignatureProblem::NotThisKey { trusted: self.place.clone() })
    }
}

fn no_key(file: &KeyFile) -> KeyError {
    let text = String::from_utf8_lossy(&file.bytes);
    let problem = if text.contains("PRIVATE KEY-----") {
        "it is a private key, the public one is needed"
    } else if text.contains("-----BEGIN CERTIFICATE") {
        "it is a certificate, a public key is needed"
    } else {
        "it has no -----BEGIN PUBLIC KEY-----"
    };
    KeyError::Malformed { kind: KIND, place: file.place(), problem: problem.to_owned() }
}
