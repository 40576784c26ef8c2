//! What is signed: a small JSON document about one manifest, the same for both kinds of signatures but for its type.
//!
//! ```json
//! {"critical": {"type": "atomic container signature",
//!               "image": {"docker-manifest-digest": "sha256:…"},
//!               "identity": {"docker-reference": "registry.example.com/os:1"}},
//!  "optional": {"creator": "…", "timestamp": 1700000000}}
//! ```
//!
//! `critical` is exact: a part that is not known could change the meaning. Source: containers-signature(5).

use osupdate_core::oci::ContentDigest;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::SignatureProblem;
use super::identity::{Name, SignedIdentity};
use super::json::UniqueMap;
use super::verdict::SignatureKind;
use crate::output::printable;
use crate::transport::ImageReference;

/// Most bytes of the document.
pub(super) const PAYLOAD_MAX_BYTES: u64 = 64 << 10;

/// What a good signature says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// The digest of the manifest, as text.
    digest: String,
    /// What it was signed as.
    pub(super) identity: String,
    /// When, in seconds since 1970.
    pub(super) timestamp: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    critical: Critical,
    optional: Additions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    r#type: String,
    image: Image,
    identity: Identity,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Identity {
    docker_reference: String,
}

/// An object, or null, as cosign writes it.
struct Additions(UniqueMap<Value>);

impl<'de> Deserialize<'de> for Additions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::deserialize(deserializer)?.unwrap_or_default()))
    }
}

impl Payload {
    /// Parses the document of a signature of this kind.
    pub(super) fn parse(json: &[u8], kind: SignatureKind) -> Result<Self, SignatureProblem> {
        let problem = |problem: String| SignatureProblem::Payload(problem);
        let Document { critical, optional } =
            serde_json::from_slice(json).map_err(|error| problem(error.to_string()))?;
        let wanted = match kind {
            SignatureKind::OpenPgp => "atomic container signature",
            SignatureKind::Sigstore => "cosign container image signature",
        };
        if critical.r#type != wanted {
            return Err(problem(format!("its type is {:?}, expected {wanted:?}", critical.r#type)));
        }
        let timestamp = match optional.0.0.get("timestamp") {
            None => None,
            Some(value) => Some(integer(value).ok_or_else(|| problem("its timestamp is not an integer".to_owned()))?),
        };
        if optional.0.0.get("creator").is_some_and(|creator| !creator.is_string()) {
            return Err(problem("its creator is not a text".to_owned()));
        }
        Ok(Self {
            digest: critical.image.docker_manifest_digest,
            identity: critical.identity.docker_reference,
            timestamp,
        })
    }

    /// Checks that it is about this manifest and this name.
    pub(super) fn check(
        &self,
        manifest: &[u8],
        reference: &ImageReference,
        accepted: &SignedIdentity,
    ) -> Result<(), SignatureProblem> {
        let digest: Option<ContentDigest> = self.digest.parse().ok();
        if !digest.is_some_and(|digest| digest.matches(manifest)) {
            let found = ContentDigest::sha256(manifest);
            return Err(SignatureProblem::Digest { signed: printable(&self.digest), found });
        }
        match Name::parse(&self.identity) {
            Some(signed) if accepted.accepts(reference, &signed) => Ok(()),
            _ => Err(SignatureProblem::Identity {
                signed: printable(&self.identity),
                accepted: accepted.describe(reference),
            }),
        }
    }
}

/// A number without a fraction.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        // 2^53: beyond it not every integer is one of these numbers.
        let is_integer = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
        #[allow(clippy::cast_possible_truncation, reason = "checked")]
        is_integer.then_some(number as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"critical": {"type": "atomic container signature", "image": {"docker-manifest-digest": "sha256:1"}, "identity": {"docker-reference": "h.example/os:1"}}, "optional": {"creator": "me", "timestamp": 5, "more": [1]}}"#;

    fn parse(json: &str) -> Result<Payload, String> {
        Payload::parse(json.as_bytes(), SignatureKind::OpenPgp).map_err(|problem| problem.to_string())
    }

    #[test]
    fn critical_parts_are_exact() {
        let payload = parse(GOOD).unwrap();
        assert_eq!((payload.identity.as_str(), payload.timestamp), ("h.example/os:1", Some(5)));
        for (from, to, part) in [
            ("\"type\"", "\"more\": 1, \"type\"", "unknown field `more`"),
            ("\"optional\"", "\"more\": 1, \"optional\"", "unknown field `more`"),
            ("{\"docker-m", "{\"more\": 1, \"docker-m", "unknown field `more`"),
            ("{\"docker-r", "{\"docker-reference\": \"x\", \"docker-r", "duplicate field"),
            ("\"creator\"", "\"timestamp\": 1, \"creator\"", "duplicate key"),
            ("atomic", "cosign", "its type is"),
            (": 5", ": 5.5", "not an integer"),
            (": 5", ": \"5\"", "not an integer"),
            ("\"me\"", "1", "not a text"),
            ("\"critical\"", "\"Critical\"", "unknown field"),
        ] {
            let error = parse(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(part), "{to}: {error}");
        }
        assert!(parse(r#"{"critical": {}}"#).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn cosign_leaves_additions_out() {
        let json = GOOD.replace("atomic container", "cosign container image");
        let (start, _) = json.split_once("\"optional\"").unwrap();
        let payload =
            Payload::parse(format!("{start}\"optional\": null}}").as_bytes(), SignatureKind::Sigstore).unwrap();
        assert_eq!(payload.timestamp, None);
    }

    #[test]
    fn deep_documents_are_refused() {
        let deep = GOOD.replace("[1]", &format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)));
        assert!(parse(&deep).unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn another_manifest_and_another_name_are_told_apart() {
        let manifest = b"{}";
        let good = GOOD.replace("sha256:1", &ContentDigest::sha256(manifest).to_string());
        let reference = "h.example/os:1".parse().unwrap();
        let check = |json: &str, manifest: &[u8]| {
            parse(json).unwrap().check(manifest, &reference, &SignedIdentity::MatchRepoDigestOrExact)
        };
        assert_eq!(check(&good, manifest), Ok(()));
        assert!(matches!(check(&good, b"{ }"), Err(SignatureProblem::Digest { .. })));
        assert!(matches!(check(GOOD, manifest), Err(SignatureProblem::Digest { .. })));
        let other = good.replace("os:1", "so:1");
        assert!(matches!(check(&other, manifest), Err(SignatureProblem::Identity { .. })));
        let nothing = good.replace("h.example/os:1", "");
        assert!(matches!(check(&nothing, manifest), Err(SignatureProblem::Identity { .. })));
    }
}
