//! The kernel command line: how it is split, and the arguments that name composefs images.
//!
//! Two keys name an image: `composefs.digest=[?]v1-<sha256|sha512>-12:<hex>` and the older `composefs=[?]<hex>`. Several
//! may be given; they are alternatives, tried in the order of the command line. A `?` makes fs-verity optional for that
//! image. [`ComposefsArg`] reads both and writes the form that fits the image's format.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::digest::{Algorithm, Digest, ParseDigestError};

/// Key of the argument with a version in its value.
const DIGEST_KEY: &str = "composefs.digest";
/// Key of the older argument, whose value is the digest alone.
const LEGACY_KEY: &str = "composefs";
/// Base-2 logarithm of the fs-verity block size; the only one that exists.
const LOG_BLOCK_SIZE: &str = "12";

/// Splits a kernel command line into its arguments.
///
/// ASCII white space separates; a double quote switches literal mode on or off and there are no escapes. Quotes stay
/// part of the argument.
pub fn split(cmdline: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    cmdline
        .split(move |c: char| {
            quoted ^= c == '"';
            !quoted && c.is_ascii_whitespace()
        })
        .filter(|argument| !argument.is_empty())
}

/// The values of all arguments `key=value`, in order.
pub fn values<'a>(cmdline: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    split(cmdline).filter_map(move |argument| argument.strip_prefix(key)?.strip_prefix('='))
}

/// All composefs arguments of a command line, in order. Any malformed one is an error.
pub fn composefs_args(cmdline: &str) -> Result<Vec<ComposefsArg>, KernelArgError> {
    split(cmdline)
        .filter(|argument| matches!(argument.split_once('='), Some((DIGEST_KEY | LEGACY_KEY, _))))
        .map(str::parse)
        .collect()
}

/// Format of the image that an argument names, as far as the argument tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArgFormat {
    /// `v1`: an image of format V0 or V1.
    V1,
    /// `v2`, or the older key: an image of format V2.
    V2,
}

/// One argument that names an image to boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ComposefsArg {
    /// fs-verity digest of the image.
    pub digest: Digest,
    /// Format of the image.
    pub format: ArgFormat,
    /// Marked with `?`: the image may be used from a repository without fs-verity.
    pub optional: bool,
}

impl ComposefsArg {
    /// The argument for a V1 image that must be verified.
    pub const fn required(digest: Digest) -> Self {
        Self { digest, format: ArgFormat::V1, optional: false }
    }
}

impl fmt::Display for ComposefsArg {
    /// Writes `composefs.digest=[?]v1-sha512-12:<hex>`, or `composefs=[?]<hex>` for V2 images.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.optional { "?" } else { "" };
        let digest = &self.digest;
        match self.format {
            ArgFormat::V1 => write!(f, "{DIGEST_KEY}={mark}v1-{}-{LOG_BLOCK_SIZE}:{digest}", digest.algorithm()),
            ArgFormat::V2 => write!(f, "{LEGACY_KEY}={mark}{digest}"),
        }
    }
}

impl FromStr for ComposefsArg {
    type Err = KernelArgError;

    /// Parses a whole argument, key and value.
    fn from_str(argument: &str) -> Result<Self, Self::Err> {
        let (format, optional, digest) = match argument.split_once('=') {
            Some((DIGEST_KEY, value)) => parse_versioned(argument, value)?,
            Some((LEGACY_KEY, value)) => {
                let (optional, hex) = strip_mark(value);
                (ArgFormat::V2, optional, parse_digest(argument, hex)?)
            }
            _ => return Err(KernelArgError::Key { argument: argument.to_owned() }),
        };
        Ok(Self { digest, format, optional })
    }
}

/// Parses `[?]v1-<hash>-12:<hex>`.
fn parse_versioned(argument: &str, value: &str) -> Result<(ArgFormat, bool, Digest), KernelArgError> {
    let form = || KernelArgError::Form { argument: argument.to_owned() };
    let (optional, value) = strip_mark(value);
    let (kind, hex) = value.split_once(':').ok_or_else(form)?;
    let mut parts = kind.split('-');
    let (Some(version), Some(hash), Some(log_block_size), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(form());
    };
    let format = match version {
        "v1" => ArgFormat::V1,
        "v2" => ArgFormat::V2,
        _ => {
            return Err(KernelArgError::Version { argument: argument.to_owned(), version: version.to_owned() });
        }
    };
    let algorithm = match hash {
        "sha256" => Algorithm::Sha256,
        "sha512" => Algorithm::Sha512,
        _ => return Err(KernelArgError::Hash { argument: argument.to_owned(), hash: hash.to_owned() }),
    };
    if log_block_size != LOG_BLOCK_SIZE {
        return Err(KernelArgError::BlockSize {
            argument: argument.to_owned(),
            log_block_size: log_block_size.to_owned(),
        });
    }
    let digest = parse_digest(argument, hex)?;
    if digest.algorithm() != algorithm {
        return Err(KernelArgError::Length { argument: argument.to_owned(), algorithm });
    }
    Ok((format, optional, digest))
}

fn strip_mark(value: &str) -> (bool, &str) {
    match value.strip_prefix('?') {
        Some(rest) => (true, rest),
        None => (false, value),
    }
}

fn parse_digest(argument: &str, hex: &str) -> Result<Digest, KernelArgError> {
    hex.parse().map_err(|source| KernelArgError::Digest { argument: argument.to_owned(), source })
}

/// Why an argument does not name an image. Every variant has the argument as it was given.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelArgError {
    /// The key is neither `composefs.digest` nor `composefs`.
    #[error("kernel argument {argument:?} is not a composefs argument")]
    Key {
        /// The argument.
        argument: String,
    },
    /// The value is not of the form `[?]v1-<sha256|sha512>-12:<hex>`.
    #[error("kernel argument {argument:?} is not of the form composefs.digest=v1-<sha256|sha512>-12:<hex>")]
    Form {
        /// The argument.
        argument: String,
    },
    /// The version is not known.
    #[error("kernel argument {argument:?} has the unknown version {version:?}, known are v1 and v2")]
    Version {
        /// The argument.
        argument: String,
        /// The version in it.
        version: String,
    },
    /// The hash is not known.
    #[error("kernel argument {argument:?} has the unknown hash {hash:?}, known are sha256 and sha512")]
    Hash {
        /// The argument.
        argument: String,
        /// The hash in it.
        hash: String,
    },
    /// The fs-verity block size is not supported.
    #[error("kernel argument {argument:?} has the unsupported block size 2^{log_block_size}, only 2^12 is known")]
    BlockSize {
        /// The argument.
        argument: String,
        /// The base-2 logarithm in it.
        log_block_size: String,
    },
    /// The number of digits is that of another hash.
    #[error("kernel argument {argument:?} has a digest of the wrong length for {algorithm}")]
    Length {
        /// The argument.
        argument: String,
        /// The hash that it names.
        algorithm: Algorithm,
    },
    /// The digest is malformed.
    #[error("kernel argument {argument:?} has a malformed digest")]
    Digest {
        /// The argument.
        argument: String,
        /// What is wrong with it.
        #[source]
        source: ParseDigestError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256() -> String {
        "0123456789abcdef".repeat(4)
    }

    fn sha512() -> String {
        "fedcba9876543210".repeat(8)
    }

    #[test]
    fn splits_at_white_space_outside_quotes_only() {
        let line = "  quiet\troot=\"LABEL=my disk\" \"a b\"=c\nx\"y z\n";
        assert_eq!(split(line).collect::<Vec<_>>(), ["quiet", "root=\"LABEL=my disk\"", "\"a b\"=c", "x\"y z\n"]);
        assert_eq!(split(" \n").count(), 0);
    }

    #[test]
    fn values_match_the_whole_key() {
        let line = "osupdate.on-failure=x osupdate.on-failure osupdate.on-failure2=y osupdate.on-failure=";
        assert_eq!(values(line, "osupdate.on-failure").collect::<Vec<_>>(), ["x", ""]);
    }

    #[test]
    fn all_arguments_come_in_command_line_order() {
        let (a, b) = (sha256(), sha512());
        let line = format!(
            "ro composefs=?{b} composefsx=1 composefs.digest=v1-sha256-12:{a} composefs.digest=?v2-sha512-12:{b}"
        );
        let args = composefs_args(&line).unwrap();
        let told: Vec<_> = args.iter().map(|arg| (arg.digest.to_string(), arg.format, arg.optional)).collect();
        assert_eq!(told, [(b.clone(), ArgFormat::V2, true), (a, ArgFormat::V1, false), (b, ArgFormat::V2, true),]);
    }

    #[test]
    fn written_arguments_are_read_back() {
        for argument in [
            format!("composefs.digest=v1-sha512-12:{}", sha512()),
            format!("composefs.digest=?v1-sha256-12:{}", sha256()),
            format!("composefs={}", sha256()),
            format!("composefs=?{}", sha512()),
        ] {
            assert_eq!(argument.parse::<ComposefsArg>().unwrap().to_string(), argument);
        }
    }

    #[test]
    fn malformed_arguments_are_errors_that_name_the_argument() {
        let (a, b) = (sha256(), sha512());
        for (argument, why) in [
            ("composefs.digest=".to_owned(), "is not of the form"),
            (format!("composefs.digest={a}"), "is not of the form"),
            (format!("composefs.digest=v1-sha256:{a}"), "is not of the form"),
            (format!("composefs.digest=v1-sha256-12-0:{a}"), "is not of the form"),
            (format!("composefs.digest=??v1-sha256-12:{a}"), "unknown version \"?v1\""),
            (format!("composefs.digest=v3-sha256-12:{a}"), "unknown version \"v3\""),
            (format!("composefs.digest=v1-md5-12:{a}"), "unknown hash \"md5\""),
            (format!("composefs.digest=v1-sha256-16:{a}"), "block size 2^16"),
            (format!("composefs.digest=v1-sha512-12:{a}"), "wrong length for sha512"),
            (format!("composefs.digest=v1-sha256-12:{b}"), "wrong length for sha256"),
            (format!("composefs.digest=v1-sha256-12:{}", a.to_uppercase()), "malformed digest"),
            ("composefs=".to_owned(), "malformed digest"),
            ("composefs=abc".to_owned(), "malformed digest"),
        ] {
            let message = composefs_args(&format!("quiet {argument} rw")).unwrap_err().to_string();
            assert!(message.contains(&format!("{argument:?}")), "{message}");
            assert!(message.contains(why), "{argument}: {message}");
        }
    }

    #[test]
    fn a_bare_key_is_no_argument() {
        assert_eq!(composefs_args("composefs composefs.digest root=/dev/vda2"), Ok(vec![]));
    }
}
