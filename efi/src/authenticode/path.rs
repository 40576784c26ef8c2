//! [`Path`]: from the certificate of a signer to those that issued it.

use super::certificate::Certificate;

/// A signer's certificate and those in the signature that issued it, directly or through each other, nearest first.
#[derive(Clone, Debug)]
pub(crate) struct Path(Vec<Step>);

/// One certificate, as it was reached.
#[derive(Clone, Debug)]
struct Step {
    certificate: Certificate,
    /// Certificates between it and the signer's.
    between: u8,
    /// Whether everything up to it is as whoever trusts it wants it. What is not only serves to find what is revoked.
    sound: bool,
    /// Whether all keys up to it are for RSA.
    rsa: bool,
}

impl Path {
    /// Finds it among the other certificates of the signature.
    pub(super) fn new(signer: Certificate, others: &[Certificate]) -> Self {
        let (sound, rsa) = (signer.is_understood(), signer.is_rsa());
        let mut path = vec![Step { certificate: signer, between: 0, sound, rsa }];
        let mut at = 0;
        // A certificate is added once for each way of reaching it that differs, so those that issue each other do no harm.
        while let Some(step) = path.get(at).cloned() {
            for other in others {
                let rsa = step.rsa && other.is_rsa();
                let is_known = |sound| {
                    let is_as_good = |known: &Step| known.sound >= sound && known.rsa >= rsa;
                    path.iter().any(|known| known.certificate == *other && is_as_good(known))
                };
                // Signatures take time to check.
                if is_known(step.sound) {
                    continue;
                }
                let sound = step.issued_soundly_by(other) && other.is_understood();
                if !is_known(sound) && (sound || step.certificate.may_be_issued_by(other)) {
                    path.push(Step { certificate: other.clone(), between: step.between.saturating_add(1), sound, rsa });
                }
            }
            at += 1;
        }
        Self(path)
    }

    /// The certificate that it begins with.
    pub(super) fn signer(&self) -> &Certificate {
        // There is a first one: see Path::new.
        &self.0[0].certificate
    }

    /// Those that issued the signer's, each once, nearest first: who trusts one of them trusts what the signer has signed.
    pub(super) fn issuers(&self) -> impl Iterator<Item = &Certificate> {
        let sound = || self.0.iter().filter(|step| step.sound).map(|step| &step.certificate);
        // One that is reached in several ways is there several times.
        let is_repeated = move |(at, found): &(usize, &Certificate)| sound().take(*at).any(|before| before == *found);
        let issuers = sound().enumerate().filter(move |found| !is_repeated(found)).map(|(_, issuer)| issuer);
        issuers.filter(|issuer| *issuer != self.signer())
    }

    /// The certificates, with those that only serve to find what is revoked.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.0.iter().map(|step| &step.certificate)
    }

    /// Whether who trusts this certificate trusts what the signer has signed.
    pub(super) fn leads_to(&self, trusted: &Certificate) -> bool {
        self.0.iter().any(|step| step.leads_to(trusted))
    }

    /// The same, where only keys for RSA are known.
    pub(super) fn leads_to_by_rsa(&self, trusted: &Certificate) -> bool {
        trusted.is_rsa() && self.0.iter().any(|step| step.rsa && step.leads_to(trusted))
    }

    /// Whether firmware may find that this certificate has issued that of the signer, by whatever algorithm.
    pub(crate) fn may_lead_to(&self, revoked: &Certificate) -> bool {
        self.0.iter().any(|step| step.certificate == *revoked || step.certificate.may_be_issued_by(revoked))
    }
}

impl Step {
    fn leads_to(&self, trusted: &Certificate) -> bool {
        self.sound && self.certificate == *trusted || self.issued_soundly_by(trusted) && trusted.is_understood()
    }

    fn issued_soundly_by(&self, issuer: &Certificate) -> bool {
        // In the middle of a path OpenSSL wants basic constraints.
        let may_be_here = self.between == 0 || self.certificate.is_authority();
        self.sound && may_be_here && self.certificate.is_issued_by(issuer, self.between)
    }
}
