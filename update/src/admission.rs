//! Whether an offered image may become the machine's: who signed it, whether it is a step back, whether its time is over.
//!
//! Nothing of an image but its two documents is fetched before.
//!
#![doc = include_str!("../TRUST.md")]

use osupdate_core::observer::{Event, Observer};
use osupdate_core::oci::{Offer, Release};
use osupdate_core::repository::Repository;
use osupdate_deploy::freshness::{self, Expired, Freshness, Older};
use osupdate_deploy::model::Model;
use osupdate_deploy::record::{Deployment as Record, Requirement, Signature};
use osupdate_deploy::stage::{self, StageError};
use osupdate_deploy::timestamp;
use osupdate_deploy::trust::{self, Accepted, Unsigned, UnsignedError};
use thiserror::Error;

use crate::exit;
use crate::transport::{ImageReference, Source};
use crate::trust::{LoadError, Policy, PolicyPaths, SignatureKind, Signer, TrustError};

/// What the user may allow where he names an image.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Allowances {
    /// Accept an image that the policy lets through without a signature, now and at later upgrades
    #[arg(long)]
    allow_unsigned_image: bool,

    #[command(flatten)]
    expired: AllowExpired,
}

/// What the user may allow where the origin is known.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct UpgradeAllowances {
    /// Accept an image that is older, by its version or its date, than what the machine has
    #[arg(long)]
    allow_downgrade: bool,

    #[command(flatten)]
    expired: AllowExpired,
}

/// What the user may allow wherever an image comes from.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct AllowExpired {
    /// Accept an image that says of itself that its time is over
    #[arg(long)]
    allow_expired_image: bool,
}

/// An image at its origin, looked at.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "a source has nothing to show")]
pub struct Candidate<'a> {
    /// What it is called.
    pub reference: &'a ImageReference,
    /// Its origin.
    pub source: &'a Source,
    /// What is offered there.
    pub offer: &'a Offer<'a>,
}

/// Why an image is not admitted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdmissionError {
    /// There is no usable policy.
    #[error(transparent)]
    Policy(#[from] LoadError),
    /// The policy refuses the image.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The policy accepts it without a signature, and nobody else does.
    #[error(transparent)]
    Unsigned(#[from] UnsignedError),
    /// It is a step back.
    #[error(transparent)]
    Older(#[from] Older),
    /// Its time is over.
    #[error(transparent)]
    Expired(#[from] Expired),
    /// There is nothing that could be upgraded.
    #[error(transparent)]
    Machine(#[from] StageError),
}

impl AdmissionError {
    /// The next step for the user.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Policy(error) => return exit::hint(error),
            Self::Trust(error) => return exit::hint(error),
            Self::Machine(error) => return exit::hint(error),
            Self::Unsigned(UnsignedError::NotAllowed) => {
                "name the key that it is signed with in /etc/containers/policy.json, or give --allow-unsigned-image"
            }
            Self::Unsigned(_) => {
                "if that is what you want, name the image: osupdate switch --allow-unsigned-image REFERENCE"
            }
            Self::Older(_) => "if going back is what you want, give --allow-downgrade",
            Self::Expired(_) => {
                "the origin may be frozen: somebody may keep newer images from this machine; if you want this image, give \
                 --allow-expired-image"
            }
        };
        Some(hint.to_owned())
    }
}

impl Candidate<'_> {
    /// The signatures that the policy asks for, verified.
    fn signatures(&self) -> Result<Vec<Signature>, AdmissionError> {
        let policy = Policy::load(&PolicyPaths::standard())?;
        let verdict = policy.check(self.reference, self.source, self.offer.manifest_json())?;
        Ok(verdict.signers.iter().map(signature).collect())
    }

    /// Judges its age. A clock that cannot be right is told, before anything fails by it: signatures that seem to be made in the
    /// future do.
    fn freshness(&self, current: Option<(&Repository, &Record)>, observer: &dyn Observer) -> Freshness {
        let current = current.map(|(repository, record)| match freshness::release_of(repository, record) {
            Ok(release) => release,
            Err(err) => {
                warn(observer, &format!("only the version can be compared with what runs: {err}"));
                Release { version: record.image.version.clone(), ..Release::default() }
            }
        });
        let freshness = Freshness::of(self.offer.release(), current.as_ref(), timestamp::now_secs());
        if let Some(wrong) = &freshness.wrong_clock {
            warn(observer, &wrong.to_string());
        }
        freshness
    }
}

/// Decides on an image to be installed, on a machine that will follow `origin`.
///
/// # Errors
/// When it must not be.
pub fn install(
    candidate: &Candidate<'_>,
    origin: &ImageReference,
    allow: Allowances,
    observer: &dyn Observer,
) -> Result<Accepted, AdmissionError> {
    let signatures = candidate.signatures()?;
    let requirement = requirement_of_installed(candidate.reference, origin, &signatures, allow, observer)?;
    refuse_expired(candidate.freshness(None, observer), allow.expired)?;
    Ok(Accepted { signatures, requirement })
}

fn requirement_of_installed(
    source: &ImageReference,
    origin: &ImageReference,
    signatures: &[Signature],
    allow: Allowances,
    observer: &dyn Observer,
) -> Result<Requirement, UnsignedError> {
    let requirement = trust::of_named_image(signatures, None, allow.unsigned())?;
    if origin == source || requirement.refuses_unsigned() {
        return Ok(requirement);
    }
    warn(observer, &format!("images from {origin} must be signed: what is allowed is allowed for {source} alone"));
    Ok(trust::of_other_origin())
}

/// Decides on an image that the user names on a machine that has another one. That he may go back goes without saying: he is
/// told.
///
/// # Errors
/// When it must not be switched to.
pub fn switch(
    candidate: &Candidate<'_>,
    repository: &Repository,
    model: &Model,
    allow: Allowances,
    observer: &dyn Observer,
) -> Result<Accepted, AdmissionError> {
    let followed = &stage::followed(model)?.record;
    let freshness = candidate.freshness(Some((repository, followed)), observer);
    let signatures = candidate.signatures()?;
    decide_switch(followed, signatures, freshness, allow, observer)
}

fn decide_switch(
    followed: &Record,
    signatures: Vec<Signature>,
    freshness: Freshness,
    allow: Allowances,
    observer: &dyn Observer,
) -> Result<Accepted, AdmissionError> {
    let stored = followed.origin.requirement.as_ref();
    let requirement = trust::of_named_image(&signatures, stored, allow.unsigned())?;
    if let Some(stored) = stored.filter(|stored| stored.refuses_unsigned() && !requirement.refuses_unsigned()) {
        let until_now = told(stored, &followed.image.reference);
        warn(observer, &format!("images need no signature from now on; until now they did: {until_now}"));
    }
    if let Some(older) = &freshness.older {
        warn(observer, &older.to_string());
    }
    refuse_expired(freshness, allow.expired)?;
    Ok(Accepted { signatures, requirement })
}

/// What `upgrade` may do with what its origin offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Upgrade {
    /// Its signatures, verified.
    pub signatures: Vec<Signature>,
    /// What is required of its successors.
    pub requirement: Option<Requirement>,
    /// The image is the one that the machine has, and its time is over.
    pub frozen: Option<Expired>,
}

/// Decides on what the origin offers that the machine follows.
///
/// # Errors
/// When the machine must not be upgraded to it.
pub fn upgrade(
    candidate: &Candidate<'_>,
    repository: &Repository,
    model: &Model,
    allow: UpgradeAllowances,
    observer: &dyn Observer,
) -> Result<Upgrade, AdmissionError> {
    let followed = &stage::followed(model)?.record;
    let freshness = candidate.freshness(Some((repository, followed)), observer);
    let signatures = candidate.signatures()?;
    let is_the_same = candidate.offer.manifest_digest().to_string() == followed.image.manifest_digest;
    decide_upgrade(followed, signatures, freshness, is_the_same, allow, observer)
}

fn decide_upgrade(
    followed: &Record,
    signatures: Vec<Signature>,
    mut freshness: Freshness,
    is_the_same: bool,
    allow: UpgradeAllowances,
    observer: &dyn Observer,
) -> Result<Upgrade, AdmissionError> {
    let stored = followed.origin.requirement.as_ref();
    let requirement = trust::of_followed_origin(&signatures, stored)?;
    if let Some(stored) = stored.filter(|stored| trust::has_other_keys(&signatures, stored)) {
        let until_now = told(stored, &followed.image.reference);
        warn(observer, &format!("the image is signed with another key than those before it: {until_now}"));
    }
    if let Some(older) = freshness.older.take_if(|_| !allow.allow_downgrade) {
        return Err(older.into());
    }
    // What the machine has, it keeps, however old it is.
    let frozen = freshness.expired.take_if(|_| is_the_same);
    refuse_expired(freshness, allow.expired)?;
    Ok(Upgrade { signatures, requirement, frozen })
}

impl Allowances {
    fn unsigned(self) -> Unsigned {
        if self.allow_unsigned_image { Unsigned::Allowed } else { Unsigned::Refused }
    }
}

fn refuse_expired(freshness: Freshness, allow: AllowExpired) -> Result<(), Expired> {
    match freshness.expired {
        Some(expired) if !allow.allow_expired_image => Err(expired),
        _ => Ok(()),
    }
}

fn warn(observer: &dyn Observer, text: &str) {
    observer.event(Event::Warning(text));
}

/// What is required of the images of an origin, in words.
fn told(requirement: &Requirement, reference: &str) -> String {
    let keys = if requirement.keys.is_empty() { "a key of the policy".to_owned() } else { requirement.keys.join(", ") };
    format!("those of {reference} are signed with {keys} since {}", requirement.since)
}

/// A signature in the form that records have.
pub(crate) fn signature(signer: &Signer) -> Signature {
    let kind = match signer.kind {
        SignatureKind::OpenPgp => "openpgp",
        SignatureKind::Sigstore => "sigstore",
    };
    Signature {
        kind: kind.to_owned(),
        key: signer.key.clone(),
        key_file: signer.key_file.as_ref().map(|path| path.display().to_string()),
        signer: signer.user_id.clone(),
        identity: Some(signer.identity.clone()),
        made: signer.signed_at.map(timestamp::format),
        verified: timestamp::now(),
        ..Signature::default()
    }
}

#[cfg(test)]
mod tests;
