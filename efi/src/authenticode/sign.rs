//! Signing programs.

use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, PublicKey};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use thiserror::Error;

use super::certificate::{Certificate, CertificateError, Certificates, Scheme};
use super::signature::SignatureError;
use super::table::{self, TableError};
use super::{Hash, digest, indirect, signatures, signed_data};
use crate::pe::{Pe, PeError, checksum};

/// What makes signatures: a key in a file, or in a token that does not give it away.
pub trait SigningKey {
    /// Signs a message: RSASSA-PKCS1-v1_5 with SHA-256.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>;
}

/// An RSA key from a file.
#[allow(missing_debug_implementations, reason = "secret")]
pub struct RsaKey(KeyPair);

/// Why a private key cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It is protected with a passphrase.
    #[error("the private key is encrypted")]
    Encrypted,
    /// There is none.
    #[error("there is no private key in it, neither in PEM (\"BEGIN PRIVATE KEY\") nor in DER")]
    None,
    /// Its PEM is damaged.
    #[error("its PEM is damaged")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// It is of another kind.
    #[error("the private key is not for RSA")]
    NotRsa,
    /// It is damaged, or too short.
    #[error("the private key is not one for RSA with 2048 to 8192 bits")]
    Rejected(#[source] KeyRejected),
}

impl KeyError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Encrypted => Some("decrypt it (openssl pkey -in KEY -out FILE), or keep it in a token (pkcs11:)"),
            Self::NotRsa | Self::Rejected(_) => {
                Some("firmware is only sure to know RSA with 2048 bits: openssl req -new -x509 -newkey rsa:2048 -nodes")
            }
            Self::None | Self::Pem(_) => None,
        }
    }
}

impl RsaKey {
    /// Reads a private key in PEM or DER, in the form of PKCS#8 or PKCS#1.
    pub fn read(file: &[u8]) -> Result<Self, KeyError> {
        // DER begins with a sequence, and PEM is text.
        if file.first() == Some(&0x30) {
            let key = KeyPair::from_pkcs8(file).or_else(|_| KeyPair::from_der(file));
            return key.map(Self).map_err(KeyError::Rejected);
        }
        if contains(file, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(file, b"Proc-Type: 4,ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let key = match PrivateKeyDer::from_pem_slice(file) {
            Ok(PrivateKeyDer::Pkcs1(key)) => KeyPair::from_der(key.secret_pkcs1_der()),
            Ok(PrivateKeyDer::Pkcs8(key)) => KeyPair::from_pkcs8(key.secret_pkcs8_der()),
            Ok(_) => return Err(KeyError::NotRsa),
            Err(rustls_pki_types::pem::Error::NoItemsFound) => return Err(KeyError::None),
            Err(err) => return Err(KeyError::Pem(err)),
        };
        key.map(Self).map_err(KeyError::Rejected)
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        self.0.public_key().clone()
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

impl SigningKey for RsaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)?;
        Ok(signature)
    }
}

/// A key with its certificate.
#[allow(missing_debug_implementations, reason = "secret")]
pub struct Signer {
    key: Box<dyn SigningKey>,
    certificate: Certificate,
    /// Certificates that issued it, for those who trust only the first of them.
    issuers: Vec<Certificate>,
}

/// Why a program was not signed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key cannot be used.
    #[error("cannot use the private key")]
    Key(#[from] KeyError),
    /// The certificate cannot be used.
    #[error("cannot use the certificate")]
    Certificate(#[from] CertificateError),
    /// The certificate is for another kind of key.
    #[error("the certificate of {subject} is not for an RSA key")]
    NotRsa {
        /// Whose it is.
        subject: String,
    },
    /// Key and certificate do not belong together.
    #[error("the private key is not that of the certificate of {subject}")]
    OtherKey {
        /// Whose it is.
        subject: String,
    },
    /// The key made no signature.
    #[error("cannot make a signature")]
    Sign(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file is no program.
    #[error("cannot sign what is not a PE file")]
    Pe(#[from] PeError),
    /// What is there of signatures cannot be read.
    #[error("cannot add a signature to those that are there")]
    Table(#[from] TableError),
    /// It has a signature that is worth nothing.
    #[error("the program has a signature already that is not valid")]
    Invalid(#[source] SignatureError),
    /// There is no room for another signature.
    #[error("the program would be larger than a PE file can be")]
    TooLarge,
    /// The signature could not be written.
    #[error("cannot write the signature")]
    Encode(#[from] der::Error),
}

impl SignError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Key(err) => err.hint(),
            Self::NotRsa { .. } => KeyError::NotRsa.hint(),
            Self::OtherKey { .. } => {
                Some("the certificate of the signer comes first in its file, those of issuers after it")
            }
            Self::Invalid(_) | Self::Table(_) => {
                Some("build it again, or remove its signatures: sbattach --remove FILE")
            }
            _ => None,
        }
    }
}

impl Signer {
    /// Takes a private key and its certificate in PEM or DER. More certificates in the file go along with each signature.
    pub fn from_pem(key: &[u8], certificates: &[u8]) -> Result<Self, SignError> {
        Self::new(Box::new(RsaKey::read(key)?), Certificates::read(certificates)?)
    }

    /// Takes a key and its certificate, which is followed by those that issued it, if at all.
    pub fn new(key: Box<dyn SigningKey>, certificates: Certificates) -> Result<Self, SignError> {
        let mut certificates = certificates.into_iter();
        let certificate = certificates.next().ok_or(CertificateError::None)?;
        if !certificate.is_rsa() {
            return Err(SignError::NotRsa { subject: certificate.subject().to_owned() });
        }
        Ok(Self { key, certificate, issuers: certificates.collect() })
    }

    /// The signer's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Adds a signature to a program and returns the whole file.
    ///
    /// It is padded to a multiple of 8 bytes before, and other signatures stay. A program that has a valid signature with
    /// the same certificate is returned as it is. The same file and key give the same bytes: there is no date in it.
    pub fn sign(&self, file: &[u8]) -> Result<Vec<u8>, SignError> {
        let pe = Pe::parse(file)?;
        for signature in signatures(&pe)? {
            if *signature.map_err(SignError::Invalid)?.signer() == self.certificate {
                return Ok(file.to_vec());
            }
        }
        let table = pe.certificates();
        let mut signed = file.to_vec();
        let start = if table.is_empty() {
            signed.resize(signed.len().next_multiple_of(table::ALIGNMENT), 0);
            signed.len()
        } else {
            table.start
        };
        let digest = digest(&Pe::parse(&signed)?, Hash::Sha256);
        let entry = table::entry(&self.make(&digest)?).ok_or(SignError::TooLarge)?;
        signed.extend(entry);
        let number = |number: usize| u32::try_from(number).map_err(|_| SignError::TooLarge);
        let place = [number(start)?.to_le_bytes(), number(signed.len() - start)?.to_le_bytes()].concat();
        let (entry, field) = (pe.certificate_entry_offset(), pe.checksum_offset());
        signed[entry..entry + place.len()].copy_from_slice(&place);
        let sum = checksum(&signed, field);
        signed[field..field + 4].copy_from_slice(&sum.to_le_bytes());
        Ok(signed)
    }

    /// The PKCS#7 structure.
    fn make(&self, digest: &[u8]) -> Result<Vec<u8>, SignError> {
        let content = indirect::write(Hash::Sha256, digest)?;
        let certificates: Vec<_> = std::iter::once(&self.certificate).chain(&self.issuers).collect();
        signed_data::write(
            indirect::CONTENT_TYPE,
            &content,
            Hash::Sha256,
            &self.certificate,
            &certificates,
            |message| {
                let signature = self.key.sign(message).map_err(SignError::Sign)?;
                match self.certificate.verifies(Scheme::Rsa(Hash::Sha256), message, &signature) {
                    true => Ok(signature),
                    false => Err(SignError::OtherKey { subject: self.certificate.subject().to_owned() }),
                }
            },
        )
    }
}
