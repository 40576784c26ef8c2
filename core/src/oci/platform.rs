//! Kinds of machines, and choosing the image for one from an index.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::Descriptor;
use thiserror::Error;

use super::manifest::ManifestError;

/// Kind of machine, in the words of OCI (Go's names of architectures).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Such as `amd64` or `arm64`.
    pub architecture: String,
    /// Such as `linux`.
    pub os: String,
    /// Such as `v7`, if only that one will do. `None`: the architecture's usual one is preferred.
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a platform, expected OS/ARCHITECTURE[/VARIANT], such as linux/arm64 or linux/arm/v7")]
pub struct ParsePlatformError(String);

/// The variant that an architecture has if none is stated.
fn base_variant(architecture: &str) -> Option<&'static str> {
    match architecture {
        "amd64" => Some("v1"),
        "arm64" => Some("v8"),
        "arm" => Some("v7"),
        _ => None,
    }
}

/// Go's name of an architecture that has others.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i386" | "i686" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        same => same,
    }
}

impl Platform {
    /// The machine that this program was built for.
    pub fn host() -> Self {
        Self { architecture: architecture(std::env::consts::ARCH).to_owned(), os: "linux".to_owned(), variant: None }
    }

    /// The manifest in an index that runs on this platform. Of several, the one without a variant or with the
    /// architecture's base variant is taken, then the first; if this platform has a variant, only that one.
    ///
    /// # Errors
    /// [`ManifestError::Platform`] if there is none.
    pub fn select<'a>(&self, manifests: &'a [Descriptor]) -> Result<&'a Descriptor, ManifestError> {
        let fitting = manifests.iter().filter_map(|descriptor| {
            let platform = descriptor.platform().as_ref()?;
            let image = Self {
                architecture: platform.architecture().to_string(),
                os: platform.os().to_string(),
                variant: platform.variant().clone(),
            };
            Some((self.rank(&image)?, descriptor))
        });
        fitting.min_by_key(|(rank, _)| *rank).map(|(_, descriptor)| descriptor).ok_or_else(|| {
            let platforms = manifests.iter().filter_map(|descriptor| descriptor.platform().as_ref());
            let mut available: Vec<String> = platforms
                .map(|platform| match platform.variant() {
                    Some(variant) => format!("{}/{}/{variant}", platform.os(), platform.architecture()),
                    None => format!("{}/{}", platform.os(), platform.architecture()),
                })
                .collect();
            available.sort_unstable();
            available.dedup();
            ManifestError::Platform { wanted: self.clone(), available }
        })
    }

    /// Which of several images to take for this platform: the first with the lowest rank. `None`: this one does not run here. An
    /// image without a variant is one for the base variant of its architecture.
    pub fn rank(&self, image: &Self) -> Option<u8> {
        self.check(&image.architecture, &image.os).ok()?;
        let base = base_variant(&self.architecture);
        let variant = image.variant.as_deref().filter(|variant| !variant.is_empty()).or(base);
        match self.variant.as_deref() {
            Some(wanted) if variant != Some(wanted) => None,
            _ => Some(u8::from(variant != base)),
        }
    }

    /// Fails unless an image for `architecture` and `os` runs here.
    pub(crate) fn check(&self, architecture: &str, os: &str) -> Result<(), ManifestError> {
        if architecture == self.architecture && os == self.os {
            return Ok(());
        }
        Err(ManifestError::Platform { wanted: self.clone(), available: vec![format!("{os}/{architecture}")] })
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c))
        };
        match parts.as_slice() {
            [os, name, rest @ ..] if rest.len() <= 1 && parts.iter().all(word) => {
                let variant = rest.first().map(|&variant| variant.to_owned());
                Ok(Self { architecture: architecture(name).to_owned(), os: (*os).to_owned(), variant })
            }
            _ => Err(ParsePlatformError(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::parse_index;
    use super::*;

    fn digest(last: char) -> String {
        format!("sha256:{}{last}", "0".repeat(63))
    }

    /// Which of an index's images is selected, by the last digit of its digest.
    fn select(platforms: &[(&str, Option<&str>)], wanted: &str) -> Result<char, String> {
        let entries: Vec<String> = platforms
            .iter()
            .zip('0'..)
            .map(|((architecture, variant), last)| {
                let variant = variant.map(|variant| format!(r#", "variant": "{variant}""#)).unwrap_or_default();
                format!(
                    r#"{{"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1, "digest": "{}",
                    "platform": {{"os": "linux", "architecture": "{architecture}"{variant}}}}}"#,
                    digest(last)
                )
            })
            .collect();
        let index = parse_index(format!(r#"{{"schemaVersion": 2, "manifests": [{}]}}"#, entries.join(",")).as_bytes());
        let index = index.unwrap();
        let wanted: Platform = wanted.parse().unwrap();
        let descriptor = wanted.select(index.manifests()).map_err(|error| error.to_string())?;
        Ok(descriptor.digest().to_string().chars().last().unwrap())
    }

    #[test]
    fn a_variant_that_is_asked_for_decides() {
        let arm = [("arm", Some("v6")), ("arm", Some("v7")), ("arm64", None)];
        assert_eq!(select(&arm, "linux/arm"), Ok('1'));
        assert_eq!(select(&arm, "linux/arm/v6"), Ok('0'));
        assert_eq!(select(&arm, "linux/arm64/v8"), Ok('2'));
        let error = select(&arm, "linux/arm/v5").unwrap_err();
        assert_eq!(error, "there is no image for linux/arm/v5, only for linux/arm/v6, linux/arm/v7, linux/arm64");
        assert_eq!(select(&[("amd64", Some("v3")), ("amd64", None)], "linux/amd64"), Ok('1'));
    }

    #[test]
    fn platforms_are_read_as_other_tools_write_them() {
        let canonical = |text: &str| text.parse::<Platform>().map(|platform| platform.to_string());
        assert_eq!(canonical("linux/x86_64").unwrap(), "linux/amd64");
        assert_eq!(canonical("linux/aarch64").unwrap(), "linux/arm64");
        assert_eq!(canonical("linux/arm/v7").unwrap(), "linux/arm/v7");
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "Linux/amd64", "linux/amd 64"] {
            assert_eq!(canonical(text), Err(ParsePlatformError(text.to_owned())));
        }
    }
}
