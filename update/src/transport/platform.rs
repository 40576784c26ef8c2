//! Which manifest of a list is for this machine.

use std::fmt;

use serde::Deserialize;

/// What an image runs on, in the words of the OCI image index: names of Go's `GOARCH` and `GOOS`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// Architecture, such as `amd64`.
    pub architecture: String,
    /// Operating system, such as `linux`.
    pub os: String,
    /// Variant of the architecture, such as `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// The machine that we run on.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "loongarch64" => "loong64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            // riscv64, s390x and arm have one name.
            other => other,
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: None }
    }

    /// How well an image for `image` runs here: 0 is best, `None` not at all.
    ///
    /// Variants beyond the baseline of an architecture need a newer processor than this machine may have.
    fn rank(&self, image: &Self) -> Option<u8> {
        if image.os != self.os || image.architecture != self.architecture {
            return None;
        }
        match (self.architecture.as_str(), image.variant.as_deref().unwrap_or_default()) {
            ("arm", "v7") => Some(0),
            ("arm", "v6") => Some(1),
            ("arm", "v5") => Some(2),
            ("arm", "") => Some(3),
            ("amd64", "" | "v1") | ("arm64", "" | "v8") => Some(0),
            ("arm" | "amd64" | "arm64", _) => None,
            (_, "") => Some(0),
            (_, _) => Some(1),
        }
    }

    /// Index of the platform in `images` that suits this machine best; the first of several equal ones.
    pub fn choose<'a>(&self, images: impl IntoIterator<Item = Option<&'a Self>>) -> Option<usize> {
        let ranked = images.into_iter().enumerate().filter_map(|(i, image)| Some((self.rank(image?)?, i)));
        ranked.min().map(|(_, i)| i)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        Platform { architecture, os, variant: parts.next() }
    }

    fn choose(host: &str, images: &[&str]) -> Option<usize> {
        let images: Vec<_> = images.iter().map(|image| platform(image)).collect();
        platform(host).choose(images.iter().map(Some))
    }

    #[test]
    fn the_baseline_variant_is_chosen() {
        assert_eq!(choose("linux/amd64", &["linux/amd64/v3", "unknown/unknown", "linux/amd64"]), Some(2));
        assert_eq!(choose("linux/amd64", &["linux/amd64/v3", "windows/amd64", "linux/arm64"]), None);
        assert_eq!(choose("linux/arm64", &["linux/arm/v7", "linux/arm64/v8"]), Some(1));
        assert_eq!(choose("linux/arm", &["linux/arm/v5", "linux/arm/v7"]), Some(1));
        assert_eq!(choose("linux/riscv64", &["linux/riscv64", "linux/riscv64"]), Some(0));
    }
}
