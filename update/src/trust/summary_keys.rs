//! Keys that sign the summary of a published tree. Which image a name stands for depends on the summary; whether that image
//! is trusted, on the policy.

use std::path::PathBuf;

use osupdate_core::published::Envelope;

use super::error::{KeyError, SignatureProblem};
use super::policy::KeySource;
use super::sigstore::PublicKeys;

/// Public keys in PEM.
#[derive(Debug)]
pub struct SummaryKeys(PublicKeys);

impl SummaryKeys {
    /// Reads files with keys, and all files in directories.
    ///
    /// # Errors
    /// When one cannot be read, or has no key that can be used.
    pub fn read(files: Vec<PathBuf>) -> Result<Self, KeyError> {
        PublicKeys::load(&KeySource::Files(files)).map(Self)
    }

    /// Takes the contents of such a file.
    ///
    /// # Errors
    /// When it has no key that can be used.
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        PublicKeys::load(&KeySource::Inline(vec![pem.as_bytes().to_vec()])).map(Self)
    }

    /// The fingerprints of all keys.
    pub fn fingerprints(&self) -> impl Iterator<Item = &str> {
        self.0.fingerprints()
    }

    /// The fingerprint of the key that signed a summary.
    ///
    /// # Errors
    /// When none of the keys did.
    pub fn verify(&self, envelope: &Envelope) -> Result<String, SignatureProblem> {
        let signed = envelope.signed_bytes();
        let mut problem = SignatureProblem::Malformed("the summary is not signed at all".to_owned());
        for signature in &envelope.signatures {
            match self.0.verify(&signed, &signature.sig) {
                Ok(key) => return Ok(key.fingerprint.clone()),
                Err(other) => problem = other,
            }
        }
        Err(problem)
    }
}
