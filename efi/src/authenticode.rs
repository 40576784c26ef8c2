//! Authenticode: the signatures in PE files that firmware and shim check before they start a program.
//!
//! A signature is a PKCS#7 structure in the certificate table, at the end of the file. It covers the digest of the rest
//! of the file, except for the checksum and the place of the table itself, which change when a signature is added. A file
//! can have several signatures, and one that is trusted is enough.
//!
//! Certificates are used as firmware uses them: a certificate in its database may be the signer's own or one that issued
//! it, directly or through others that the signature carries; and dates are ignored, because there is no clock to rely on
//! when a machine boots. Source: Windows Authenticode Portable Executable Signature Format 1.0; UEFI specification,
//! chapter 32.

mod asn1;
mod certificate;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod indirect;
mod name;
mod path;
mod sign;
mod signature;
mod signed_data;
mod table;

use aws_lc_rs::digest::{self as hash, Context};
use der::asn1::ObjectIdentifier;
use thiserror::Error;

pub use certificate::{Certificate, CertificateError, Certificates};
pub use sign::{KeyError, RsaKey, SignError, Signer, SigningKey};
pub(crate) use signature::Entry;
pub use signature::{Signature, SignatureError};
pub use table::TableError;

use crate::pe::Pe;

/// More signatures than this are refused: each costs time to check.
const SIGNATURES_MAX: usize = 32;

/// The hash function of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// What every firmware knows; used for signing.
    Sha256,
    /// Verified only.
    Sha384,
    /// Verified only.
    Sha512,
}

impl Hash {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    fn algorithm(self) -> &'static hash::Algorithm {
        match self {
            Self::Sha256 => &hash::SHA256,
            Self::Sha384 => &hash::SHA384,
            Self::Sha512 => &hash::SHA512,
        }
    }

    const fn oid(self) -> ObjectIdentifier {
        match self {
            Self::Sha256 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1"),
            Self::Sha384 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2"),
            Self::Sha512 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3"),
        }
    }

    fn from_oid(oid: ObjectIdentifier) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.oid() == oid)
    }

    /// The digest of some bytes.
    pub fn of(self, bytes: &[u8]) -> Vec<u8> {
        hash::digest(self.algorithm(), bytes).as_ref().to_vec()
    }
}

/// The Authenticode digest of a program: what a signature covers, and what firmware looks up in its lists of digests.
///
/// Headers, sections in the order of the file, and what comes after them, without the checksum, the place of the certificate
/// table, and the table.
pub fn digest(pe: &Pe<'_>, hash: Hash) -> Vec<u8> {
    let bytes = pe.bytes();
    let mut context = Context::new(hash.algorithm());
    let mut add = |from: usize, to: usize| context.update(bytes.get(from..to.min(bytes.len())).unwrap_or(&[]));
    let headers = pe.headers_bytes();
    add(0, pe.checksum_offset());
    add(pe.checksum_offset() + 4, pe.certificate_entry_offset());
    add(pe.certificate_entry_offset() + 8, headers);
    let mut sections: Vec<_> = pe.sections().iter().map(|section| section.file.clone()).collect();
    sections.retain(|place| !place.is_empty());
    sections.sort_by_key(|place| place.start);
    let mut hashed = headers;
    for place in sections {
        add(place.start, place.end);
        hashed += place.len();
    }
    add(hashed, bytes.len() - pe.certificates().len());
    context.finish().as_ref().to_vec()
}

/// The signatures of a program in their order, each with why it is worth nothing, if so. None if it is not signed.
pub fn signatures(pe: &Pe<'_>) -> Result<Vec<Result<Signature, SignatureError>>, TableError> {
    Ok(entries(pe)?.into_iter().map(|entry| entry.signature).collect())
}

/// The same, with what is seen of the signers of those that are worth nothing.
pub(crate) fn entries(pe: &Pe<'_>) -> Result<Vec<Entry>, TableError> {
    // The program may be large, and the signatures many.
    let mut digests: Vec<(Hash, Vec<u8>)> = Vec::new();
    let mut digest_of = |hash: Hash| match digests.iter().find(|(known, _)| *known == hash) {
        Some((_, digest)) => digest.clone(),
        None => {
            let found = digest(pe, hash);
            digests.push((hash, found.clone()));
            found
        }
    };
    Ok(table::entries(pe)?.into_iter().map(|entry| Entry::read(entry, &mut digest_of)).collect())
}

/// A program whose signature is trusted.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The trusted certificate.
    pub trusted: Certificate,
    /// The signature.
    pub signature: Signature,
}

/// Why a program is not trusted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It has no signature.
    #[error("it is not signed")]
    Unsigned,
    /// Its signatures cannot be read.
    #[error("its signatures cannot be read")]
    Table(#[from] TableError),
    /// It is signed by somebody else.
    #[error("it is signed by {}, which none of the certificates is or has issued", signers.join(" and "))]
    NotTrusted {
        /// Subjects of the signers' certificates.
        signers: Vec<String>,
    },
    /// Its only signature is worth nothing.
    #[error("its signature is not valid")]
    Signature(#[from] SignatureError),
}

/// Checks that one of the certificates, or one that they issued, has signed a program, as firmware would.
pub fn verify(pe: &Pe<'_>, certificates: &Certificates) -> Result<Signed, VerifyError> {
    let mut signers = Vec::new();
    let mut invalid = None;
    for signature in signatures(pe)? {
        match signature {
            Ok(signature) => match certificates.iter().find(|trusted| signature.leads_to(trusted)) {
                Some(trusted) => return Ok(Signed { trusted: trusted.clone(), signature }),
                None => signers.push(signature.signer().subject().to_owned()),
            },
            Err(err) => invalid = Some(err),
        }
    }
    match invalid {
        _ if !signers.is_empty() => Err(VerifyError::NotTrusted { signers }),
        Some(err) => Err(err.into()),
        None => Err(VerifyError::Unsigned),
    }
}

#[cfg(test)]
mod tests;
