//! [`Bank`], one of the hashes in which a TPM keeps its registers.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use thiserror::Error;

/// A bank of PCRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bank {
    /// SHA-1: only in old TPMs the one that counts.
    Sha1,
    /// SHA-256: every TPM 2.0 has it.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Bank {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its name: `sha256`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// Its number, TPM_ALG_ID.
    pub(super) const fn tpm_algorithm(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000B,
            Self::Sha384 => 0x000C,
            Self::Sha512 => 0x000D,
        }
    }

    pub(super) fn digest_bytes(self) -> usize {
        self.algorithm().output_len()
    }

    pub(super) fn digest(self, data: &[u8]) -> Vec<u8> {
        self.digest_with_zeros(data, 0)
    }

    /// The digest of some bytes with so many zeros behind them.
    pub(super) fn digest_with_zeros(self, data: &[u8], zeros: usize) -> Vec<u8> {
        const CHUNK: [u8; 4096] = [0; 4096];
        let mut context = digest::Context::new(self.algorithm());
        context.update(data);
        let mut left = zeros;
        while left > 0 {
            let bytes = left.min(CHUNK.len());
            context.update(&CHUNK[..bytes]);
            left -= bytes;
        }
        context.finish().as_ref().to_vec()
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names no bank.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no PCR bank: there are sha1, sha256, sha384 and sha512")]
pub struct ParseBankError(String);

impl FromStr for Bank {
    type Err = ParseBankError;

    /// Parses a name in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|bank| bank.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| ParseBankError(text.to_owned()))
    }
}
