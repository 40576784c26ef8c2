//! File names of Type #1 entries, and the boot counter in them.
//!
//! ```text
//! osupdate-3d248ca542a2-000007+3-0.conf
//! --------------------------------       stem, ours: prefix, 12 hex digits of the image digest, sequence number
//!                                 ----   counter: tries left, tries done; none on an entry that is known to be good
//!                                     .conf
//! ```
//!
//! Loader and bless-boot rename entries, so an entry is identified by its [id](EntryName::id), never by its file name;
//! and systemd-boot does not keep the counter's width, so numbers are parsed and never matched as text.

use std::fmt;
use std::str::FromStr;

use osupdate_core::digest::Digest;
use thiserror::Error;

/// Begins the file names of the entries that belong to us.
pub const OUR_PREFIX: &str = "osupdate-";

/// Tries of a new entry: an entry that failed this often without being blessed is bad.
pub const NEW_TRIES: BootTries = BootTries { left: 3, done: 0 };

const SUFFIX: &str = ".conf";

/// Hex digits of the image digest in the names of our entries.
const DIGEST_DIGITS: usize = 12;

/// Boot counter of an entry, written `+LEFT-DONE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootTries {
    /// Boots that the loader will still try; 0 makes the entry bad.
    pub left: u32,
    /// Boots tried.
    pub done: u32,
}

impl BootTries {
    /// All tries failed: the loader sorts the entry last.
    pub const fn is_bad(self) -> bool {
        self.left == 0
    }
}

impl fmt::Display for BootTries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{}-{}", self.left, self.done)
    }
}

/// File name of an entry, taken apart.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EntryName {
    stem: String,
    tries: Option<BootTries>,
    file_name: String,
}

/// Why a file name is not one of an entry; systemd-boot ignores such files.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseNameError {
    /// Another kind of file.
    #[error("the name does not end in .conf")]
    Suffix,
    /// Hidden, or one that the loader uses for what it finds itself.
    #[error("names that begin with \".\" or \"auto-\" are ignored by the loader")]
    Ignored,
}

impl EntryName {
    /// Name of our entry for an image and its place in the order.
    ///
    /// The sequence number is part of the name so that a rollback gets an entry of its own before the earlier entry of
    /// the same image is removed.
    pub fn ours(image: &Digest, sequence: u64, tries: Option<BootTries>) -> Self {
        Self::new(format!("{OUR_PREFIX}{}-{sequence:06}", image.short(DIGEST_DIGITS)), tries)
    }

    fn new(stem: String, tries: Option<BootTries>) -> Self {
        let counter = tries.map(|tries| tries.to_string()).unwrap_or_default();
        let file_name = format!("{stem}{counter}{SUFFIX}");
        Self { stem, tries, file_name }
    }

    /// The same entry with another counter, or without one.
    #[must_use]
    pub fn with_tries(&self, tries: Option<BootTries>) -> Self {
        Self::new(self.stem.clone(), tries)
    }

    /// A name with another id and the same parts: with one more zero before the sequence number, or without it. `None`: it is
    /// not ours.
    ///
    /// So an entry can be written anew before the earlier one goes, without a change of the order.
    pub fn twin(&self) -> Option<Self> {
        let sequence = self.sequence()?;
        let (rest, digits) = self.stem.rsplit_once('-')?;
        let usual = format!("{sequence:06}");
        let other = if digits == usual { format!("0{usual}") } else { usual };
        Some(Self::new(format!("{rest}-{other}"), self.tries))
    }

    /// The name in the directory.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Identity of the entry for systemd-boot: file name in lower case, without the counter.
    pub fn id(&self) -> String {
        format!("{}{SUFFIX}", self.stem.to_lowercase())
    }

    /// The counter, if the entry is counted.
    pub fn tries(&self) -> Option<BootTries> {
        self.tries
    }

    /// Whether all tries failed.
    pub fn is_bad(&self) -> bool {
        self.tries.is_some_and(BootTries::is_bad)
    }

    /// Whether the name marks the entry as ours.
    pub fn is_ours(&self) -> bool {
        self.stem.to_lowercase().starts_with(OUR_PREFIX)
    }

    /// The sequence number in the name of an entry of ours.
    pub fn sequence(&self) -> Option<u64> {
        let stem = self.stem.to_lowercase();
        let (digits, sequence) = stem.strip_prefix(OUR_PREFIX)?.split_once('-')?;
        (digits.len() == DIGEST_DIGITS && sequence.bytes().all(|c| c.is_ascii_digit())).then_some(())?;
        sequence.parse().ok()
    }
}

impl FromStr for EntryName {
    type Err = ParseNameError;

    /// Takes a file name apart. A `+` that is not followed by a counter belongs to the name.
    fn from_str(file_name: &str) -> Result<Self, Self::Err> {
        let cut = file_name.len().checked_sub(SUFFIX.len()).ok_or(ParseNameError::Suffix)?;
        let (rest, suffix) = file_name.split_at_checked(cut).ok_or(ParseNameError::Suffix)?;
        if !suffix.eq_ignore_ascii_case(SUFFIX) {
            return Err(ParseNameError::Suffix);
        }
        if rest.starts_with('.') || rest.to_ascii_lowercase().starts_with("auto-") || rest.is_empty() {
            return Err(ParseNameError::Ignored);
        }
        let counted = rest.rsplit_once('+').and_then(|(stem, counter)| Some((stem, parse_tries(counter)?)));
        let (stem, tries) = match counted {
            Some((stem, tries)) => (stem, Some(tries)),
            None => (rest, None),
        };
        Ok(Self { stem: stem.to_owned(), tries, file_name: file_name.to_owned() })
    }
}

/// Parses `LEFT` or `LEFT-DONE`, of any width.
fn parse_tries(counter: &str) -> Option<BootTries> {
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    Some(BootTries { left: parse_count(left)?, done: parse_count(done)? })
}

fn parse_count(digits: &str) -> Option<u32> {
    // `parse` alone would accept a sign.
    digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file_name)
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.file_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> EntryName {
        text.parse().unwrap()
    }

    #[test]
    fn counter_is_parsed_by_value_not_by_width() {
        for (text, left, done) in [
            ("foo+3.conf", 3, 0),
            ("foo+3-0.conf", 3, 0),
            ("foo+10-00.conf", 10, 0),
            ("foo+9-1.conf", 9, 1),
            ("foo+0-3.CONF", 0, 3),
        ] {
            let name = name(text);
            assert_eq!(name.tries(), Some(BootTries { left, done }), "{text}");
            assert_eq!(name.id(), "foo.conf");
            assert_eq!(name.file_name(), text);
        }
        assert!(name("foo+0-3.conf").is_bad());
        assert!(!name("foo.conf").is_bad());
    }

    #[test]
    fn twin_has_another_id_and_all_else_alike() {
        for sequence in [7, 999_999, 12_345_678] {
            let name = EntryName::ours(&"a".repeat(128).parse().unwrap(), sequence, Some(NEW_TRIES));
            let twin = name.twin().unwrap();
            assert_ne!(twin.id(), name.id());
            assert_eq!((twin.sequence(), twin.tries(), twin.is_ours()), (Some(sequence), Some(NEW_TRIES), true));
            assert_eq!(twin.twin().unwrap(), name);
            assert_eq!(twin.file_name().parse::<EntryName>().unwrap(), twin);
        }
        assert_eq!(name("foo-1.conf").twin(), None);
    }

    #[test]
    fn only_the_last_plus_counts_and_only_before_numbers() {
        assert_eq!(name("6.12.57+deb13-amd64.conf").tries(), None);
        assert_eq!(name("6.12.57+deb13-amd64.conf").id(), "6.12.57+deb13-amd64.conf");
        assert_eq!(name("Six+1+2-3.conf").id(), "six+1.conf");
        for text in ["foo+.conf", "foo+x.conf", "foo+3-.conf", "foo+-1.conf", "foo+3-1-2.conf", "foo+99999999999.conf"]
        {
            assert_eq!((name(text).tries(), name(text).id()), (None, text.to_owned()));
        }
    }

    #[test]
    fn what_the_loader_ignores_is_no_entry() {
        for text in [".foo.conf", "auto-windows.conf", "AUTO-x.conf", ".conf"] {
            assert_eq!(text.parse::<EntryName>(), Err(ParseNameError::Ignored), "{text}");
        }
        for text in ["foo", "foo.conf.tmp", "conf", "", "é.con", "🦀"] {
            assert_eq!(text.parse::<EntryName>(), Err(ParseNameError::Suffix), "{text}");
        }
    }

    #[test]
    fn our_names_carry_digest_and_sequence() {
        let image: Digest = "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95".parse().unwrap();
        let ours = EntryName::ours(&image, 7, Some(NEW_TRIES));
        assert_eq!(ours.file_name(), "osupdate-3d248ca542a2-000007+3-0.conf");
        assert_eq!(ours.id(), "osupdate-3d248ca542a2-000007.conf");
        assert_eq!(ours.with_tries(None).file_name(), "osupdate-3d248ca542a2-000007.conf");
        assert_eq!(name(ours.file_name()), ours);
        // FAT may give names back in another case.
        let upper = name("OSUPDATE-3D248CA542A2-000007+2-1.CONF");
        assert!(upper.is_ours());
        assert_eq!((upper.id(), upper.sequence()), (ours.id(), Some(7)));
        assert_eq!(EntryName::ours(&image, 1_234_567, None).sequence(), Some(1_234_567));
        assert_eq!(name("osupdate-3d248ca542a2-+7.conf").sequence(), None);
        assert_eq!(name("debian-6.12.conf").sequence(), None);
    }
}
