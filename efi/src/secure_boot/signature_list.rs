//! Lists of signatures: the contents of PK, KEK, db, dbx, and of shim's lists.

use std::collections::BTreeSet;

use thiserror::Error;
use zerocopy::FromBytes as _;

use crate::authenticode::{Certificate, Certificates, Hash};
use crate::gpt::Guid;

/// Type, size of the list, size of its header, size of each signature.
pub(super) const HEADER_LEN: usize = 16 + 3 * 4;
/// Before each signature: who put it there.
pub(super) const OWNER_LEN: usize = 16;

const X509: Guid = Guid::new(0xa5c059a1, 0x94e4, 0x4aa7, 0x87b5_ab155c2bf072);
const SHA256: Guid = Guid::new(0xc1c41626, 0x504c, 0x4092, 0xaca9_41f936934328);
const SHA384: Guid = Guid::new(0xff3e5307, 0x9fd0, 0x48c9, 0x85f1_8ad56c701e01);
const SHA512: Guid = Guid::new(0x093e0fae, 0xa6c4, 0x4f50, 0x9f1b_d41e2b89c19a);
const X509_SHA256: Guid = Guid::new(0x3bd2a492, 0x96c0, 0x4079, 0xb420_fcf98ef103ed);
const X509_SHA384: Guid = Guid::new(0x7076876e, 0x80c2, 0x4ee6, 0xaad2_28b349a6865b);
const X509_SHA512: Guid = Guid::new(0x446dbf63, 0x2502, 0x4cda, 0xbcfa_2465d2b0fe9d);

/// Certificates and digests that are accepted, or refused.
#[derive(Clone, Debug, Default)]
pub struct Database {
    certificates: Vec<Certificate>,
    /// Digests of programs, of whatever hash function: their lengths differ.
    digests: BTreeSet<Vec<u8>>,
    /// Digests of certificates that are revoked. Since when is not looked at: programs carry no date that can be trusted.
    certificate_digests: BTreeSet<Vec<u8>>,
    /// Signatures of types that are not known here, and certificates that cannot be read.
    unknown: usize,
    /// Those of them that are to be certificates.
    unreadable: usize,
}

/// Why a list of signatures cannot be read.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignatureListError {
    /// It ends too early.
    #[error("the list at byte {offset} is longer than what is there")]
    Truncated {
        /// Where.
        offset: usize,
    },
    /// The sizes in it do not fit each other.
    #[error("the sizes in the list at byte {offset} do not fit each other")]
    Sizes {
        /// Where.
        offset: usize,
    },
}

impl Database {
    /// Reads a sequence of `EFI_SIGNATURE_LIST`.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureListError> {
        let mut database = Self::default();
        let mut offset = 0;
        while offset < bytes.len() {
            let truncated = || SignatureListError::Truncated { offset };
            let sizes = || SignatureListError::Sizes { offset };
            let header = bytes.get(offset..offset + HEADER_LEN).ok_or_else(truncated)?;
            let kind = Guid::read_from_bytes(&header[..16]).map_err(|_| truncated())?;
            let number =
                |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
            let (list_len, header_len, signature_len) = (number(16), number(20), number(24));
            let begin = HEADER_LEN.checked_add(header_len).filter(|begin| *begin <= list_len).ok_or_else(sizes)?;
            let end = offset.checked_add(list_len).filter(|end| *end <= bytes.len()).ok_or_else(truncated)?;
            let signatures = &bytes[offset + begin..end];
            if signature_len <= OWNER_LEN || !signatures.len().is_multiple_of(signature_len) {
                return Err(sizes());
            }
            for signature in signatures.chunks_exact(signature_len) {
                database.add(kind, &signature[OWNER_LEN..]);
            }
            offset = end;
        }
        Ok(database)
    }

    fn add(&mut self, kind: Guid, data: &[u8]) {
        let known = match kind {
            X509 => match Certificate::from_der(data) {
                Ok(certificate) => {
                    self.certificates.push(certificate);
                    true
                }
                Err(err) => {
                    tracing::debug!("{err} in a list of signatures, ignoring");
                    self.unreadable += 1;
                    false
                }
            },
            SHA256 => self.add_digest(data, 32),
            SHA384 => self.add_digest(data, 48),
            SHA512 => self.add_digest(data, 64),
            X509_SHA256 => self.add_certificate_digest(data, 32),
            X509_SHA384 => self.add_certificate_digest(data, 48),
            X509_SHA512 => self.add_certificate_digest(data, 64),
            _ => false,
        };
        self.unknown += usize::from(!known);
    }

    fn add_digest(&mut self, data: &[u8], length: usize) -> bool {
        let fits = data.len() == length;
        if fits {
            self.digests.insert(data.to_vec());
        }
        fits
    }

    /// A digest of a certificate, with the time of its revocation behind it.
    fn add_certificate_digest(&mut self, data: &[u8], length: usize) -> bool {
        let Some(digest) = data.get(..length) else { return false };
        self.certificate_digests.insert(digest.to_vec());
        true
    }

    /// Adds what another one has.
    pub(super) fn extend(&mut self, other: Self) {
        self.certificates.extend(other.certificates);
        self.digests.extend(other.digests);
        self.certificate_digests.extend(other.certificate_digests);
        self.unknown += other.unknown;
        self.unreadable += other.unreadable;
    }

    /// The certificates.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The certificates, to verify a program with.
    pub fn to_certificates(&self) -> Certificates {
        self.certificates.iter().cloned().collect()
    }

    /// How many digests of programs it has.
    pub fn digests_len(&self) -> usize {
        self.digests.len()
    }

    /// How many signatures it has that are not understood here.
    pub fn unknown_len(&self) -> usize {
        self.unknown
    }

    /// How many of these are to be certificates.
    pub fn unreadable_len(&self) -> usize {
        self.unreadable
    }

    /// Whether it has nothing.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
            && self.digests.is_empty()
            && self.certificate_digests.is_empty()
            && self.unknown == 0
    }

    pub(super) fn has_digest(&self, digest: &[u8]) -> bool {
        self.digests.contains(digest)
    }

    /// Whether it has the digest of a certificate.
    pub(super) fn revokes(&self, certificate: &Certificate) -> bool {
        !self.certificate_digests.is_empty()
            && Hash::ALL.iter().any(|hash| self.certificate_digests.contains(&certificate.tbs_digest(*hash)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticode::fake::Authority;
    use crate::secure_boot::fake::{CERTIFICATE, DIGEST, REVOKED_CERTIFICATE, list};

    #[test]
    fn certificates_and_digests_are_found() {
        let key = Authority::new("db");
        let other = Authority::new("other");
        let padded = Authority::new("padded");
        let unknown = Guid::new(1, 2, 3, 4);
        let revoked = [other.certificate().tbs_digest(Hash::Sha256), vec![0; 16]].concat();
        let bytes = [
            list(CERTIFICATE, &[key.certificate().der()]),
            list(CERTIFICATE, &[b"not a certificate"]),
            // Lists have one size for all, so what is shorter is padded.
            list(CERTIFICATE, &[&[padded.certificate().der(), &[0; 5]].concat()]),
            list(DIGEST, &[&[7; 32], &[8; 32]]),
            list(DIGEST, &[&[7; 31]]),
            list(REVOKED_CERTIFICATE, &[&revoked]),
            list(unknown, &[b"x"]),
        ];
        let database = Database::parse(&bytes.concat()).unwrap();
        assert_eq!(database.certificates(), [key.certificate().clone(), padded.certificate().clone()]);
        assert!(database.has_digest(&[7; 32]) && database.has_digest(&[8; 32]) && !database.has_digest(&[9; 32]));
        assert!(database.revokes(other.certificate()) && !database.revokes(key.certificate()));
        assert_eq!((database.digests_len(), database.unknown_len(), database.unreadable_len()), (2, 3, 1));
    }

    #[test]
    fn lists_that_are_cut_or_lie_are_refused() {
        let bytes = list(DIGEST, &[&[7; 32], &[8; 32]]);
        for length in 1..bytes.len() {
            // A list for each digest: where one ends, the rest is whole.
            assert_eq!(Database::parse(&bytes[..length]).is_ok(), length == bytes.len() / 2, "{length}");
        }
        for at in [16, 20, 24] {
            for value in [0_u32, 1, 27, 1 << 31, u32::MAX] {
                let mut bytes = bytes.clone();
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                assert!(Database::parse(&bytes).is_err() || at == 20 && value == 0, "{at} {value}");
            }
        }
        assert!(Database::parse(b"").unwrap().is_empty());
    }
}
