//! Content digests: the plain hash of a blob, as OCI documents have it.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};
use thiserror::Error;

use crate::digest::{Algorithm, Digest, ParseDigestError};

/// Why a text is not a content digest.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseContentDigestError {
    /// There is no colon.
    #[error("{0:?} is not a digest, expected the form sha256:<64 hex digits>")]
    Form(String),
    /// Part of it is wrong.
    #[error("{text:?} is not a digest")]
    Part {
        /// The text.
        text: String,
        /// What is wrong.
        source: ParseDigestError,
    },
}

/// Plain hash of a blob or of an uncompressed layer, `sha256:<hex>` or `sha512:<hex>`.
///
/// Not an fs-verity digest: those are [`Digest`], and the two are never comparable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest(Digest);

impl ContentDigest {
    /// The SHA-256 of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// The hash of `bytes` with the algorithm of this digest equals it.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        Self::of(self.algorithm(), bytes) == *self
    }

    /// Which hash it is.
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm()
    }

    /// The hash in lower-case hex, without the algorithm.
    pub fn hex(&self) -> String {
        self.0.to_string()
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> String {
        self.0.short(12)
    }

    fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = ContentHasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.algorithm(), self.0)
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContentDigest {
    type Err = ParseContentDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| ParseContentDigestError::Form(text.to_owned()))?;
        let part = |source| ParseContentDigestError::Part { text: text.to_owned(), source };
        let digest: Digest = hex.parse().map_err(part)?;
        if digest.algorithm().name() != algorithm {
            return Err(part(ParseDigestError::Algorithm(algorithm.to_owned())));
        }
        Ok(Self(digest))
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a [`ContentDigest`] piece by piece.
#[derive(Clone, Debug)]
pub enum ContentHasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Sha512),
}

impl ContentHasher {
    /// A hasher that has seen no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes.
    pub fn finish(self) -> ContentDigest {
        let (algorithm, bytes) = match self {
            Self::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            Self::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
        };
        ContentDigest(Digest::new(algorithm, &bytes).expect("a hash is as long as its algorithm says"))
    }
}

impl Write for ContentHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_names_the_algorithm() {
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest: ContentDigest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert!(digest.matches(b""));
        assert!(!digest.matches(b"x"));
        let long = format!("sha512:{}", "0".repeat(128));
        assert_eq!(long.parse::<ContentDigest>().unwrap().algorithm(), Algorithm::Sha512);
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["", "e3b0", "sha256:", "sha256:e3b0", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
            assert!(bad.parse::<ContentDigest>().is_err(), "{bad}");
        }
        assert!(format!("sha512:{}", "0".repeat(64)).parse::<ContentDigest>().is_err());
        assert!(format!("sha256:{}", "A".repeat(64)).parse::<ContentDigest>().is_err());
        assert!(format!("sha256:../{}", "0".repeat(61)).parse::<ContentDigest>().is_err());
    }
}
