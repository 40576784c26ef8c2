//! [`PolicyKey`], which signs values of PCR 11.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use thiserror::Error;

/// Of the lines in a PEM file.
const PEM_LINE_BYTES: usize = 64;

/// Why a key cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file is not PEM, or has none of the keys that are wanted.
    #[error("it has no {wanted} in PEM form")]
    NotPem {
        /// `private key` or `public key`.
        wanted: &'static str,
    },
    /// The key is protected by a passphrase.
    #[error("the private key is encrypted: a key without a passphrase is needed")]
    Encrypted,
    /// It is no RSA key, or has an unusual size.
    #[error("it is not an RSA key of 2048 to 8192 bits, which TPM policies need")]
    NotRsa,
    /// Signing has failed.
    #[error("the key cannot sign")]
    Sign,
}

/// A private RSA key.
pub struct PolicyKey(RsaKeyPair);

impl fmt::Debug for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyKey").finish_non_exhaustive()
    }
}

impl PolicyKey {
    /// Reads a private key in PEM form, PKCS #8 or PKCS #1, that is not encrypted.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let encrypted = |needle: &[u8]| pem.windows(needle.len()).any(|window| window == needle);
        if encrypted(b"ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::NotPem { wanted: "private key" })?;
        let pair = match &key {
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            _ => return Err(KeyError::NotRsa),
        };
        pair.map(Self).map_err(|_| KeyError::NotRsa)
    }

    /// The public key that belongs to it.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().clone())
    }

    /// Signs with RSASSA-PKCS1-v1_5 and SHA-256, whatever the bank is. The same input gives the same bytes.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        let signed = self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature);
        signed.map_err(|_| KeyError::Sign)?;
        Ok(signature)
    }
}

/// A public RSA key.
#[derive(Clone, Debug)]
pub struct PublicKey(rsa::PublicKey);

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref() == other.0.as_ref()
    }
}

impl Eq for PublicKey {}

impl PublicKey {
    /// Reads a public key in PEM form, `BEGIN PUBLIC KEY`.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let info = SubjectPublicKeyInfoDer::from_pem_slice(pem);
        let info = info.map_err(|_| KeyError::NotPem { wanted: "public key" })?;
        rsa::PublicKey::from_der(info.as_ref()).map(Self).map_err(|_| KeyError::NotRsa)
    }

    /// In PEM form, as the section `.pcrpkey` has it.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let info = self.0.as_der().map_err(|_| KeyError::NotRsa)?;
        let text = STANDARD.encode(info.as_ref());
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        let mut rest = &text[..];
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(PEM_LINE_BYTES));
            pem.push_str(line);
            pem.push('\n');
            rest = after;
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
        Ok(pem)
    }

    /// What names the key in signatures: SHA-256 of the key as PKCS #1 has it.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<u8> {
        digest(&SHA256, self.0.as_ref()).as_ref().to_vec()
    }
}
