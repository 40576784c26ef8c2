//! Signatures as they are stored: which kind one is, before anything of it is believed.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::error::SignatureProblem;

/// Most bytes of one signature. Those of real tools have less than 2 KiB.
pub(super) const SIGNATURE_MAX_BYTES: u64 = 64 << 10;
/// Most signatures of one image.
pub(super) const SIGNATURES_MAX: usize = 128;
/// The annotation that holds a sigstore signature.
const SIGSTORE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// The media type of what sigstore signs.
const SIGSTORE_MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// One signature and where it was found.
#[derive(Debug)]
pub(super) struct Located {
    /// The place, for people.
    pub(super) place: String,
    /// The signature, or why it is none.
    pub(super) signature: Result<Signature, SignatureProblem>,
}

/// A signature; nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    /// An OpenPGP message.
    Simple(Vec<u8>),
    /// A sigstore signature.
    Sigstore {
        /// What was signed.
        payload: Vec<u8>,
        /// The signature, DER or raw.
        signature: Vec<u8>,
    },
    /// Something else that is kept at the same place.
    Other,
}

impl Signature {
    /// Reads a signature file of a store or a `dir:` image.
    ///
    /// Those of sigstore begin with `\0sigstore-json\n`, simple signatures with a packet or `\0simple-signing\n`.
    pub(super) fn from_file(bytes: Vec<u8>) -> Result<Self, SignatureProblem> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Sigstore {
            mime_type: String,
            payload: String,
            annotations: BTreeMap<String, String>,
        }
        let malformed = |problem: String| Err(SignatureProblem::Malformed(problem));
        match bytes.first() {
            None => malformed("it is empty".to_owned()),
            Some(0) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                let (format, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
                match format {
                    b"\0simple-signing\n" => Ok(Self::Simple(rest.to_vec())),
                    b"\0sigstore-json\n" => {
                        let parsed: Result<Sigstore, _> = serde_json::from_slice(rest);
                        let Sigstore { mime_type, payload, annotations } = match parsed {
                            Ok(parsed) => parsed,
                            Err(error) => return malformed(format!("its JSON is not valid, {error}")),
                        };
                        match STANDARD.decode(payload) {
                            Ok(payload) => Self::sigstore(&mime_type, payload, &annotations),
                            Err(_) => malformed("its payload is not base64".to_owned()),
                        }
                    }
                    _ => malformed("its format is not known".to_owned()),
                }
            }
            // Every OpenPGP packet begins with that bit.
            Some(first) if first & 0x80 != 0 => Ok(Self::Simple(bytes)),
            Some(b'<') => malformed("it is a web page".to_owned()),
            Some(_) => malformed("it is not an OpenPGP message".to_owned()),
        }
    }

    /// A signature that is a layer of an attachment.
    pub(super) fn sigstore(
        media_type: &str,
        payload: Vec<u8>,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Self, SignatureProblem> {
        if media_type != SIGSTORE_MEDIA_TYPE {
            return Ok(Self::Other);
        }
        let Some(signature) = annotations.get(SIGSTORE_ANNOTATION) else {
            return Err(SignatureProblem::Malformed(format!("it has no annotation {SIGSTORE_ANNOTATION}")));
        };
        match STANDARD.decode(signature) {
            Ok(signature) => Ok(Self::Sigstore { payload, signature }),
            Err(_) => Err(SignatureProblem::Malformed(format!("its annotation {SIGSTORE_ANNOTATION} is not base64"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_beginning() {
        assert_eq!(Signature::from_file(vec![0xa3, 1]), Ok(Signature::Simple(vec![0xa3, 1])));
        assert_eq!(Signature::from_file(b"\0simple-signing\n\xa3".to_vec()), Ok(Signature::Simple(vec![0xa3])));
        let json = format!(
            "\0sigstore-json\n{{\"mimeType\": \"{SIGSTORE_MEDIA_TYPE}\", \"payload\": \"YQ==\", \
             \"annotations\": {{\"{SIGSTORE_ANNOTATION}\": \"Yg==\"}}}}"
        );
        let sigstore = Signature::Sigstore { payload: b"a".to_vec(), signature: b"b".to_vec() };
        assert_eq!(Signature::from_file(json.clone().into_bytes()), Ok(sigstore));
        let other = json.replace("simplesigning", "attestation");
        assert_eq!(Signature::from_file(other.into_bytes()), Ok(Signature::Other));
        for bad in [
            &b""[..],
            b"\0",
            b"\0sigstore-json",
            b"\0sigstore-json\n",
            b"\0other\nx",
            b"<html>",
            b"-----BEGIN PGP MESSAGE-----",
            json.replace("YQ==", "!").as_bytes(),
            json.replace("Yg==", "!").as_bytes(),
            json.replace(SIGSTORE_ANNOTATION, "x").as_bytes(),
        ] {
            let result = Signature::from_file(bad.to_vec());
            assert!(matches!(result, Err(SignatureProblem::Malformed(_))), "{result:?}");
        }
    }
}
