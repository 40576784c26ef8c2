//! Who signed an image, and what its successors must be signed with.
//!
//! ```toml
//! [[image.signatures]]
//! kind = "openpgp"
//! key = "7B37EE6C0A8B0A8B0A8B0A8B0A8B0A8B0A8B0A8B"
//! key_file = "/etc/pki/containers/os.gpg"
//! signer = "Example Builders <os@example.com>"
//! identity = "registry.example.com/os:1"
//! made = "2026-11-24T10:04:05Z"
//! verified = "2026-11-24T11:00:00Z"
//!
//! [origin.requirement]
//! signature = "required"
//! keys = ["7B37EE6C0A8B0A8B0A8B0A8B0A8B0A8B0A8B0A8B"]
//! since = "2026-11-24T11:00:00Z"
//! ```
//! setup-root reads records too, and a machine must boot whatever they say of signatures: tables, keys and words that a program does
//! not know here are kept as they are, and do not make a record unusable. So the types of those that it knows never change.

use serde::{Deserialize, Serialize};
use toml::Table;

/// `[[image.signatures]]`: one signature of the image that was verified before the image was fetched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// Form of the signature: `openpgp` or `sigstore`.
    #[serde(default)]
    pub kind: String,
    /// The key that it was made with: fingerprint of an OpenPGP certificate; `sha256:<hex>` of a sigstore public key.
    #[serde(default)]
    pub key: String,
    /// The file that the key was trusted by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// Whose key it is, as the key says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// What the image was signed as: `registry.example.com/os:1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// When it was made, as the signature says: UTC, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
    /// When it was verified first on this machine: UTC, RFC 3339.
    #[serde(default)]
    pub verified: String,
    /// Keys of a newer program.
    #[serde(flatten)]
    pub unknown: Table,
}

impl Signature {
    /// Whether it is the same one, whenever it was verified.
    pub fn is_same(&self, other: &Self) -> bool {
        let undated = |signature: &Self| Self { verified: String::new(), unknown: Table::new(), ..signature.clone() };
        undated(self) == undated(other)
    }
}

/// `[origin.requirement]`: what an image from the origin must be signed with to be accepted.
///
/// A record without it is from before signatures were required: images without one are accepted, and shown as such.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requirement {
    /// Whether there must be a signature.
    #[serde(default)]
    pub signature: Needed,
    /// The keys that the newest image from there was signed with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// When it was decided that there must be one, or need not: UTC, RFC 3339.
    #[serde(default)]
    pub since: String,
    /// Keys of a newer program.
    #[serde(flatten)]
    pub unknown: Table,
}

/// Whether a signature is needed. By which keys is for the machine's policy to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Needed {
    /// An image without one is refused, whatever the policy accepts.
    #[default]
    Required,
    /// The user has allowed images without one.
    Waived,
    /// A word of a newer program, which counts as [`Needed::Required`].
    Unknown(String),
}

const REQUIRED: &str = "required";
const WAIVED: &str = "waived";

impl From<String> for Needed {
    fn from(word: String) -> Self {
        match word.as_str() {
            REQUIRED => Self::Required,
            WAIVED => Self::Waived,
            _ => Self::Unknown(word),
        }
    }
}

impl From<Needed> for String {
    fn from(needed: Needed) -> Self {
        match needed {
            Needed::Required => REQUIRED.to_owned(),
            Needed::Waived => WAIVED.to_owned(),
            Needed::Unknown(word) => word,
        }
    }
}

impl Requirement {
    /// Whether an image without a signature is refused.
    pub fn refuses_unsigned(&self) -> bool {
        self.signature != Needed::Waived
    }

    /// The requirement in one word.
    pub fn word(&self) -> String {
        self.signature.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Deployment, Needed};

    const OLD: &str = "version = 1\nsequence = 7\ncreated = \"\"\n[image]\nreference = \"r\"\nmanifest_digest = \"m\"\n\
                       config_digest = \"c\"\n[origin]\nplain_http = false\n[boot]\ndigest = \"d\"\nkernel = \"6\"\n";

    fn parse(text: &str) -> Deployment {
        Deployment::parse(text).unwrap()
    }

    #[test]
    fn record_from_before_signatures_has_none_and_no_requirement() {
        let record = parse(OLD);
        assert_eq!((record.image.signatures.len(), &record.origin.requirement), (0, &None));
        assert_eq!(parse(&record.to_toml().unwrap()), record);
        assert!(!record.to_toml().unwrap().contains("signatures"), "what is not known is not written");
    }

    #[test]
    fn record_comes_back_as_it_was_written() {
        let text = OLD.replace("[boot]", "[origin.requirement]\nsignature = \"required\"\nsince = \"s\"\n[boot]")
            + "[[image.signatures]]\nkind = \"openpgp\"\nkey = \"k\"\nverified = \"v\"\ncountersigned = true\n";
        let record = parse(&text);
        let written = record.to_toml().unwrap();
        assert_eq!(parse(&written), record, "{written}");
        assert!(written.contains("countersigned = true"), "{written}");
        assert!(record.origin.requirement.unwrap().refuses_unsigned());
    }

    #[test]
    fn newer_programs_words_are_kept_and_accept_nothing_unsigned() {
        for (word, refuses) in [("required", true), ("waived", false), ("by-two-keys", true)] {
            let text = format!("{OLD}[origin.requirement]\nsignature = \"{word}\"\n");
            let record = parse(&text);
            let requirement = record.origin.requirement.clone().unwrap();
            assert_eq!(requirement.refuses_unsigned(), refuses, "{word}");
            assert!(record.to_toml().unwrap().contains(&format!("signature = \"{word}\"")));
        }
        let empty = parse(&format!("{OLD}[origin.requirement]\n"));
        assert_eq!(empty.origin.requirement.unwrap().signature, Needed::Required);
    }
}
