//! [`DeploymentId`], the name of a deployment everywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Name of a deployment: the fs-verity digest of its boot image, as 64 or 128 lower-case hex digits.
///
/// The same digits are on the kernel command line, so a booted system knows which deployment it is. The type guarantees
/// that the text is safe as a file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentId(String);

impl DeploymentId {
    /// The whole name: 64 or 128 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first `digits` hex digits, for people and for names of boot entries.
    pub fn short(&self, digits: usize) -> &str {
        &self.0[..digits.min(self.0.len())]
    }
}

/// Why a text is not a deployment's name.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseDeploymentIdError {
    /// Neither 64 nor 128 characters.
    #[error("a deployment is named by 64 or 128 hex digits, this text has {0} characters")]
    Length(usize),
    /// A character is not a lower-case hex digit; the first one is number 1.
    #[error("a deployment is named by lower-case hex digits only, character {0} is not one")]
    Character(usize),
}

impl FromStr for DeploymentId {
    type Err = ParseDeploymentIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(place) = text.chars().position(|c| !matches!(c, '0'..='9' | 'a'..='f')) {
            return Err(ParseDeploymentIdError::Character(place + 1));
        }
        match text.len() {
            64 | 128 => Ok(Self(text.to_owned())),
            length => Err(ParseDeploymentIdError::Length(length)),
        }
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for DeploymentId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Serialize for DeploymentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DeploymentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lower_case_digests_are_names() {
        assert!("a".repeat(64).parse::<DeploymentId>().is_ok());
        assert!("0".repeat(128).parse::<DeploymentId>().is_ok());
        assert_eq!("a".repeat(63).parse::<DeploymentId>(), Err(ParseDeploymentIdError::Length(63)));
        assert_eq!("".parse::<DeploymentId>(), Err(ParseDeploymentIdError::Length(0)));
        assert_eq!("A".repeat(64).parse::<DeploymentId>(), Err(ParseDeploymentIdError::Character(1)));
        assert_eq!(format!("ab/{}", "c".repeat(61)).parse::<DeploymentId>(), Err(ParseDeploymentIdError::Character(3)));
    }

    #[test]
    fn short_never_cuts_past_the_end() {
        let id: DeploymentId = "a".repeat(64).parse().unwrap();
        assert_eq!(id.short(12), "aaaaaaaaaaaa");
        assert_eq!(id.short(500).len(), 64);
    }
}
