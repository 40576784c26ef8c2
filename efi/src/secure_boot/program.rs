//! [`Program`]: what is looked at of a program, and how firmware and shim judge it.

use der::asn1::ObjectIdentifier;

use super::{Database, Refused};
use crate::authenticode::{self, Certificate, Entry, Hash};
use crate::pe::Pe;

/// In the extended key usage of a certificate: for kernel modules only. shim does not start programs by it.
const MODULE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.2312.16.1.2");

/// Lists, each with its name.
pub(super) type Lists<'a> = [(&'static str, &'a Database)];

/// Who judges. Sources: `DxeImageVerificationHandler` of EDK2, `verify_buffer_authenticode` of shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    /// Firmware: one signature that is revoked is too much.
    Firmware,
    /// shim: a signature that is revoked is one signature less.
    Shim,
}

/// What is looked at of a program.
pub(super) struct Program {
    digests: Vec<(Hash, Vec<u8>)>,
    is_signed: bool,
    entries: Vec<Entry>,
}

impl Program {
    pub(super) fn read(pe: &Pe<'_>) -> Result<Self, Refused> {
        let digests = Hash::ALL.iter().map(|hash| (*hash, authenticode::digest(pe, *hash))).collect();
        Ok(Self { digests, is_signed: !pe.certificates().is_empty(), entries: authenticode::entries(pe)? })
    }

    pub(super) fn judge(&self, accepted: &Lists<'_>, revoked: &Lists<'_>, judge: Judge) -> Result<(), Refused> {
        for (list, database) in revoked {
            if database.unreadable_len() > 0 {
                let number = database.unreadable_len();
                tracing::warn!(
                    "{number} certificates in {list} cannot be read: what they revoke is not known, ignoring"
                );
            }
            if self.digests.iter().any(|(_, digest)| database.has_digest(digest)) {
                return Err(Refused::Revoked { list });
            }
        }
        let revocations: Vec<_> = self.entries.iter().map(|entry| revocation(entry, revoked)).collect();
        if judge == Judge::Firmware {
            self.check_signers_are_seen()?;
            if let Some(refused) = revocations.iter().flatten().next() {
                return Err(refused.clone());
            }
        }
        let hashes = self.hashes(judge);
        let looked_up = || self.digests.iter().filter(|(hash, _)| hashes.contains(hash));
        if accepted.iter().any(|(_, database)| looked_up().any(|(_, digest)| database.has_digest(digest))) {
            return Ok(());
        }
        let mut failure = Failure::default();
        for (entry, revocation) in self.entries.iter().zip(revocations) {
            match revocation {
                Some(refused) => failure.other = Some(refused),
                None if failure.accepts(entry, accepted, revoked, judge) => return Ok(()),
                None => {}
            }
        }
        Err(failure.into_refused(accepted))
    }

    /// Firmware wants to see whether the certificate of a signer was revoked.
    fn check_signers_are_seen(&self) -> Result<(), Refused> {
        let hidden = self.entries.iter().find(|entry| entry.firmware_hash.is_some() && entry.path.is_none());
        match hidden.map(|entry| &entry.signature) {
            Some(Err(error)) => Err(Refused::Unreadable { problem: error.to_string() }),
            _ => Ok(()),
        }
    }

    /// Of which digests it is looked up whether they are accepted.
    fn hashes(&self, judge: Judge) -> Vec<Hash> {
        match judge {
            Judge::Firmware if self.is_signed => self.entries.iter().filter_map(|entry| entry.firmware_hash).collect(),
            Judge::Firmware | Judge::Shim => vec![Hash::Sha256],
        }
    }
}

/// Why a signature counts for nothing: one of the certificates from its signer on was revoked.
fn revocation(entry: &Entry, revoked: &Lists<'_>) -> Option<Refused> {
    let path = entry.path.as_ref()?;
    revoked.iter().find_map(|(list, database)| {
        let by_digest = path.certificates().find(|certificate| database.revokes(certificate));
        let by_certificate = || database.certificates().iter().find(|revoked| path.may_lead_to(revoked));
        let found = by_digest.or_else(by_certificate)?;
        Some(Refused::CertificateRevoked { list, subject: found.subject().to_owned() })
    })
}

/// Why none of the signatures looked at so far is enough.
#[derive(Default)]
struct Failure {
    signers: Vec<String>,
    invalid: Option<String>,
    other: Option<Refused>,
}

impl Failure {
    /// Whether the program is started for this signature; notes it if not.
    fn accepts(&mut self, entry: &Entry, accepted: &Lists<'_>, revoked: &Lists<'_>, judge: Judge) -> bool {
        let signature = match &entry.signature {
            Ok(signature) => signature,
            Err(error) => {
                self.invalid = Some(error.to_string());
                return false;
            }
        };
        let signer = || signature.signer().subject().to_owned();
        let is_usable = |certificate: &Certificate| {
            (judge == Judge::Firmware || !certificate.has_usage(MODULE_SIGNING))
                && !revoked.iter().any(|(_, database)| database.revokes(certificate))
        };
        let trusted = || {
            let all = accepted.iter().flat_map(|(_, database)| database.certificates());
            all.filter(|certificate| is_usable(certificate))
        };
        if !trusted().any(|certificate| signature.leads_to(certificate)) {
            self.signers.push(signer());
            return false;
        }
        if judge == Judge::Shim && signature.hash() != Hash::Sha256 {
            self.other = Some(Refused::Hash { signer: signer() });
            return false;
        }
        let is_accepted = trusted().any(|certificate| signature.leads_to_by_rsa(certificate));
        if !is_accepted {
            self.other = Some(Refused::Key { signer: signer() });
        }
        is_accepted
    }

    fn into_refused(self, accepted: &Lists<'_>) -> Refused {
        match self {
            Self { other: Some(refused), .. } => refused,
            Self { signers, .. } if !signers.is_empty() => {
                Refused::NotTrusted { signers, lists: accepted.iter().map(|(list, _)| *list).collect() }
            }
            Self { invalid: Some(problem), .. } => Refused::Invalid { problem },
            _ => Refused::Unsigned,
        }
    }
}
