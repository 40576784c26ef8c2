//! Keys and certificates for tests.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use der::asn1::{BitStringRef, ObjectIdentifier, OctetStringRef, PrintableStringRef, UtcTime, Utf8StringRef};
use der::{DateTime, Encode as _, Tag};

use super::asn1::{CONTEXT_0, CONTEXT_3, algorithm, element};
use super::certificate::{Certificate, Certificates};
use super::sign::{Signer, SigningKey};

/// A new key with its certificate, with which others can be issued. The certificate expired long ago, which firmware ignores.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "keys have nothing to show")]
pub struct Authority {
    key: Arc<KeyPair>,
    name: String,
    certificate: Certificate,
    issuers: Vec<Certificate>,
}

/// What a certificate says that it may be used for.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Whether it may issue others.
    pub authority: bool,
    /// How many others may be between it and a signer's.
    pub path_length: Option<u8>,
    /// An extended key usage.
    pub extended: Option<&'static str>,
    /// Whether it is an authority by its key usage alone, without basic constraints.
    pub by_key_usage: bool,
    /// Whether it has a critical extension that nobody knows.
    pub unknown_critical: bool,
    /// Whether it writes the name of its issuer in capitals, as a PrintableString.
    pub issuer_in_capitals: bool,
}

struct Key(Arc<KeyPair>);

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(sign(&self.0, message))
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate(KeySize::Rsa2048).expect("a key")
}

/// A key in PKCS#8, for what has to be the same each time.
///
/// # Panics
/// When it is not one.
pub fn key(der: &[u8]) -> KeyPair {
    KeyPair::from_pkcs8(der).expect("a key for RSA in PKCS#8")
}

fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("a signature");
    signature
}

impl Authority {
    /// Makes a key and a certificate that it has issued itself.
    pub fn new(name: &str) -> Self {
        Self::with_key(name, new_key())
    }

    /// Makes a certificate that a key has issued itself.
    pub fn with_key(name: &str, key: KeyPair) -> Self {
        let key = Arc::new(key);
        let usage = Usage { authority: true, ..Usage::default() };
        let certificate = certificate(&key, name, &key, name, &usage);
        Self { key, name: name.to_owned(), certificate, issuers: Vec::new() }
    }

    /// Makes a key and issues a certificate for it.
    pub fn issue(&self, name: &str, usage: &Usage) -> Self {
        self.issue_for_key(name, usage, new_key())
    }

    /// Issues a certificate for a key.
    pub fn issue_for_key(&self, name: &str, usage: &Usage, key: KeyPair) -> Self {
        let key = Arc::new(key);
        let certificate = certificate(&self.key, &self.name, &key, name, usage);
        let issuers = std::iter::once(&self.certificate).chain(&self.issuers).cloned().collect();
        Self { key, name: name.to_owned(), certificate, issuers }
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its certificate alone, to be trusted.
    pub fn certificates(&self) -> Certificates {
        std::iter::once(self.certificate.clone()).collect()
    }

    /// Signs programs with its key; only its own certificate goes along.
    pub fn signer(&self) -> Signer {
        Signer::new(Box::new(Key(self.key.clone())), self.certificates()).expect("a signer")
    }

    /// Signs programs with its key; the certificates of those that issued it go along, except for the first.
    pub fn signer_with_issuers(&self) -> Signer {
        let issuers = self.issuers.iter().take(self.issuers.len().saturating_sub(1));
        let certificates = std::iter::once(&self.certificate).chain(issuers).cloned().collect();
        Signer::new(Box::new(Key(self.key.clone())), certificates).expect("a signer")
    }
}

/// A certificate for `key` by `issuer_key`.
fn certificate(issuer_key: &KeyPair, issuer: &str, key: &KeyPair, subject: &str, usage: &Usage) -> Certificate {
    let build = || -> der::Result<Vec<u8>> {
        let signature_algorithm = algorithm(ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11"))?;
        let date = |year| UtcTime::from_date_time(DateTime::new(year, 1, 1, 0, 0, 0)?)?.to_der();
        let key_info = element(
            Tag::Sequence,
            &[
                &algorithm(ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1"))?,
                &BitStringRef::from_bytes(key.public_key().as_ref())?.to_der()?,
            ],
        )?;
        let mut basic = Vec::new();
        if usage.authority {
            basic.extend(true.to_der()?);
        }
        if let Some(length) = usage.path_length {
            basic.extend(length.to_der()?);
        }
        let mut extensions = match usage.by_key_usage {
            // A bit string with the bit for signing certificates.
            true => extension("2.5.29.15", &[3, 2, 2, 4])?,
            false => extension("2.5.29.19", &element(Tag::Sequence, &[&basic])?)?,
        };
        if usage.unknown_critical {
            let oid = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.99999.1").to_der()?;
            let value = OctetStringRef::new(&[5, 0])?.to_der()?;
            extensions.extend(element(Tag::Sequence, &[&oid, &true.to_der()?, &value])?);
        }
        if let Some(usage) = usage.extended {
            let usage = ObjectIdentifier::new_unwrap(usage).to_der()?;
            extensions.extend(extension("2.5.29.37", &element(Tag::Sequence, &[&usage])?)?);
        }
        // The beginning of the key is as good a serial number as any.
        let serial = element(Tag::Integer, &[&[1], &key.public_key().as_ref()[20..28]])?;
        let tbs = element(
            Tag::Sequence,
            &[
                &element(CONTEXT_0, &[&2_u8.to_der()?])?,
                &serial,
                &signature_algorithm,
                &match usage.issuer_in_capitals {
                    true => name(&PrintableStringRef::new(&issuer.to_ascii_uppercase())?.to_der()?)?,
                    false => common_name(issuer)?,
                },
                &element(Tag::Sequence, &[&date(2001)?, &date(2002)?])?,
                &common_name(subject)?,
                &key_info,
                &element(CONTEXT_3, &[&element(Tag::Sequence, &[&extensions])?])?,
            ],
        )?;
        let signature = sign(issuer_key, &tbs);
        let signature = BitStringRef::from_bytes(&signature)?.to_der()?;
        element(Tag::Sequence, &[&tbs, &signature_algorithm, &signature])
    };
    Certificate::from_der(&build().expect("a certificate")).expect("a correct certificate")
}

fn extension(oid: &str, value: &[u8]) -> der::Result<Vec<u8>> {
    let value = OctetStringRef::new(value)?.to_der()?;
    element(Tag::Sequence, &[&ObjectIdentifier::new_unwrap(oid).to_der()?, &value])
}

/// A name with a common name only.
fn common_name(common: &str) -> der::Result<Vec<u8>> {
    name(&Utf8StringRef::new(common)?.to_der()?)
}

fn name(text: &[u8]) -> der::Result<Vec<u8>> {
    let oid = ObjectIdentifier::new_unwrap("2.5.4.3").to_der()?;
    let part = element(Tag::Sequence, &[&oid, text])?;
    element(Tag::Sequence, &[&element(Tag::Set, &[&part])?])
}
