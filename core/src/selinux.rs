//! SELinux labels by the policy that an image brings along: `file_contexts` and its companions.
//!
//! A policy is a list of rules (pattern, file type, context) of which the last that fits a path wins, and a list of
//! aliases: paths below which files are labelled as if they were elsewhere. [`Policy`] answers for one path,
//! [`Policy::label`] labels a whole tree. Which rule wins is part of the boot form (`core/FORMAT.md`): every tool that
//! computes its digest has to find the same one.

mod automaton;
mod label;
mod pattern;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use thiserror::Error;

use automaton::Automaton;
use rules::{Rule, parse_aliases, parse_rules};

use crate::tree::LeafKind;

/// Name of the extended attribute that is the label.
pub const LABEL_XATTR: &[u8] = b"security.selinux";
/// Largest file of a policy, in bytes. The rules of a distribution take half a mebibyte.
pub const FILE_MAX_BYTES: u64 = 8 << 20;
/// Most rules of a policy. Distributions have about 6,000.
pub const RULES_MAX: usize = 100_000;
/// Files with rules, in the order in which their rules are read; the first one is mandatory.
pub const RULE_FILES: [&str; 3] = ["file_contexts", "file_contexts.local", "file_contexts.homedirs"];
/// Files with aliases, in the order in which they are read. Of two for the same path, the later one counts.
pub const ALIAS_FILES: [&str; 2] = ["file_contexts.subs", "file_contexts.subs_dist"];

/// The context of rules for files that get no label.
const NO_LABEL: &[u8] = b"<<none>>";

/// Why a policy cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A file is not there.
    #[error("the SELinux policy has no {0}")]
    Missing(&'static str),
    /// A file is too large.
    #[error("{0} of the SELinux policy is larger than {FILE_MAX_BYTES} bytes")]
    FileTooLarge(&'static str),
    /// There are too many rules.
    #[error("{file}:{line}: the SELinux policy has more than {RULES_MAX} rules")]
    TooManyRules {
        /// Where the first one too many is.
        file: &'static str,
        /// Its line, from 1.
        line: usize,
    },
    /// A line is not a rule or not an alias.
    #[error("{file}:{line}: {problem}")]
    Line {
        /// Where it is.
        file: &'static str,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        problem: LineProblem,
    },
    /// A pattern is not a regular expression.
    #[error("{file}:{line}: pattern {pattern:?} is not a regular expression")]
    Pattern {
        /// Where it is.
        file: &'static str,
        /// Its line, from 1.
        line: usize,
        /// The pattern.
        pattern: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The patterns up to this one take too much memory.
    #[error("{file}:{line}: the patterns of the SELinux policy are too large together, up to this one")]
    TooLarge {
        /// Where the one is that is too much.
        file: &'static str,
        /// Its line, from 1.
        line: usize,
    },
    /// The patterns cannot be told apart with bounded memory.
    #[error("the patterns of the SELinux policy are too complex to look up {path:?}")]
    TooComplex {
        /// The path that was looked up.
        path: String,
    },
    /// A pattern takes too long.
    #[error("{file}:{line}: the pattern takes too many steps to look up {path:?}")]
    TooSlow {
        /// Where the pattern is.
        file: &'static str,
        /// Its line, from 1.
        line: usize,
        /// The path that was looked up.
        path: String,
    },
    /// There are too many patterns that are slow to look up.
    #[error("{file}:{line}: the SELinux policy has too many patterns with look-around or back-references")]
    TooManyBacktracking {
        /// Where the last one is.
        file: &'static str,
        /// Its line, from 1.
        line: usize,
    },
}

/// What can be wrong with a line.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineProblem {
    /// A rule needs a pattern, a context, and perhaps a type between them.
    #[error("a rule has a pattern, a file type if need be, and a context; the context is missing")]
    NoContext,
    /// A type that does not exist.
    #[error("the file type of a rule is one of -b -c -d -p -l -s --")]
    FileType,
    /// An alias needs two paths.
    #[error("an alias has two paths; the second is missing")]
    NoOriginal,
    /// There is more on the line.
    #[error("the line has more fields than expected")]
    TrailingField,
    /// The context is too long for a label.
    #[error("the context is longer than {} bytes", rules::CONTEXT_MAX_BYTES)]
    LongContext,
    /// A NUL byte.
    #[error("the line has a NUL byte")]
    Nul,
}

/// The type of a file, as rules tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// `-b`
    BlockDevice,
    /// `-c`
    CharDevice,
    /// `-d`
    Directory,
    /// `-p`
    Fifo,
    /// `-l`
    Symlink,
    /// `-s`
    Socket,
    /// `--`
    Regular,
}

impl FileType {
    /// The letter that stands for it in rules.
    pub fn letter(self) -> u8 {
        match self {
            Self::BlockDevice => b'b',
            Self::CharDevice => b'c',
            Self::Directory => b'd',
            Self::Fifo => b'p',
            Self::Symlink => b'l',
            Self::Socket => b's',
            Self::Regular => b'-',
        }
    }

    fn from_letter(letter: u8) -> Option<Self> {
        let all = [
            Self::BlockDevice,
            Self::CharDevice,
            Self::Directory,
            Self::Fifo,
            Self::Symlink,
            Self::Socket,
            Self::Regular,
        ];
        all.into_iter().find(|file_type| file_type.letter() == letter)
    }
}

impl From<&LeafKind> for FileType {
    fn from(kind: &LeafKind) -> Self {
        match kind {
            LeafKind::Regular(_) => Self::Regular,
            LeafKind::Symlink(_) => Self::Symlink,
            LeafKind::CharDevice(_) => Self::CharDevice,
            LeafKind::BlockDevice(_) => Self::BlockDevice,
            LeafKind::Fifo => Self::Fifo,
            LeafKind::Socket => Self::Socket,
        }
    }
}

/// The policy of an image.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    automaton: Automaton,
    aliases: HashMap<Box<[u8]>, Box<[u8]>>,
}

impl Policy {
    /// Reads a policy from files of its `contexts/files` directory: names, of [`RULE_FILES`] and [`ALIAS_FILES`], and
    /// contents, in any order. `paths` is the number of paths that will be looked up: the more there are, the fewer steps a
    /// single look-up may take where a pattern needs backtracking.
    ///
    /// # Errors
    /// When a file is missing or too large, a line is not what it should be, or the patterns need too much memory or time.
    pub fn parse(files: &[(&str, Vec<u8>)], paths: usize) -> Result<Self, PolicyError> {
        let text_of = |name: &'static str| match files.iter().find(|(file, _)| *file == name) {
            Some((_, text)) if text.len() as u64 > FILE_MAX_BYTES => Err(PolicyError::FileTooLarge(name)),
            found => Ok(found.map(|(_, text)| &text[..])),
        };
        let mut rules = Vec::new();
        parse_rules(RULE_FILES[0], text_of(RULE_FILES[0])?.ok_or(PolicyError::Missing(RULE_FILES[0]))?, &mut rules)?;
        for file in &RULE_FILES[1..] {
            parse_rules(file, text_of(file)?.unwrap_or_default(), &mut rules)?;
        }
        let mut aliases = HashMap::new();
        for file in ALIAS_FILES {
            parse_aliases(file, text_of(file)?.unwrap_or_default(), &mut aliases)?;
        }
        let automaton = Automaton::compile(&rules, paths)?;
        Ok(Self { rules, automaton, aliases })
    }

    /// The label of a path, by the rules alone; `None` if no rule fits or the one that does says so.
    ///
    /// # Errors
    /// When the patterns need too much memory or time.
    pub fn lookup(&mut self, path: &[u8], file_type: FileType) -> Result<Option<&[u8]>, PolicyError> {
        let found = self.automaton.lookup(&self.rules, path, file_type)?;
        Ok(found.map(|rule| &*self.rules[rule].context).filter(|context| *context != NO_LABEL))
    }

    /// The path by which a path is labelled: another one if it is an alias.
    fn resolve<'a>(&'a self, path: &'a [u8]) -> &'a [u8] {
        self.aliases.get(path).map_or(path, |original| original)
    }
}
