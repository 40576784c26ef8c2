//! Simple signing: an OpenPGP message of one document and one signature.
//!
//! As GnuPG makes them, and no other form: perhaps compressed, once; a one-pass signature, literal data, a signature. A
//! key that has expired or is revoked now is not trusted, whenever it signed, because the time in a signature is the
//! signer's to choose; podman has it so, too.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sequoia_openpgp as openpgp;

use openpgp::cert::CertParser;
use openpgp::cert::amalgamation::ValidAmalgamation as _;
use openpgp::packet::Signature;
use openpgp::parse::{PacketParserBuilder, PacketParserResult, Parse as _};
use openpgp::policy::{HashAlgoSecurity, Policy as _, StandardPolicy};
use openpgp::types::{RevocationStatus, SignatureType};
use openpgp::{Cert, KeyHandle, Packet};

use super::error::{KeyError, SignatureProblem};
use super::keys::{self, KeyFile};
use super::payload::PAYLOAD_MAX_BYTES;
use super::policy::KeySource;
use super::signature::SIGNATURE_MAX_BYTES;

const KIND: &str = "OpenPGP";
const ARMOR_BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
/// Most packets of a message. GnuPG writes four.
const PACKETS_MAX: usize = 8;
/// How far the signer's clock may be ahead.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Trusted OpenPGP certificates.
#[derive(Debug)]
pub(super) struct Keyring {
    certs: Vec<Trusted>,
    /// Where they are, for people.
    place: String,
}

#[derive(Debug)]
struct Trusted {
    cert: Cert,
    file: Option<PathBuf>,
}

/// Who made a good signature.
#[derive(Debug)]
pub(super) struct Signed {
    /// What was signed.
    pub(super) payload: Vec<u8>,
    /// Fingerprint of the primary key.
    pub(super) fingerprint: String,
    /// Its primary user ID.
    pub(super) user_id: Option<String>,
    /// The file that it is in.
    pub(super) file: Option<PathBuf>,
    /// When, in seconds since 1970.
    pub(super) signed_at: Option<i64>,
}

impl Keyring {
    /// Reads the certificates, binary or in ASCII armor. What several files say of one key is taken together, so that a
    /// revocation counts whichever it is in.
    pub(super) fn load(source: &KeySource) -> Result<Self, KeyError> {
        let place = source.describe();
        let mut certs: Vec<Trusted> = Vec::new();
        for file in source.read()? {
            for cert in parse(&file)? {
                match certs.iter_mut().find(|known| known.cert.fingerprint() == cert.fingerprint()) {
                    Some(known) => {
                        let merged = known.cert.clone().merge_public(cert);
                        known.cert = merged.map_err(|error| malformed(&file, &error))?;
                    }
                    None => certs.push(Trusted { cert, file: file.path.clone() }),
                }
            }
        }
        if certs.is_empty() {
            return Err(KeyError::None { kind: KIND, place });
        }
        Ok(Self { certs, place })
    }

    /// Verifies a message.
    pub(super) fn verify(&self, message: &[u8], now: SystemTime) -> Result<Signed, SignatureProblem> {
        let (payload, signature) = open(message)?;
        let issuers = signature.get_issuers();
        let is_issuer = |handle: KeyHandle| issuers.iter().any(|issuer| issuer.aliases(&handle));
        let found = self.certs.iter().find_map(|trusted| {
            let key = trusted.cert.keys().find(|key| is_issuer(key.key().key_handle()))?;
            Some((trusted, key.key().clone()))
        });
        let Some((Trusted { cert, file }, key)) = found else {
            let issuer = issuers.first().map_or_else(|| "without a name".to_owned(), |issuer| format!("{issuer:X}"));
            return Err(SignatureProblem::OtherKey { key: issuer, trusted: self.place.clone() });
        };
        let fingerprint = format!("{:X}", cert.fingerprint());
        let bad = || SignatureProblem::Bad { key: fingerprint.clone() };
        if signature.typ() != SignatureType::Binary {
            return Err(SignatureProblem::Malformed(format!("it is of type {}", signature.typ())));
        }
        signature.verify_message(&key, &payload).map_err(|_| bad())?;
        let policy = StandardPolicy::at(now);
        policy
            .signature(&signature, HashAlgoSecurity::CollisionResistance)
            .map_err(|error| SignatureProblem::Weak(format!("{error:#}")))?;
        let made = signature
            .signature_creation_time()
            .ok_or_else(|| SignatureProblem::Malformed("it does not say when it was made".to_owned()))?;
        // Before the key, which is not there yet, either, where a clock was never set.
        if made > now + CLOCK_TOLERANCE {
            return Err(SignatureProblem::Future { made: date(made) });
        }
        let times = Times { made, now };
        let user_id = check_key(cert, &KeyHandle::from(key.fingerprint()), &fingerprint, &policy, times)?;
        if let Some(expired) = signature.signature_expiration_time().filter(|end| *end <= now) {
            return Err(SignatureProblem::Expired { expired: date(expired) });
        }
        let signed_at = seconds(made);
        Ok(Signed { payload, fingerprint, user_id, file: file.clone(), signed_at })
    }
}

#[derive(Clone, Copy)]
struct Times {
    made: SystemTime,
    now: SystemTime,
}

/// Checks that a certificate, and the key of it that signed, are good now and were when it was used. Returns the primary
/// user ID.
fn check_key(
    cert: &Cert,
    signer: &KeyHandle,
    fingerprint: &str,
    policy: &StandardPolicy<'_>,
    Times { made, now }: Times,
) -> Result<Option<String>, SignatureProblem> {
    let key = || fingerprint.to_owned();
    let unusable = |problem: String| SignatureProblem::KeyUnusable { key: key(), problem };
    let valid = cert.with_policy(policy, now).map_err(|error| unusable(format!("{error:#}")))?;
    // A newer self-signature does not take a revocation back: key files are merged, and the signer's clock is his to set.
    let revoked = |by_key: &[&Signature], status: RevocationStatus<'_>| {
        let others = match status {
            RevocationStatus::Revoked(others) | RevocationStatus::CouldBe(others) => others,
            RevocationStatus::NotAsFarAsWeKnow => Vec::new(),
        };
        let all: Vec<_> = by_key.iter().copied().chain(others).collect();
        if all.is_empty() {
            return Ok(());
        }
        let reason = all.iter().find_map(|revocation| revocation.reason_for_revocation());
        let reason = reason.map_or_else(|| "without a reason".to_owned(), |(reason, _)| reason.to_string());
        Err(SignatureProblem::KeyRevoked { key: key(), reason })
    };
    let expired = |end: Option<SystemTime>| match end {
        Some(end) if end <= made => {
            Err(SignatureProblem::MadeAfterExpiry { key: key(), made: date(made), expired: date(end) })
        }
        Some(end) if end <= now => Err(SignatureProblem::KeyExpired { key: key(), expired: date(end) }),
        _ => Ok(()),
    };
    let of_primary: Vec<_> = cert.primary_key().self_revocations().collect();
    revoked(&of_primary, valid.revocation_status())?;
    let primary = valid.primary_key();
    expired(primary.key_expiration_time())?;
    let by_signer = valid.keys().find(|key| key.key().key_handle().aliases(signer));
    let by_signer = by_signer.ok_or_else(|| unusable("the subkey that signed does not belong to it".to_owned()))?;
    let of_signer: Vec<_> = by_signer.self_revocations().collect();
    revoked(&of_signer, by_signer.revocation_status())?;
    expired(by_signer.key_expiration_time())?;
    if made < by_signer.key().creation_time() {
        return Err(SignatureProblem::MadeBeforeKey { key: key(), made: date(made) });
    }
    if !by_signer.for_signing() {
        return Err(unusable("it is not for signing".to_owned()));
    }
    valid.alive().map_err(|error| unusable(error.to_string()))?;
    let user_id = valid.primary_userid().ok();
    Ok(user_id
        .map(|user_id| String::from_utf8_lossy(user_id.userid().value()).chars().filter(|c| !c.is_control()).collect()))
}

/// Takes a message apart: what is signed, and the signature.
fn open(message: &[u8]) -> Result<(Vec<u8>, Signature), SignatureProblem> {
    let malformed = |problem: &str| SignatureProblem::Malformed(problem.to_owned());
    let parsed = |error: openpgp::anyhow::Error| SignatureProblem::Malformed(error.to_string());
    if message.len() as u64 > SIGNATURE_MAX_BYTES {
        return Err(SignatureProblem::TooLarge("the OpenPGP message"));
    }
    let packet_max = u32::try_from(SIGNATURE_MAX_BYTES).unwrap_or(u32::MAX);
    let builder = PacketParserBuilder::from_bytes(message).map_err(parsed)?;
    let builder = builder.dearmor(openpgp::parse::Dearmor::Disabled).automatic_hashing(false);
    let mut next = builder.max_recursion_depth(1).max_packet_size(packet_max).build().map_err(parsed)?;
    let (mut payload, mut signature) = (None, None);
    for _ in 0..PACKETS_MAX {
        let mut parser = match next {
            PacketParserResult::Some(parser) => parser,
            PacketParserResult::EOF(_) => {
                return match (payload, signature) {
                    (Some(payload), Some(signature)) => Ok((payload, signature)),
                    (None, Some(_)) => Err(malformed("it is only a signature, without the document")),
                    _ => Err(malformed("the document in it is not signed")),
                };
            }
        };
        match &parser.packet {
            // Going on would unpack all of it, to nobody's use.
            Packet::CompressedData(_) if parser.recursion_depth() > 0 => {
                return Err(malformed("it is compressed more than once"));
            }
            // What is in it comes next.
            Packet::CompressedData(_) | Packet::OnePassSig(_) | Packet::Marker(_) => {}
            Packet::Literal(_) if payload.is_none() => {
                let mut bytes = Vec::new();
                let read = (&mut parser).take(PAYLOAD_MAX_BYTES + 1).read_to_end(&mut bytes);
                read.map_err(|error| SignatureProblem::Malformed(error.to_string()))?;
                if bytes.len() as u64 > PAYLOAD_MAX_BYTES {
                    return Err(SignatureProblem::TooLarge("the document in it"));
                }
                payload = Some(bytes);
            }
            Packet::Signature(found) if signature.is_none() => signature = Some(found.clone()),
            Packet::Literal(_) => return Err(malformed("it has two documents")),
            Packet::Signature(_) => return Err(malformed("it has two signatures in one message")),
            Packet::Unknown(unknown) => return Err(malformed(&unknown.error().to_string())),
            other => return Err(malformed(&format!("it has a packet of type {}", other.tag()))),
        }
        next = parser.recurse().map_err(parsed)?.1;
    }
    Err(malformed("it has too many packets"))
}

/// The certificates of a file.
fn parse(file: &KeyFile) -> Result<Vec<Cert>, KeyError> {
    // Armored keys are often simply put one after the other; the parser reads one block.
    let text = std::str::from_utf8(&file.bytes).ok();
    let blocks: Vec<Vec<u8>> = match text.filter(|text| text.contains(ARMOR_BEGIN)) {
        Some(text) => {
            text.split(ARMOR_BEGIN).skip(1).map(|block| format!("{ARMOR_BEGIN}{block}").into_bytes()).collect()
        }
        None => vec![file.bytes.clone()],
    };
    let mut certs = Vec::new();
    for block in blocks {
        for cert in CertParser::from_bytes(&block).map_err(|error| malformed(file, &error))? {
            certs.push(cert.map_err(|error| malformed(file, &error))?);
        }
    }
    if certs.is_empty() {
        return Err(KeyError::None { kind: KIND, place: file.place() });
    }
    Ok(certs)
}

fn malformed(file: &KeyFile, error: &openpgp::anyhow::Error) -> KeyError {
    KeyError::Malformed { kind: KIND, place: keys::place(file.path.as_deref()), problem: error.to_string() }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Day of a time, UTC.
fn date(time: SystemTime) -> String {
    let secs = seconds(time).unwrap_or(0);
    let text = osupdate_deploy::timestamp::format(secs);
    text.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use openpgp::cert::{CertBuilder, CertRevocationBuilder};
    use openpgp::packet::signature::SignatureBuilder;
    use openpgp::types::ReasonForRevocation;

    use super::*;

    #[test]
    fn newer_self_signature_takes_no_revocation_back() {
        let now = SystemTime::now();
        let days_ago = |days: u64| now - Duration::from_secs(days * 86_400);
        let (cert, _) = CertBuilder::new()
            .add_userid("Example OS <os@example.com>")
            .set_creation_time(days_ago(30))
            .add_signing_subkey()
            .generate()
            .unwrap();
        let policy = StandardPolicy::at(now);
        let key = cert.keys().with_policy(&policy, now).for_signing().next().unwrap().key().fingerprint();
        let times = Times { made: days_ago(25), now };
        let check = |cert: &Cert| check_key(cert, &KeyHandle::from(key.clone()), "key", &policy, times);
        assert_eq!(check(&cert).unwrap().as_deref(), Some("Example OS <os@example.com>"));

        let mut signer = cert.primary_key().key().clone().parts_into_secret().unwrap().into_keypair().unwrap();
        let revocation = CertRevocationBuilder::new()
            .set_signature_creation_time(days_ago(20))
            .unwrap()
            .set_reason_for_revocation(ReasonForRevocation::KeySuperseded, b"")
            .unwrap()
            .build(&mut signer, &cert, None)
            .unwrap();
        let user_id = cert.userids().next().unwrap();
        let renewed = SignatureBuilder::from(user_id.self_signatures().next().unwrap().clone())
            .set_signature_creation_time(days_ago(10))
            .unwrap()
            .sign_userid_binding(&mut signer, None, user_id.userid())
            .unwrap();
        let (cert, _) = cert.insert_packets([Packet::from(revocation), Packet::from(renewed)]).unwrap();
        assert!(matches!(check(&cert), Err(SignatureProblem::KeyRevoked { .. })), "{:?}", check(&cert));
    }
}
