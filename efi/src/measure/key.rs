//! [`PolicyKey`], which signs values of PCR 11.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use thiserror::Error;

use crate::authenticode::{self, RsaKey, SigningKey};

/// Of the lines in a PEM file.
const PEM_LINE_BYTES: usize = 64;

/// Why a key cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It is no private key that can be used.
    #[error(transparent)]
    Private(#[from] authenticode::KeyError),
    /// There is no public key in the file.
    #[error("there is no public key in it, in PEM (\"BEGIN PUBLIC KEY\")")]
    None,
    /// The public key is of another kind.
    #[error("the public key is not one for RSA with 2048 to 8192 bits, which TPM policies need")]
    NotRsa,
    /// Signing has failed.
    #[error("the key cannot sign")]
    Sign(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What was signed does not fit the public key.
    #[error("the public key is not the one that belongs to the private key")]
    NotAPair,
}

/// A private RSA key, and the public one that belongs to it.
pub struct PolicyKey {
    key: Box<dyn SigningKey>,
    public: PublicKey,
}

impl fmt::Debug for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl PolicyKey {
    /// Reads a private key as [`RsaKey::read`] does.
    pub fn read(file: &[u8]) -> Result<Self, KeyError> {
        let key = RsaKey::read(file)?;
        Ok(Self { public: PublicKey(key.public()), key: Box::new(key) })
    }

    /// A key from elsewhere. Signs something, to find out whether the keys belong together.
    pub fn new(key: Box<dyn SigningKey>, public: PublicKey) -> Result<Self, KeyError> {
        let key = Self { key, public };
        key.sign(b"do they belong together?")?;
        Ok(key)
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs with RSASSA-PKCS1-v1_5 and SHA-256, whatever the bank is. The same input gives the same bytes.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.key.sign(message).map_err(KeyError::Sign)?;
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.public.0.as_ref());
        public.verify(message, &signature).map_err(|_| KeyError::NotAPair)?;
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
        let info = info.map_err(|_| KeyError::None)?;
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
