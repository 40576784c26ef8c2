//! X.509 certificates, as far as firmware looks at them.

use std::fmt;

use aws_lc_rs::signature::{self, RsaParameters, UnparsedPublicKey, VerificationAlgorithm};
use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, OctetStringRef};
use der::{Decode as _, Reader as _, SliceReader, TagMode, TagNumber};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use thiserror::Error;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use x509_cert::name::Name;

use super::asn1::CONTEXT_3;
use super::{Hash, name};

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// Names in certificates of strangers are shown up to here.
const NAME_MAX: usize = 200;

/// Extensions that OpenSSL knows; a certificate with another one that is critical leads nowhere.
const KNOWN_EXTENSIONS: [&str; 14] = [
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.19",
    "2.5.29.30",
    "2.5.29.31",
    "2.5.29.32",
    "2.5.29.33",
    "2.5.29.36",
    "2.5.29.37",
    "2.5.29.54",
    "1.3.6.1.5.5.7.1.7",
    "1.3.6.1.5.5.7.1.8",
    "1.3.6.1.5.5.7.1.14",
    "2.16.840.1.113730.1.1",
];
/// How certificates were issued that nobody should trust any more, and that firmware still follows: with SHA-1, or short keys.
const LEGACY: [(&str, &RsaParameters); 3] = [
    ("1.2.840.113549.1.1.5", &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY),
    ("1.2.840.113549.1.1.11", &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
    ("1.2.840.113549.1.1.13", &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY),
];

/// An X.509 certificate.
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    /// The part that its issuer has signed.
    tbs: Vec<u8>,
    serial: Vec<u8>,
    issuer: Vec<u8>,
    /// The names in the form in which they are compared.
    canonical_issuer: Vec<u8>,
    canonical_subject: Vec<u8>,
    key: Key,
    signature_algorithm: ObjectIdentifier,
    signature: Vec<u8>,
    may_issue: bool,
    /// Whether it says in basic constraints that it is an authority.
    is_authority: bool,
    /// Whether all is understood that it says must be.
    is_understood: bool,
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
    /// Reads a certificate in DER. Bytes behind it do not belong to it.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self::parse(der)?)
    }

    fn parse(der: &[u8]) -> der::Result<Self> {
        // Lists of signatures may pad what they have, and OpenSSL takes no notice.
        let der = SliceReader::new(der)?.tlv_bytes()?;
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
            let (canonical_issuer, canonical_subject) = (name::canonical(issuer), name::canonical(subject));
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
                key,
                signature_algorithm,
                signature: signature.to_vec(),
                may_issue: extensions.may_issue(version, canonical_issuer == canonical_subject),
                is_authority: extensions.basic.as_ref().is_some_and(|basic| basic.ca),
                is_understood: extensions.all_understood,
                canonical_issuer,
                canonical_subject,
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

    /// Whether it has no critical extension that is unknown to OpenSSL.
    pub(super) fn is_understood(&self) -> bool {
        self.is_understood
    }

    /// Whether basic constraints say that it may issue others.
    pub(super) fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// Whether it is meant by the name of its issuer and its serial number.
    pub(super) fn is_named(&self, issuer: &[u8], serial: &[u8]) -> bool {
        self.serial == serial && self.canonical_issuer == name::canonical(issuer)
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
            && issuer.canonical_subject == self.canonical_issuer
            && issuer.has_signed(self)
    }

    /// Whether `issuer` may have issued it in the eyes of others: also with algorithms that nobody should trust, and against what
    /// `issuer` says of itself.
    pub(super) fn may_be_issued_by(&self, issuer: &Self) -> bool {
        let by_legacy = || {
            let algorithms =
                LEGACY.iter().filter(|(oid, _)| ObjectIdentifier::new(oid) == Ok(self.signature_algorithm));
            let verifies = |algorithm: &'static RsaParameters| {
                UnparsedPublicKey::new(algorithm, &issuer.key.bytes).verify(&self.tbs, &self.signature).is_ok()
            };
            issuer.is_rsa() && algorithms.into_iter().any(|(_, algorithm)| verifies(algorithm))
        };
        issuer.canonical_subject == self.canonical_issuer && (issuer.has_signed(self) || by_legacy())
    }

    fn has_signed(&self, other: &Self) -> bool {
        Scheme::new(other.signature_algorithm, None)
            .is_some_and(|scheme| self.verifies(scheme, &other.tbs, &other.signature))
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
struct Extensions {
    basic: Option<BasicConstraints>,
    usage: Option<KeyUsage>,
    extended_key_usage: Vec<ObjectIdentifier>,
    /// Whether those that are critical are known.
    all_understood: bool,
}

impl Default for Extensions {
    fn default() -> Self {
        Self { basic: None, usage: None, extended_key_usage: Vec::new(), all_understood: true }
    }
}

impl Extensions {
    fn parse(bytes: &[u8]) -> der::Result<Self> {
        let mut found = Self::default();
        AnyRef::from_der(bytes)?.sequence(|list| {
            while !list.is_finished() {
                let extension: AnyRef<'_> = list.decode()?;
                extension.sequence(|fields| {
                    let oid: ObjectIdentifier = fields.decode()?;
                    let critical = fields.decode::<Option<bool>>()?.unwrap_or(false);
                    let value = fields.decode::<OctetStringRef<'_>>()?.as_bytes();
                    match oid {
                        BASIC_CONSTRAINTS => found.basic = Some(BasicConstraints::from_der(value)?),
                        KEY_USAGE => found.usage = Some(KeyUsage::from_der(value)?),
                        EXTENDED_KEY_USAGE => found.extended_key_usage = ExtendedKeyUsage::from_der(value)?.0,
                        _ if KNOWN_EXTENSIONS.iter().any(|known| ObjectIdentifier::new(known) == Ok(oid)) => {}
                        _ => found.all_understood &= !critical,
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
