//! [`Signature`]: one signature of a program, found valid.

use thiserror::Error;

use super::certificate::{Certificate, CertificateError, Scheme};
use super::path::Path;
use super::signed_data::SignedData;
use super::{Hash, indirect};

/// A signature with more certificates is refused: each costs time to check.
const CERTIFICATES_MAX: usize = 16;
/// Where firmware looks for the object identifier of the hash function: it takes no notice of what comes before.
const HASH_OFFSET: usize = 32;
/// The second byte of an element whose length has two bytes.
const TWO_BYTES_OF_LENGTH: u8 = 0x82;

/// A signature of a program, made for these contents by the holder of the signer's certificate. Whether the certificate
/// is trusted is another question: see [`Signature::leads_to`].
#[derive(Clone, Debug)]
pub struct Signature {
    hash: Hash,
    digest: Vec<u8>,
    path: Path,
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
    /// Firmware does not find the hash function.
    #[error(
        "firmware does not see which hash function the signature uses: it is not where signatures of programs have it"
    )]
    Form,
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

/// An entry of the certificate table that is meant as a signature.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The hash function that firmware finds in it; without one it takes no notice of the entry.
    pub(crate) firmware_hash: Option<Hash>,
    /// From the signer that it names, if that can be seen, even if the signature is worth nothing.
    pub(crate) path: Option<Path>,
    /// The signature, or why it is worth nothing.
    pub(crate) signature: Result<Signature, SignatureError>,
}

impl Entry {
    /// Reads an entry of the certificate table and checks it. `digest_of` is the digest of the program.
    pub(super) fn read(entry: &[u8], digest_of: &mut impl FnMut(Hash) -> Vec<u8>) -> Self {
        let firmware_hash = firmware_hash(entry);
        let (data, path) = match SignedData::read(entry).map_err(Into::into).and_then(|data| Ok((path(&data)?, data))) {
            Ok((path, data)) => (data, path),
            Err(error) => return Self { firmware_hash, path: None, signature: Err(error) },
        };
        let signature = check(&data, &path, firmware_hash, digest_of).map(|(hash, digest)| Signature {
            hash,
            digest,
            path: path.clone(),
        });
        Self { firmware_hash, path: Some(path), signature }
    }
}

/// The hash function that firmware finds in a signature: at a fixed place, where it is if lengths have two bytes.
fn firmware_hash(entry: &[u8]) -> Option<Hash> {
    let found = entry.get(HASH_OFFSET..).filter(|_| entry[1] == TWO_BYTES_OF_LENGTH)?;
    Hash::ALL.into_iter().find(|hash| found.starts_with(hash.oid().as_bytes()))
}

/// From the signer that is named.
fn path(data: &SignedData<'_>) -> Result<Path, SignatureError> {
    let [info] = &data.signers[..] else { return Err(SignatureError::Signers { number: data.signers.len() }) };
    if data.certificates.len() > CERTIFICATES_MAX {
        return Err(SignatureError::TooManyCertificates);
    }
    // One that cannot be read may still not be needed.
    let certificates: Vec<_> = data.certificates.iter().map(|der| Certificate::from_der(der)).collect();
    let is_signer = |certificate: &&Certificate| certificate.is_named(info.issuer, info.serial);
    let Some(signer) = certificates.iter().flatten().find(is_signer).cloned() else {
        return Err(certificates.into_iter().find_map(Result::err).map_or(SignatureError::NoSigner, Into::into));
    };
    let others: Vec<_> = certificates.into_iter().flatten().filter(|certificate| *certificate != signer).collect();
    Ok(Path::new(signer, &others))
}

/// Checks that the first of the path has signed this program; gives the hash function and the digest.
fn check(
    data: &SignedData<'_>,
    path: &Path,
    firmware_hash: Option<Hash>,
    digest_of: &mut impl FnMut(Hash) -> Vec<u8>,
) -> Result<(Hash, Vec<u8>), SignatureError> {
    if data.content_type != indirect::CONTENT_TYPE {
        return Err(SignatureError::NotAuthenticode);
    }
    let [info] = &data.signers[..] else { return Err(SignatureError::Signers { number: data.signers.len() }) };
    let unknown = || SignatureError::Algorithm { oid: info.digest_algorithm.to_string() };
    let hash = Hash::from_oid(info.digest_algorithm).ok_or_else(unknown)?;
    let (content_hash, content_digest) = indirect::read(data.content)?;
    if content_hash != Some(hash) {
        return Err(unknown());
    }
    if firmware_hash != Some(hash) {
        return Err(SignatureError::Form);
    }
    if content_digest != digest_of(hash) {
        return Err(SignatureError::OtherContents);
    }
    let signer = path.signer();
    let scheme = Scheme::new(info.signature_algorithm, Some(hash))
        .ok_or_else(|| SignatureError::Algorithm { oid: info.signature_algorithm.to_string() })?;
    let message = info.message(data.content, hash)?.ok_or(SignatureError::OtherContents)?;
    if !signer.verifies(scheme, &message, info.signature) {
        return Err(SignatureError::Forged { signer: signer.subject().to_owned() });
    }
    Ok((hash, content_digest.to_vec()))
}

impl Signature {
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
        self.path.signer()
    }

    /// The certificates in the signature that issued the signer's, directly or through each other, nearest first.
    /// [`Signature::leads_to`] holds for each of them.
    pub fn issuers(&self) -> impl Iterator<Item = &Certificate> {
        self.path.issuers()
    }

    /// Whether who trusts this certificate trusts the signature: it is the signer's, or it is one that issued the signer's,
    /// directly or through others that the signature carries.
    pub fn leads_to(&self, trusted: &Certificate) -> bool {
        self.path.leads_to(trusted)
    }

    /// The same with keys for RSA alone, the only ones that all firmware knows.
    pub fn leads_to_by_rsa(&self, trusted: &Certificate) -> bool {
        self.path.leads_to_by_rsa(trusted)
    }
}
