//! [`Signature`]: one signature of a program, found valid.

use thiserror::Error;

use super::certificate::{Certificate, CertificateError, Scheme};
use super::signed_data::SignedData;
use super::{Hash, indirect};

/// A signature with more certificates is refused: each costs time to check.
const CERTIFICATES_MAX: usize = 16;

/// A signature of a program, made for these contents by the holder of the signer's certificate. Whether the certificate
/// is trusted is another question: see [`Signature::leads_to`].
#[derive(Clone, Debug)]
pub struct Signature {
    hash: Hash,
    digest: Vec<u8>,
    /// The signer's certificate, its issuer, the issuer's issuer, as far as the signature carries them; each with the number of
    /// certificates between it and the signer's.
    path: Vec<(Certificate, u8)>,
}

/// Why a signature is worth nothing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// It is not PKCS#7, or damaged.
    #[error("the signature cannot be read")]
    Malformed(#[from] der::Error),
    /// It is something else than a signature of a program.
    #[error("the signature is not one of a program")]
    NotAuthenticode,
    /// It was made for other contents.
    #[error("the signature is of another program, or the program was changed after it was signed")]
    OtherContents,
    /// It uses an algorithm that is not known here, or not to firmware.
    #[error("the signature uses the algorithm {oid}, which is not supported")]
    Algorithm {
        /// Its object identifier.
        oid: String,
    },
    /// It does not have one signer.
    #[error("the signature has {number} signers; one is expected")]
    Signers {
        /// How many.
        number: usize,
    },
    /// It has too many certificates.
    #[error("the signature has more than {CERTIFICATES_MAX} certificates")]
    TooManyCertificates,
    /// The signer's certificate is missing.
    #[error("the signature does not have the certificate of its signer")]
    NoSigner,
    /// A certificate in it cannot be read.
    #[error("the certificate of the signer cannot be read")]
    Certificate(#[from] CertificateError),
    /// The key of the certificate did not make it.
    #[error("the signature was not made with the key of {signer}")]
    Forged {
        /// Subject of the certificate that it names.
        signer: String,
    },
}

impl Signature {
    /// Reads an entry of the certificate table and checks it. `digest_of` is the digest of the program.
    pub(super) fn read(entry: &[u8], digest_of: &mut impl FnMut(Hash) -> Vec<u8>) -> Result<Self, SignatureError> {
        let data = SignedData::read(entry)?;
        if data.content_type != indirect::CONTENT_TYPE {
            return Err(SignatureError::NotAuthenticode);
        }
        let [info] = &data.signers[..] else { return Err(SignatureError::Signers { number: data.signers.len() }) };
        let unknown = || SignatureError::Algorithm { oid: info.digest_algorithm.to_string() };
        let hash = Hash::from_oid(info.digest_algorithm).ok_or_else(unknown)?;
        let (content_hash, content_digest) = indirect::read(data.content)?;
        // Firmware looks for one function only.
        if content_hash != Some(hash) {
            return Err(unknown());
        }
        if content_digest != digest_of(hash) {
            return Err(SignatureError::OtherContents);
        }
        if data.certificates.len() > CERTIFICATES_MAX {
            return Err(SignatureError::TooManyCertificates);
        }
        // One that cannot be read may still not be needed.
        let certificates: Vec<_> = data.certificates.iter().map(|der| Certificate::from_der(der)).collect();
        let is_signer =
            |certificate: &&Certificate| certificate.issuer() == info.issuer && certificate.serial() == info.serial;
        let signer = match certificates.iter().flatten().find(is_signer) {
            Some(signer) => signer.clone(),
            None => {
                return Err(certificates
                    .into_iter()
                    .find_map(Result::err)
                    .map_or(SignatureError::NoSigner, Into::into));
            }
        };
        let scheme = Scheme::new(info.signature_algorithm, Some(hash))
            .ok_or_else(|| SignatureError::Algorithm { oid: info.signature_algorithm.to_string() })?;
        let message = info.message(data.content, hash)?.ok_or(SignatureError::OtherContents)?;
        if !signer.verifies(scheme, &message, info.signature) {
            return Err(SignatureError::Forged { signer: signer.subject().to_owned() });
        }
        let others: Vec<_> = certificates.into_iter().flatten().filter(|certificate| *certificate != signer).collect();
        Ok(Self { hash, digest: content_digest.to_vec(), path: path(signer, others) })
    }

    /// The hash function.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The digest of the program.
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }

    /// The certificate of the signer.
    pub fn signer(&self) -> &Certificate {
        &self.path[0].0
    }

    /// The signer's certificate and those in the signature that issued it, directly or through each other.
    pub fn path(&self) -> impl Iterator<Item = &Certificate> {
        self.path.iter().map(|(certificate, _)| certificate)
    }

    /// Whether who trusts this certificate trusts the signature: it is the signer's, or it is one that issued the signer's,
    /// directly or through others that the signature carries.
    pub fn leads_to(&self, trusted: &Certificate) -> bool {
        self.path.iter().any(|(certificate, below)| certificate == trusted || certificate.is_issued_by(trusted, *below))
    }
}

/// The signer's certificate and all that it leads to, nearest first.
fn path(signer: Certificate, mut others: Vec<Certificate>) -> Vec<(Certificate, u8)> {
    let mut path = vec![(signer, 0)];
    let mut at = 0;
    // Each certificate is added once, so certificates that issue each other do no harm.
    while let Some((certificate, between)) = path.get(at).cloned() {
        let issuers: Vec<_>;
        (issuers, others) = others.into_iter().partition(|other| certificate.is_issued_by(other, between));
        path.extend(issuers.into_iter().map(|issuer| (issuer, between + 1)));
        at += 1;
    }
    path
}
