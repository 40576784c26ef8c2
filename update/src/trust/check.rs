//! The decision on one image.

use std::time::SystemTime;

use osupdate_core::oci::ContentDigest;

use super::attachments;
use super::error::{KeyError, SignatureError, SignatureErrors, SignatureProblem, TrustError};
use super::fetch::FetchError;
use super::identity::SignedIdentity;
use super::lookaside::{self, Lookaside};
use super::openpgp::Keyring;
use super::payload::Payload;
use super::policy::{Applicable, KeySource, Policy, Requirement};
use super::scope;
use super::signature::{Located, Signature};
use super::sigstore::PublicKeys;
use super::verdict::{SignatureKind, Signer, Verdict};
use crate::transport::{ImageReference, Source};

impl Policy {
    /// Decides whether an image may be used. `manifest` is that of the image itself, as it will be pulled, not a list of
    /// images: signatures are looked for by its digest. Signatures are fetched from where the configuration says, if the
    /// policy asks for some.
    ///
    /// # Errors
    /// When the policy does not accept it, or that cannot be found out.
    pub fn check(&self, reference: &ImageReference, source: &Source, manifest: &[u8]) -> Result<Verdict, TrustError> {
        let applicable = self
            .requirements(reference, scope::transport(reference, source))
            .map_err(|source| TrustError::Scope { image: reference.to_string(), source })?;
        let check =
            Check { policy: self, applicable, reference, source, manifest, digest: ContentDigest::sha256(manifest) };
        check.run()
    }
}

struct Check<'a> {
    policy: &'a Policy,
    applicable: Applicable<'a>,
    reference: &'a ImageReference,
    source: &'a Source,
    manifest: &'a [u8],
    digest: ContentDigest,
}

/// The keys of one requirement.
enum Keys {
    OpenPgp(Keyring),
    Sigstore(PublicKeys),
}

impl Keys {
    fn kind(&self) -> SignatureKind {
        match self {
            Self::OpenPgp(_) => SignatureKind::OpenPgp,
            Self::Sigstore(_) => SignatureKind::Sigstore,
        }
    }
}

/// What was found.
struct Found {
    signatures: Vec<Located>,
    /// Where it was looked.
    places: Vec<String>,
}

impl Check<'_> {
    fn run(&self) -> Result<Verdict, TrustError> {
        let scope = || self.applicable.scope.clone();
        let (image, policy) = (|| self.reference.to_string(), || self.policy.file_name());
        // What needs no signature comes first: nothing is fetched for an image that cannot be accepted.
        let mut wanted = Vec::new();
        for requirement in self.applicable.requirements.iter() {
            match requirement {
                Requirement::AcceptAnything => {}
                Requirement::Reject => {
                    return Err(TrustError::Rejected { image: image(), policy: policy(), scope: scope() });
                }
                Requirement::Unsupported(what) => {
                    let what = what.clone();
                    return Err(TrustError::Unsupported { image: image(), policy: policy(), scope: scope(), what });
                }
                Requirement::SignedBy { keys, identity } => {
                    wanted.push((self.load(keys, |keys| Keyring::load(keys).map(Keys::OpenPgp))?, identity));
                }
                Requirement::SigstoreSigned { keys, identity } => {
                    wanted.push((self.load(keys, |keys| PublicKeys::load(keys).map(Keys::Sigstore))?, identity));
                }
            }
        }
        let mut signers: Vec<Signer> = Vec::new();
        if !wanted.is_empty() {
            let attachments = wanted.iter().any(|(keys, _)| keys.kind() == SignatureKind::Sigstore);
            let found = self.fetch(attachments).map_err(|source| TrustError::Fetch { image: image(), source })?;
            for (keys, identity) in &wanted {
                for signer in self.accepted(keys, identity, &found)? {
                    if !signers.contains(&signer) {
                        signers.push(signer);
                    }
                }
            }
        }
        Ok(Verdict { scope: scope(), policy: self.policy.file().map(Into::into), signers })
    }

    fn load(
        &self,
        source: &KeySource,
        load: impl FnOnce(&KeySource) -> Result<Keys, KeyError>,
    ) -> Result<Keys, TrustError> {
        load(source).map_err(|source| TrustError::Keys {
            image: self.reference.to_string(),
            policy: self.policy.file_name(),
            scope: self.applicable.scope.clone(),
            source,
        })
    }

    /// Fetches the signatures; those beside the image only if they are of use.
    fn fetch(&self, attachments: bool) -> Result<Found, FetchError> {
        let mut found = Found { signatures: Vec::new(), places: Vec::new() };
        match (self.reference, self.source) {
            (ImageReference::Registry(reference), Source::Registry(image)) => {
                let config = &self.policy.registries_d;
                if let Some(store) = Lookaside::of(reference, config)? {
                    found.signatures.extend(store.fetch(&self.digest)?);
                    found.places.push(store.place(&self.digest));
                }
                if attachments && config.use_attachments(reference) {
                    let repository = format!("{}/{}", reference.host, reference.repository);
                    found.signatures.extend(attachments::of_registry(image, &repository, &self.digest)?);
                    found.places.push(attachments::place(&repository, &self.digest));
                }
            }
            (ImageReference::Published(reference), Source::Published(tree)) => {
                if let Some(store) = Lookaside::of(&reference.image, &self.policy.registries_d)? {
                    found.signatures.extend(store.fetch(&self.digest)?);
                    found.places.push(store.place(&self.digest));
                }
                // They have come with the index already.
                if attachments {
                    let image = &reference.image;
                    let place = attachments::place(&format!("{}/{}", image.host, image.repository), &self.digest);
                    found.signatures.extend(attachments::of_tree(tree, &self.digest, &place)?);
                    found.places.push(place);
                }
            }
            (ImageReference::Directory(path), _) => {
                found.signatures.extend(lookaside::of_directory(path, &self.digest)?);
                found.places.push(format!("signature-1 in {}", path.display()));
            }
            _ if attachments => {
                if let Some(place) = attachments::file_place(self.reference, self.source, &self.digest) {
                    found.signatures.extend(attachments::of_file(self.reference, &self.digest)?);
                    found.places.push(place);
                }
            }
            _ => {}
        }
        Ok(found)
    }

    /// Those who signed in a way that a requirement accepts: at least one.
    fn accepted(&self, keys: &Keys, identity: &SignedIdentity, found: &Found) -> Result<Vec<Signer>, TrustError> {
        let (mut signers, mut errors) = (Vec::new(), Vec::new());
        for Located { place, signature } in &found.signatures {
            let result = match (signature, keys) {
                (Ok(Signature::Simple(message)), Keys::OpenPgp(keys)) => self.simple(keys, identity, message),
                (Ok(Signature::Sigstore { payload, signature }), Keys::Sigstore(keys)) => {
                    self.sigstore(keys, identity, payload, signature)
                }
                (Err(problem), _) => Err(problem.clone()),
                (Ok(_), _) => continue,
            };
            match result {
                Ok(signer) => signers.push(signer),
                Err(problem) => errors.push(SignatureError { place: place.clone(), problem }),
            }
        }
        if !signers.is_empty() {
            for error in errors {
                tracing::debug!("a signature of {} is not accepted, ignoring: {error}", self.reference);
            }
            return Ok(signers);
        }
        let (image, policy) = (self.image(), self.policy.file_name());
        let scope = self.applicable.scope.clone();
        if errors.is_empty() {
            let kind = keys.kind();
            let places = match found.places.as_slice() {
                [] => "no place, because none is configured".to_owned(),
                places => places.join(", "),
            };
            let hint = self.how_to_sign(kind);
            return Err(TrustError::NoSignature { image, kind: kind.name(), policy, scope, places, hint });
        }
        Err(TrustError::NotAccepted { image, policy, scope, source: SignatureErrors(errors) })
    }

    /// The image with its digest.
    fn image(&self) -> String {
        format!("{} (manifest {})", self.reference, self.digest)
    }

    fn how_to_sign(&self, kind: SignatureKind) -> Option<String> {
        if matches!(self.reference, ImageReference::Published(_)) {
            return Some("have this very image signed, and published again with its signatures".to_owned());
        }
        let ImageReference::Registry(reference) = self.reference else {
            return Some(
                "pull it from the registry where it is signed, or copy it with its signatures (skopeo copy to dir:)"
                    .to_owned(),
            );
        };
        let config = &self.policy.registries_d;
        let directory = config.directory.display();
        Some(match kind {
            SignatureKind::Sigstore if !config.use_attachments(reference) => {
                format!(
                    "if the signatures are in the registry, say so in {directory}: \
                     docker: {{{}/{}: {{use-sigstore-attachments: true}}}}",
                    reference.host, reference.repository
                )
            }
            SignatureKind::OpenPgp | SignatureKind::Sigstore => {
                format!("have this very image signed, or check where {directory} says that signatures are")
            }
        })
    }

    fn simple(&self, keys: &Keyring, identity: &SignedIdentity, message: &[u8]) -> Result<Signer, SignatureProblem> {
        let signed = keys.verify(message, SystemTime::now())?;
        let payload = Payload::parse(&signed.payload, SignatureKind::OpenPgp)?;
        payload.check(self.manifest, self.reference, identity)?;
        Ok(Signer {
            kind: SignatureKind::OpenPgp,
            key: signed.fingerprint,
            user_id: signed.user_id,
            key_file: signed.file,
            signed_at: signed.signed_at,
            identity: payload.identity,
        })
    }

    fn sigstore(
        &self,
        keys: &PublicKeys,
        identity: &SignedIdentity,
        document: &[u8],
        signature: &[u8],
    ) -> Result<Signer, SignatureProblem> {
        let key = keys.verify(document, signature)?;
        let payload = Payload::parse(document, SignatureKind::Sigstore)?;
        payload.check(self.manifest, self.reference, identity)?;
        Ok(Signer {
            kind: SignatureKind::Sigstore,
            key: key.fingerprint.clone(),
            user_id: None,
            key_file: key.file.clone(),
            signed_at: payload.timestamp,
            identity: payload.identity,
        })
    }
}
