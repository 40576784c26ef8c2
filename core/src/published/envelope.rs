//! The envelope of the summary: what is signed and its signatures in one file, so that nobody reads one without the other.
//!
//! It is that of DSSE: a JSON object with `payloadType`, `payload` in base64, and `signatures`, each with `keyid` and `sig` in
//! base64. *Rationale:* what is signed are bytes, and not JSON in some canonical form, and they are told apart from all else
//! that the same key may sign.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::base64_bytes;
use super::summary::SUMMARY_MAX_BYTES;

/// What the payload is.
const PAYLOAD_TYPE: &str = "application/vnd.osupdate.summary+json";

/// Most bytes of the file: the longest summary in base64, and signatures.
pub const ENVELOPE_MAX_BYTES: usize = SUMMARY_MAX_BYTES / 3 * 4 + (64 << 10);

/// Most signatures in it.
const SIGNATURES_MAX: usize = 16;

/// Why a file is not the envelope of a summary.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// It is longer than envelopes are.
    #[error("the envelope of the summary has more than {ENVELOPE_MAX_BYTES} bytes")]
    TooLong,
    /// It is not JSON, or not that of an envelope.
    #[error("cannot read the envelope of the summary")]
    Json(#[from] serde_json::Error),
    /// It holds something else.
    #[error("the envelope holds {0:?}, not a summary")]
    PayloadType(String),
    /// It has too many signatures.
    #[error("the envelope of the summary has more than {SIGNATURES_MAX} signatures")]
    Signatures,
}

/// A summary and its signatures. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The summary, see [`super::Summary::parse`].
    pub payload: Vec<u8>,
    /// Signatures over [`Envelope::signed_bytes`]; none: it is not signed.
    pub signatures: Vec<EnvelopeSignature>,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvelopeSignature {
    /// Which key made it, as a hint: `sha256:` and the hash of the public key in DER.
    #[serde(default)]
    pub keyid: String,
    /// The signature: ASN.1 of ECDSA, or the 64 bytes of Ed25519.
    #[serde(with = "base64_bytes")]
    pub sig: Vec<u8>,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dsse {
    payload_type: String,
    #[serde(with = "base64_bytes")]
    payload: Vec<u8>,
    signatures: Vec<EnvelopeSignature>,
}

impl Envelope {
    /// Reads the file of an envelope.
    ///
    /// # Errors
    /// When it is none, or holds something else than a summary.
    pub fn parse(file: &[u8]) -> Result<Self, EnvelopeError> {
        if file.len() > ENVELOPE_MAX_BYTES {
            return Err(EnvelopeError::TooLong);
        }
        let Dsse { payload_type, payload, signatures } = serde_json::from_slice(file)?;
        if payload_type != PAYLOAD_TYPE {
            return Err(EnvelopeError::PayloadType(payload_type));
        }
        if signatures.len() > SIGNATURES_MAX {
            return Err(EnvelopeError::Signatures);
        }
        Ok(Self { payload, signatures })
    }

    /// The file.
    ///
    /// # Errors
    /// Never: all fields have a form in JSON.
    pub fn to_file(&self) -> serde_json::Result<Vec<u8>> {
        let Self { payload, signatures } = self.clone();
        serde_json::to_vec(&Dsse { payload_type: PAYLOAD_TYPE.to_owned(), payload, signatures })
    }

    /// What is signed: the pre-authentication encoding of DSSE, version 1.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let (payload_type, length) = (PAYLOAD_TYPE.len(), self.payload.len());
        let mut bytes = format!("DSSEv1 {payload_type} {PAYLOAD_TYPE} {length} ").into_bytes();
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}
