//! [`PhasePath`], how far a boot has come.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The words that systemd measures.
const WORDS: [&str; 6] = ["enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"];

/// The phases that a boot has been through, in order: `enter-initrd:leave-initrd`. Without any, what the boot stub left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhasePath(Vec<&'static str>);

impl PhasePath {
    /// From the beginning of the initial ramdisk to that of the shutdown: what systemd-measure takes if nothing else is asked for.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        (1..=4).map(|length| Self(WORDS[..length].to_vec())).collect()
    }

    /// From what the boot stub left to the end of the shutdown: every value that PCR 11 has in a boot.
    #[must_use]
    pub fn all() -> Vec<Self> {
        (0..=WORDS.len()).map(|length| Self(WORDS[..length].to_vec())).collect()
    }

    /// The words.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().copied()
    }
}

impl fmt::Display for PhasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.join(":"))
    }
}

/// The text names phases that systemd does not measure.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{word:?} is no phase of the boot: there are {}", WORDS.join(", "))]
pub struct ParsePhasesError {
    word: String,
}

impl FromStr for PhasePath {
    type Err = ParsePhasesError;

    /// Parses words with colons between them; empty words do not count.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.split(':').filter(|word| !word.is_empty());
        let known = words.map(|word| {
            WORDS.into_iter().find(|known| *known == word).ok_or_else(|| ParsePhasesError { word: word.to_owned() })
        });
        Ok(Self(known.collect::<Result<_, _>>()?))
    }
}
