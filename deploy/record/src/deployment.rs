//! The record of a deployment, `deployment.toml`.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Table;

use crate::{DeploymentId, Requirement, Signature};

/// Version of the record's format.
///
/// Grows only when an older program must not use the record at all: it refuses greater numbers, and then cannot go back
/// from, clean up after, or boot a deployment with such a record. New keys do not need a new number.
pub const RECORD_VERSION: u32 = 1;

/// One deployment: an image, how it boots, and its place in the order.
///
/// Keys that this program does not know are kept in `unknown` and written back, so that an older program, after a
/// rollback, can pin or reorder a deployment of a newer one without losing what the newer one recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Always [`RECORD_VERSION`] in what this program writes.
    pub version: u32,
    /// Place in the order: the deployment with the highest number that is not bad is next.
    pub sequence: u64,
    /// When it was made, UTC, as RFC 3339 text.
    pub created: String,
    /// Kept until it is unpinned.
    #[serde(default)]
    pub pinned: bool,
    /// The sequence number with which [`boot`](Self::boot) last became another: boot entries with lower numbers start something
    /// else. None: it never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_since: Option<u64>,
    /// The image.
    pub image: Image,
    /// How to reach the image again.
    #[serde(default)]
    pub origin: Origin,
    /// How it boots.
    pub boot: Boot,
    /// Where its /etc comes from.
    #[serde(default)]
    pub etc: Etc,
    /// Keys of a newer program.
    #[serde(flatten)]
    pub unknown: Table,
}

/// `[image]`: what is deployed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// As the user gave it: `docker://host:5000/os:latest`, `oci:/path:tag`.
    pub reference: String,
    /// Content digest of the manifest, `sha256:<hex>`.
    pub manifest_digest: String,
    /// Content digest of the configuration, `sha256:<hex>`.
    pub config_digest: String,
    /// The OS version: label `org.opencontainers.image.version`, else os-release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The OS for people: `PRETTY_NAME` of os-release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// When a newer image should have replaced it, as it says itself: RFC 3339. Never keeps it from booting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// The signatures that were verified; none: it was accepted without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
    /// Keys of a newer program.
    #[serde(flatten)]
    pub unknown: Table,
}

/// `[origin]`: what the user allowed or required when fetching the image; later fetches do the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The registry is spoken to without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// Public keys in PEM: one of them must have signed the summary of the published tree; none: no signature is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary_key: Option<String>,
    /// What an image must be signed with; none: the record is from before signatures were required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirement: Option<Requirement>,
    /// Keys of a newer program.
    #[serde(flatten)]
    pub unknown: Table,
}

/// `[boot]`: all that is needed to make the boot entry again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    /// Name of the directory with the boot files below `EFI/osupdate/`.
    pub digest: String,
    /// Kernel version, as in `/usr/lib/modules/<version>`.
    pub kernel: String,
    /// The machine's own kernel arguments, one per element. With a UKI they have no effect: they are kept for images without.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Kernel arguments that the image asks for, one per element. Those of a UKI are sealed into it.
    #[serde(default)]
    pub image_arguments: Vec<String>,
    /// The UKI; none: kernel and initial ramdisk are separate files, and all arguments are in the boot entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uki: Option<Uki>,
    /// Keys of a newer program.
    #[serde(flatten)]
    pub unknown: Table,
}

/// `[boot.uki]`: the unified kernel image of a deployment, into which the digest of its image is sealed.
///
/// It is not in the image that is mounted, which has nothing in `/boot`: so it is named as the repository has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Uki {
    /// Path in the image that was pulled, without a leading slash.
    #[serde(default)]
    pub path: String,
    /// fs-verity digest of the file: the object in the repository.
    pub object: String,
    /// Its addons that came with the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addons: Vec<Addon>,
    /// The addon with this machine's own kernel arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalAddon>,
    /// Keys of a newer program.
    #[serde(flatten)]
    pub unknown: Table,
}

/// `[[boot.uki.addons]]`: an addon that came with the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addon {
    /// File name, ending in `.addon.efi`.
    pub name: String,
    /// fs-verity digest of the file: the object in the repository.
    pub object: String,
}

/// `[boot.uki.local]`: the addon that was made and signed on this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LocalAddon {
    /// File name in the deployment's directory.
    pub file: String,
    /// The kernel arguments in it, one per element.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Keys of a newer program.
    #[serde(flatten)]
    pub unknown: Table,
}

/// `[etc]`: what happens to /etc at the first boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Etc {
    /// The deployment whose local changes are copied; none at installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carry_from: Option<DeploymentId>,
    /// Keys of a newer program.
    #[serde(flatten)]
    pub unknown: Table,
}

/// Why a text is not a usable record.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Not TOML, or a key is missing or of the wrong type; the source says where.
    #[error("the deployment record is not valid")]
    Invalid(#[source] Box<toml::de::Error>),
    /// There is no usable `version` key.
    #[error("the deployment record has no version number")]
    NoVersion,
    /// A newer program made an incompatible record.
    #[error("the deployment record has format version {found}, this program reads versions up to {RECORD_VERSION}")]
    NewerVersion {
        /// The record's version.
        found: i64,
    },
}

/// Why a record has no written form.
#[derive(Debug, Error)]
#[error("the deployment record cannot be written as TOML")]
pub struct WriteError(#[source] toml::ser::Error);

impl Deployment {
    /// Reads a record. Unknown keys are kept; a greater format version is refused before anything else is looked at.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let invalid = |err| ParseError::Invalid(Box::new(err));
        let table: Table = text.parse().map_err(invalid)?;
        match table.get("version").and_then(toml::Value::as_integer) {
            Some(found) if found > i64::from(RECORD_VERSION) => return Err(ParseError::NewerVersion { found }),
            Some(1..) => {}
            _ => return Err(ParseError::NoVersion),
        }
        // From the text again, not from the table: its errors show the line.
        toml::from_str(text).map_err(invalid)
    }

    /// The written form, as `deployment.toml` has it.
    pub fn to_toml(&self) -> Result<String, WriteError> {
        toml::to_string(self).map_err(WriteError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_of_a_uki_comes_back_as_it_was_written() {
        let text = "version = 1\nsequence = 7\ncreated = \"\"\n[image]\nreference = \"r\"\nmanifest_digest = \"m\"\n\
                    config_digest = \"c\"\n[boot]\ndigest = \"d\"\nkernel = \"6\"\nnewer = 1\n[boot.uki]\n\
                    path = \"boot/EFI/Linux/os.efi\"\nobject = \"o\"\nprofile = 3\n[[boot.uki.addons]]\nname = \"a.addon.efi\"\n\
                    object = \"p\"\n[boot.uki.local]\nfile = \"l\"\narguments = [\"debug\"]\n";
        let record = Deployment::parse(text).unwrap();
        let uki = record.boot.uki.clone().unwrap();
        assert_eq!((uki.object.as_str(), uki.addons[0].name.as_str()), ("o", "a.addon.efi"));
        assert_eq!(uki.local.unwrap().arguments, ["debug"]);
        let written = record.to_toml().unwrap();
        assert!(written.contains("newer = 1") && written.contains("profile = 3"), "{written}");
        assert_eq!(Deployment::parse(&written).unwrap(), record);
    }
}
