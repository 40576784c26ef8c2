//! `meta.json`: the algorithm, the feature flags and the image formats of a repository.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Algorithm;
use crate::erofs::Format;

/// Name of the file in the repository directory.
pub(super) const FILE_NAME: &str = "meta.json";
/// The newest repository version that we know.
const VERSION: u32 = 1;
/// Read-only-compatible flag: images are written in format V1.
const V1_EROFS: &str = "v1_erofs";

/// Contents of `meta.json`. Fields that we do not know are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Metadata {
    version: u32,
    #[serde(with = "algorithm_name")]
    pub(super) algorithm: Algorithm,
    #[serde(default)]
    features: Features,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    erofs_formats: Option<Formats>,
}

/// Feature flags by what a program that does not know one of them may still do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Features {
    /// Everything.
    compatible: Vec<String>,
    /// Read.
    read_only_compatible: Vec<String>,
    /// Nothing.
    incompatible: Vec<String>,
}

/// Image formats by number: 0, 1 or 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Formats {
    /// The format that refs point at.
    pub(super) default: u32,
    /// Formats that are written beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) extra: Vec<u32>,
}

impl Formats {
    /// What repositories without any mention of formats have.
    const OLD: Self = Self { default: 2, extra: Vec::new() };

    /// All formats, the default first.
    pub(super) fn list(&self) -> Vec<Format> {
        let extra = self.extra.iter().filter(|extra| **extra != self.default);
        // Parsing has refused numbers that are no format.
        std::iter::once(&self.default).chain(extra).filter_map(|number| Format::from_number(*number)).collect()
    }
}

/// Why a `meta.json` is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// Not JSON, or a field is missing or of another type.
    #[error("cannot parse it")]
    Json(#[from] serde_json::Error),
    /// Made by a later version.
    #[error("repository version {0} is not supported, the newest known is {VERSION}")]
    Version(u32),
    /// It needs a program that knows these features.
    #[error("the repository has features which this version does not know: {}", .0.join(", "))]
    Incompatible(Vec<String>),
    /// An image format that does not exist.
    #[error("image format {0} does not exist")]
    Format(u32),
}

impl Metadata {
    /// What a new repository gets: images in these formats, the default first; V1 if there are none.
    pub(super) fn new(algorithm: Algorithm, formats: &[Format]) -> Self {
        let default = formats.first().map_or(1, |format| format.number());
        let mut extra: Vec<u32> = formats.iter().map(|format| format.number()).filter(|n| *n != default).collect();
        extra.sort_unstable();
        extra.dedup();
        let read_only_compatible = if default == 1 { vec![V1_EROFS.to_owned()] } else { Vec::new() };
        Self {
            version: VERSION,
            algorithm,
            features: Features { read_only_compatible, ..Features::default() },
            erofs_formats: Some(Formats { default, extra }),
        }
    }

    /// What a repository without `meta.json` is: it was made when V2 was the only format.
    pub(super) fn before_metadata(algorithm: Algorithm) -> Self {
        Self { version: VERSION, algorithm, features: Features::default(), erofs_formats: Some(Formats::OLD) }
    }

    pub(crate) fn parse(json: &[u8]) -> Result<Self, MetadataError> {
        let metadata: Self = serde_json::from_slice(json)?;
        if metadata.version > VERSION {
            return Err(MetadataError::Version(metadata.version));
        }
        if !metadata.features.incompatible.is_empty() {
            return Err(MetadataError::Incompatible(metadata.features.incompatible));
        }
        let formats = metadata.formats();
        match std::iter::once(&formats.default)
            .chain(&formats.extra)
            .find(|format| Format::from_number(**format).is_none())
        {
            Some(format) => Err(MetadataError::Format(*format)),
            None => Ok(metadata),
        }
    }

    /// Pretty JSON with a newline, byte for byte what cfsctl writes.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// The image formats in force. An absent field means V2, unless the flag of V1 is there.
    pub(super) fn formats(&self) -> Formats {
        match &self.erofs_formats {
            Some(formats) if *formats != Formats::OLD => formats.clone(),
            _ if self.features.read_only_compatible.iter().any(|flag| flag == V1_EROFS) => {
                Formats { default: 1, extra: Vec::new() }
            }
            _ => Formats::OLD,
        }
    }

    /// Features that forbid us to write.
    pub(super) fn unknown_for_writing(&self) -> Vec<String> {
        self.features.read_only_compatible.iter().filter(|flag| *flag != V1_EROFS).cloned().collect()
    }
}

/// `algorithm` on disk: `fsverity-sha512-12`, never the short names that [`Algorithm`] also parses.
mod algorithm_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Algorithm;

    pub(super) fn serialize<S: Serializer>(algorithm: &Algorithm, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(algorithm.fsverity_name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Algorithm, D::Error> {
        let name = String::deserialize(deserializer)?;
        [Algorithm::Sha256, Algorithm::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.fsverity_name() == name)
            .ok_or_else(|| D::Error::custom(format_args!("unknown algorithm {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = r#"{
  "version": 1,
  "algorithm": "fsverity-sha512-12",
  "features": {
    "compatible": [],
    "read-only-compatible": [
      "v1_erofs"
    ],
    "incompatible": []
  },
  "erofs_formats": {
    "default": 1
  }
}
"#;

    #[test]
    fn a_new_repository_has_the_bytes_of_cfsctl() {
        assert_eq!(Metadata::new(Algorithm::Sha512, &[]).to_json().unwrap(), DEFAULT.as_bytes());
        assert_eq!(Metadata::parse(DEFAULT.as_bytes()).unwrap(), Metadata::new(Algorithm::Sha512, &[]));
    }

    #[test]
    fn formats_that_were_asked_for_are_in_force() {
        let formats = |wanted: &[Format]| {
            let json = Metadata::new(Algorithm::Sha512, wanted).to_json().unwrap();
            let Formats { default, extra } = Metadata::parse(&json).unwrap().formats();
            (default, extra)
        };
        assert_eq!(formats(&[]), (1, vec![]));
        assert_eq!(formats(&[Format::V2]), (2, vec![]));
        assert_eq!(formats(&[Format::V2, Format::V1, Format::V2]), (2, vec![1]));
        assert_eq!(formats(&[Format::V1, Format::V2]), (1, vec![2]));
    }

    #[test]
    fn formats_follow_the_field_then_the_flag_then_v2() {
        let default = |rest: &str| {
            let json = format!(r#"{{"version": 0, "algorithm": "fsverity-sha256-12", "later": 1{rest}}}"#);
            Metadata::parse(json.as_bytes()).unwrap().formats().default
        };
        assert_eq!(default(""), 2);
        assert_eq!(default(r#", "features": {"read-only-compatible": ["v1_erofs"]}"#), 1);
        assert_eq!(default(r#", "erofs_formats": {"default": 1}"#), 1);
        assert_eq!(default(r#", "erofs_formats": {"default": 0}"#), 0);
        assert_eq!(default(r#", "erofs_formats": {"default": 2, "extra": [1]}"#), 2);
        let both = r#", "erofs_formats": {"default": 2}, "features": {"read-only-compatible": ["v1_erofs"]}"#;
        assert_eq!(default(both), 1);
    }

    #[test]
    fn features_decide_what_may_be_done() {
        let parse = |features: &str| {
            let json = format!(r#"{{"version": 1, "algorithm": "fsverity-sha512-12", "features": {features}}}"#);
            Metadata::parse(json.as_bytes())
        };
        assert!(parse(r#"{"compatible": ["x"]}"#).unwrap().unknown_for_writing().is_empty());
        assert_eq!(parse(r#"{"read-only-compatible": ["v1_erofs", "x"]}"#).unwrap().unknown_for_writing(), ["x"]);
        assert!(matches!(parse(r#"{"incompatible": ["x"]}"#), Err(MetadataError::Incompatible(_))));
    }

    #[test]
    fn later_versions_and_unknown_numbers_are_refused() {
        let parse = |json: &str| Metadata::parse(json.as_bytes());
        let later = parse(r#"{"version": 2, "algorithm": "fsverity-sha512-12"}"#);
        assert!(matches!(later, Err(MetadataError::Version(2))));
        let format = parse(r#"{"version": 1, "algorithm": "fsverity-sha512-12", "erofs_formats": {"default": 3}}"#);
        assert!(matches!(format, Err(MetadataError::Format(3))));
        assert!(matches!(parse(r#"{"version": 1, "algorithm": "sha512"}"#), Err(MetadataError::Json(_))));
        assert!(matches!(parse(r#"{"version": 1, "algorithm": "fsverity-sha512-16"}"#), Err(MetadataError::Json(_))));
    }
}
