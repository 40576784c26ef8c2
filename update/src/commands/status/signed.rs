//! Who signed an image, as `status` and others show it.

use std::io::{self, Write};

use osupdate_deploy::record::{Requirement, Signature};
use serde::Serialize;

/// One verified signature; part of several JSON forms.
#[derive(Debug, Serialize)]
pub(crate) struct SignatureRow {
    kind: String,
    key: String,
    key_file: Option<String>,
    signer: Option<String>,
    identity: Option<String>,
    made: Option<String>,
    verified: String,
}

/// What images of an origin must be signed with.
#[derive(Debug, Serialize)]
pub(crate) struct RequirementRow {
    signature: String,
    keys: Vec<String>,
    since: String,
    #[serde(skip)]
    waived: bool,
}

impl SignatureRow {
    pub(crate) fn new(signature: &Signature) -> Self {
        let Signature { kind, key, key_file, signer, identity, made, verified, .. } = signature.clone();
        Self { kind, key, key_file, signer, identity, made, verified }
    }

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let made = self.made.as_ref().map(|made| format!(" on {made}")).unwrap_or_default();
        match &self.signer {
            Some(signer) => writeln!(out, "  signed      by {signer}{made}")?,
            None => writeln!(out, "  signed      yes{made}")?,
        }
        writeln!(out, "              {} key {}", self.kind, self.key)?;
        writeln!(out, "              verified on {}", self.verified)
    }
}

/// Who has signed an image, by name or else by key; `None`: nobody.
pub(crate) fn signers(signatures: &[SignatureRow]) -> Option<String> {
    let by = signatures.iter().map(|signature| signature.signer.as_ref().unwrap_or(&signature.key).as_str());
    (!signatures.is_empty()).then(|| by.collect::<Vec<_>>().join(", "))
}

/// The same as part of a sentence.
pub(crate) fn signed_by(signatures: &[SignatureRow]) -> String {
    signers(signatures).map_or_else(|| "NOT SIGNED".to_owned(), |signers| format!("signed by {signers}"))
}

impl RequirementRow {
    pub(crate) fn new(requirement: &Requirement) -> Self {
        let (keys, since) = (requirement.keys.clone(), requirement.since.clone());
        Self { signature: requirement.word(), keys, since, waived: !requirement.refuses_unsigned() }
    }
}

/// The lines on an image's signatures; that there is none is always told.
pub(super) fn human(
    out: &mut dyn Write,
    signatures: &[SignatureRow],
    requirement: Option<&RequirementRow>,
) -> io::Result<()> {
    for signature in signatures {
        signature.human(out)?;
    }
    if signatures.is_empty() {
        match requirement {
            None => writeln!(out, "  signed      NO: it was installed before signatures were required")?,
            Some(requirement) if requirement.waived => writeln!(
                out,
                "  signed      NO: the user has allowed that (--allow-unsigned-image) on {}",
                requirement.since
            )?,
            Some(requirement) => {
                writeln!(out, "  signed      NO: but images from its origin must be, since {}", requirement.since)?;
            }
        }
    }
    Ok(())
}
