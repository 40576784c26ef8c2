//! X.509 certificates, as far as firmware looks at them.

use std::fmt;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, OctetStringRef};
use der::{Decode as _, Reader as _, TagMode, TagNumber};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use thiserror::Error;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use x509_cert::name::Name;

use super::Hash;
use super::asn1::CONTEXT_3;

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// Names in certificates of strangers are shown up to here.
const NAME_MAX: usize = 200;

/// An X.509 certificate.
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    /// The part that its issuer has signed.
    tbs: Vec<u8>,
    serial: Vec<u8>,
    issuer: Vec<u8>,
    subject: Vec<u8>,
    key: Key,
    signature_algorithm: ObjectIdentifier,
    signature: Vec<u8>,
    may_issue: bool,
    /// How many others may be between it and a signer's, if that is limited.
    path_length: Option<u8>,
    extended_key_usage: Vec<ObjectIdentifier>,
    subject_text: String,
}

#[derive(Clone)]
struct Key {
    kind: KeyKind,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyKind {
    Rsa,
    P256,
    P384,
    Other,
}

/// How a signature was made.
#[derive(Clone, Copy)]
pub(super) enum Scheme {
    Rsa(Hash),
    Ecdsa(Hash),
}

impl Scheme {
    /// By the algorithm of a signature, and the hash function that stands beside it where the algorithm names none.
    pub(super) fn new(oid: ObjectIdentifier, hash: Option<Hash>) -> Option<Self> {
        // The families have an arc each; the last number is the hash function.
        const RSA: [(&str, Hash); 3] = [
            ("1.2.840.113549.1.1.11", Hash::Sha256),
            ("1.2.840.113549.1.1.12", Hash::Sha384),
            ("1.2.840.113549.1.1.13", Hash::Sha512),
        ];
        const ECDSA: [(&str, Hash); 3] = [
            ("1.2.840.10045.4.3.2", Hash::Sha256),
            ("1.2.840.10045.4.3.3", Hash::Sha384),
            ("1.2.840.10045.4.3.4", Hash::Sha512),
        ];
        let of = |table: [(&str, Hash); 3]| {
            table.into_iter().find(|(name, _)| ObjectIdentifier::new(name) == Ok(oid)).map(|(_, hash)| hash)
        };
        match oid {
            RSA_ENCRYPTION => hash.map(Self::Rsa),
            EC_PUBLIC_KEY => hash.map(Self::Ecdsa),
            _ => of(RSA).map(Self::Rsa).or_else(|| of(ECDSA).map(Self::Ecdsa)),
        }
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// There is none.
    #[error("there is no certificate in it, neither in PEM (\"BEGIN CERTIFICATE\") nor in DER")]
    None,
    /// The PEM is damaged.
    #[error("its PEM is damaged")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// The certificate is damaged.
    #[error("it is not an X.509 certificate, or a damaged one")]
    Der(#[from] der::Error),
}

impl Certificate {
    /// Reads a certificate in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self::parse(der)?)
    }

    fn parse(der: &[u8]) -> der::Result<Self> {
        let (tbs, signature_algorithm, signature) = AnyRef::from_der(der)?.sequence(|certificate| {
            let tbs = certificate.tlv_bytes()?;
            let algorithm = certificate.decode::<AlgorithmIdentifierRef<'_>>()?.oid;
            Ok((tbs, algorithm, certificate.decode::<BitStringRef<'_>>()?.raw_bytes()))
        })?;
        AnyRef::from_der(tbs)?.sequence(|fields| {
            let version = fields.context_specific::<u8>(TagNumber::N0, TagMode::Explicit)?.unwrap_or(0);
            let serial = fields.tlv_bytes()?;
            let _algorithm = fields.tlv_bytes()?;
            let issuer = fields.tlv_bytes()?;
            let _validity = fields.tlv_bytes()?;
            let subject = fields.tlv_bytes()?;
            let key = Key::new(&fields.decode()?);
            let mut extensions = Extensions::default();
            while !fields.is_finished() {
                let field: AnyRef<'_> = fields.decode()?;
                if der::Tagged::tag(&field) == CONTEXT_3 {
                    extensions = Extensions::parse(field.value())?;
                }
            }
            Ok(Self {
                der: der.to_vec(),
                tbs: tbs.to_vec(),
                serial: serial.to_vec(),
                issuer: issuer.to_vec(),
                subject: subject.to_vec(),
                key,
                signature_algorithm,
                signature: signature.to_vec(),
                may_issue: extensions.may_issue(version, issuer == subject),
                path_length: extensions.basic.and_then(|basic| basic.path_len_constraint),
                extended_key_usage: extensions.extended_key_usage,
                subject_text: name_text(subject),
            })
        })
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whom it belongs to, in the form of RFC 4514: `CN=Example db,O=Example`. Without control characters, and cut if it
    /// is long.
    pub fn subject(&self) -> &str {
        &self.subject_text
    }

    /// Digest of the part that its issuer has signed: by it certificates are revoked.
    pub fn tbs_digest(&self, hash: Hash) -> Vec<u8> {
        hash.of(&self.tbs)
    }

    /// Whether its key is for RSA, the only kind that all firmware knows.
    pub fn is_rsa(&self) -> bool {
        self.key.kind == KeyKind::Rsa
    }

    /// Whether its extended key usages have this one.
    pub(crate) fn has_usage(&self, usage: ObjectIdentifier) -> bool {
        self.extended_key_usage.contains(&usage)
    }

    pub(super) fn serial(&self) -> &[u8] {
        &self.serial
    }

    pub(super) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// Whether its key has made a signature.
    pub(super) fn verifies(&self, scheme: Scheme, message: &[u8], made: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match (self.key.kind, scheme) {
            (KeyKind::Rsa, Scheme::Rsa(Hash::Sha256)) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa, Scheme::Rsa(Hash::Sha384)) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa, Scheme::Rsa(Hash::Sha512)) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::P256, Scheme::Ecdsa(Hash::Sha256)) => &signature::ECDSA_P256_SHA256_ASN1,
            (KeyKind::P384, Scheme::Ecdsa(Hash::Sha256)) => &signature::ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, Scheme::Ecdsa(Hash::Sha384)) => &signature::ECDSA_P384_SHA384_ASN1,
            _ => return false,
        };
        UnparsedPublicKey::new(algorithm, &self.key.bytes).verify(message, made).is_ok()
    }

    /// Whether `issuer` has issued it, with so many certificates between `issuer` and a signer's.
    pub(super) fn is_issued_by(&self, issuer: &Self, between: u8) -> bool {
        issuer.may_issue
            && issuer.path_length.is_none_or(|most| between <= most)
            && issuer.subject == self.issuer
            && Scheme::new(self.signature_algorithm, None)
                .is_some_and(|scheme| issuer.verifies(scheme, &self.tbs, &self.signature))
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.subject_text).finish()
    }
}

impl Key {
    fn new(info: &SubjectPublicKeyInfoRef<'_>) -> Self {
        let curve = || info.algorithm.parameters_oid().ok();
        let kind = match info.algorithm.oid {
            RSA_ENCRYPTION => KeyKind::Rsa,
            EC_PUBLIC_KEY if curve() == Some(P256) => KeyKind::P256,
            EC_PUBLIC_KEY if curve() == Some(P384) => KeyKind::P384,
            _ => KeyKind::Other,
        };
        Self { kind, bytes: info.subject_public_key.raw_bytes().to_vec() }
    }
}

/// The extensions that decide what a certificate may be used for.
#[derive(Default)]
struct Extensions {
    basic: Option<BasicConstraints>,
    usage: Option<KeyUsage>,
    extended_key_usage: Vec<ObjectIdentifier>,
}

impl Extensions {
    fn parse(bytes: &[u8]) -> der::Result<Self> {
        let mut found = Self::default();
        AnyRef::from_der(bytes)?.sequence(|list| {
            while !list.is_finished() {
                let extension: AnyRef<'_> = list.decode()?;
                extension.sequence(|fields| {
                    let oid: ObjectIdentifier = fields.decode()?;
                    let _critical: Option<bool> = fields.decode()?;
                    let value = fields.decode::<OctetStringRef<'_>>()?.as_bytes();
                    match oid {
                        BASIC_CONSTRAINTS => found.basic = Some(BasicConstraints::from_der(value)?),
                        KEY_USAGE => found.usage = Some(KeyUsage::from_der(value)?),
                        EXTENDED_KEY_USAGE => found.extended_key_usage = ExtendedKeyUsage::from_der(value)?.0,
                        _ => {}
                    }
                    Ok(())
                })?;
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Whether certificates may be issued with it, by the rules of OpenSSL, which firmware and shim use.
    fn may_issue(&self, version: u8, self_issued: bool) -> bool {
        if self.usage.is_some_and(|usage| !usage.key_cert_sign()) {
            return false;
        }
        match &self.basic {
            Some(basic) => basic.ca,
            None => self.usage.is_some() || version == 0 && self_issued,
        }
    }
}

fn name_text(name: &[u8]) -> String {
    let text = Name::from_der(name).map(|name| name.to_string()).unwrap_or_default();
    let text: String = text.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
    if text.is_empty() { "a certificate without a name".to_owned() } else { text }
}

/// Certificates, in an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates(Vec<Certificate>);

impl Certificates {
    /// Reads a file with certificates in PEM, or one in DER.
    pub fn read(file: &[u8]) -> Result<Self, CertificateError> {
        // DER begins with a sequence, and PEM is text.
        if file.first() == Some(&0x30) {
            return Ok(Self(vec![Certificate::from_der(file)?]));
        }
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file)
            .map(|certificate| Certificate::from_der(&certificate.map_err(CertificateError::Pem)?))
            .collect();
        match found? {
            found if found.is_empty() => Err(CertificateError::None),
            found => Ok(Self(found)),
        }
    }

    /// The certificates.
    pub fn iter(&self) -> std::slice::Iter<'_, Certificate> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Certificate> for Certificates {
    fn from_iter<T: IntoIterator<Item = Certificate>>(certificates: T) -> Self {
        Self(certificates.into_iter().collect())
    }
}

impl IntoIterator for Certificates {
    type Item = Certificate;
    type IntoIter = std::vec::IntoIter<Certificate>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Certificates {
    type Item = &'a Certificate;
    type IntoIter = std::slice::Iter<'a, Certificate>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
