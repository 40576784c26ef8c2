//! fs-verity digests: the identity of every object and image.
//!
//! A [`Digest`] is the fs-verity digest of a file (not the plain hash of its bytes), computed with 4096-byte blocks,
//! no salt and no signature. One repository uses one [`Algorithm`]; the value carries it, so that digests of two
//! repositories cannot be mixed up unnoticed. Hex exists only at the edges: [`fmt::Display`], [`FromStr`], serde.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Hash algorithm of an fs-verity digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256: 32-byte digests.
    Sha256,
    /// SHA-512: 64-byte digests, the default.
    Sha512,
}

impl Algorithm {
    /// Length of a digest in bytes: 32 or 64.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Number used by the kernel (`FS_VERITY_HASH_ALG_*`), by overlay metacopy xattrs and by split streams.
    pub const fn kernel_id(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }

    /// The algorithm with this kernel number, if we support it.
    pub const fn from_kernel_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::Sha256),
            2 => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Short name: `sha256` or `sha512`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Name with the block size's base-2 logarithm, as `meta.json` has it: `fsverity-sha512-12`.
    pub const fn fsverity_name(self) -> &'static str {
        match self {
            Self::Sha256 => "fsverity-sha256-12",
            Self::Sha512 => "fsverity-sha512-12",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = ParseDigestError;

    /// Accepts `sha256`, `sha512` and the `fsverity-…-12` names.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "sha256" | "fsverity-sha256-12" => Ok(Self::Sha256),
            "sha512" | "fsverity-sha512-12" => Ok(Self::Sha512),
            _ => Err(ParseDigestError::Algorithm(s.to_owned())),
        }
    }
}

/// Why a text is not a digest.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseDigestError {
    /// The length is neither 64 nor 128 hex digits.
    #[error("a digest has 64 or 128 hex digits, this text has {0} characters")]
    Length(usize),
    /// A character is not a lower-case hex digit.
    #[error("a digest has lower-case hex digits only, character {0} is not one")]
    Character(usize),
    /// The algorithm is not known.
    #[error("unknown digest algorithm {0:?}, known are sha256 and sha512")]
    Algorithm(String),
}

/// The value of each lower-case hex digit. A table: a collection reads all names of objects, where branches on random
/// digits cost most of the time.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [NO_NIBBLE; 256];
    let mut value = 0;
    while value < 16 {
        nibbles[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    nibbles
};
/// Not a digit.
const NO_NIBBLE: u8 = 0xFF;

/// fs-verity digest of a file; 32 or 64 bytes with their algorithm.
#[derive(Clone, Copy)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Digest {
    /// Wraps raw digest bytes; `None` unless their number is `algorithm.digest_len()`.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != algorithm.digest_len() {
            return None;
        }
        let mut all = [0; 64];
        all[..bytes.len()].copy_from_slice(bytes);
        Some(Self { algorithm, bytes: all })
    }

    /// The algorithm that made this digest.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw bytes, 32 or 64 of them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_len()]
    }

    /// The first `n` hex digits, for people.
    pub fn short(&self, n: usize) -> String {
        let mut hex = self.to_string();
        hex.truncate(n);
        hex
    }

    /// Path of the object below `objects/`: `xx/rest`, 65 or 129 characters.
    pub fn object_path(&self) -> String {
        let hex = self.to_string();
        format!("{}/{}", &hex[..2], &hex[2..])
    }

    /// Reads `xx/rest`, as it stands at the end of symlink targets and overlay redirects.
    pub fn from_object_path(path: &str) -> Result<Self, ParseDigestError> {
        match path.as_bytes() {
            [first, second, b'/', rest @ ..] => Self::from_parts(&[*first, *second], rest),
            _ => Err(ParseDigestError::Length(path.len())),
        }
    }

    /// Reads the hex digits of both parts as one digest: the directory of an object and its name there.
    pub(crate) fn from_parts(directory: &[u8], name: &[u8]) -> Result<Self, ParseDigestError> {
        let algorithm = match directory.len() + name.len() {
            64 => Algorithm::Sha256,
            128 => Algorithm::Sha512,
            n => return Err(ParseDigestError::Length(n)),
        };
        let mut bytes = [0; 64];
        for (i, c) in directory.iter().chain(name).enumerate() {
            let nibble = NIBBLES[usize::from(*c)];
            if nibble == NO_NIBBLE {
                return Err(ParseDigestError::Character(i + 1));
            }
            bytes[i / 2] = bytes[i / 2] << 4 | nibble;
        }
        Ok(Self { algorithm, bytes })
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Digest {}

impl PartialOrd for Digest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Digest {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.algorithm, self.as_bytes()).cmp(&(other.algorithm, other.as_bytes()))
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every object's path is made here: one write instead of one for each byte.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 128];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.as_bytes()) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        f.write_str(str::from_utf8(&hex[..2 * self.as_bytes().len()]).expect("hex digits are ASCII"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.algorithm)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    /// Parses lower-case hex; 64 digits are SHA-256, 128 are SHA-512.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::from_parts(b"", s.as_bytes())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(deserializer)?;
        hex.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_names_its_algorithm() {
        let hex = "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95";
        let digest: Digest = hex.parse().unwrap();
        assert_eq!(digest.algorithm(), Algorithm::Sha256);
        assert_eq!(digest.to_string(), hex);
        assert_eq!(digest.object_path(), format!("3d/{}", &hex[2..]));
        assert_eq!(Digest::from_object_path(&digest.object_path()), Ok(digest));
    }

    #[test]
    fn bad_hex_is_refused_with_the_place() {
        assert_eq!("ab".parse::<Digest>(), Err(ParseDigestError::Length(2)));
        let upper = "A".repeat(64);
        assert_eq!(upper.parse::<Digest>(), Err(ParseDigestError::Character(1)));
        let wide = "é".repeat(64);
        assert_eq!(wide.parse::<Digest>(), Err(ParseDigestError::Character(1)));
    }
}
