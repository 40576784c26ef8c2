//! What the user has silenced.
//!
//! ```text
//! # comment
//! NAME           a kind of finding, everywhere
//! NAME:/PATH     at this path, and below it
//! ```

use std::str::FromStr;

use osupdate_core::repository::OpenContent;
use osupdate_core::tree::Tree;
use thiserror::Error;

use super::files::{self, ReadError};
use super::{Finding, LINTS, Lint, by_name};

/// Where an image has its own list, one on each line.
pub const FILE: &str = "usr/lib/osupdate/lint-allow";

/// One thing that is silenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    lint: &'static Lint,
    /// Without slashes at its end; `None`: everywhere.
    path: Option<String>,
}

/// Why a text does not say what is silenced.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseAllowError {
    /// Nothing is called so.
    #[error("there is no finding {0:?}{near}", near = near(.0))]
    Name(String),
    /// The path is not one.
    #[error("{0:?} is not an absolute path")]
    Path(String),
}

fn near(name: &str) -> String {
    let near = LINTS.iter().map(|lint| (strsim::damerau_levenshtein(lint.name, name), lint.name)).min();
    match near {
        Some((distance, near)) if distance <= near.len() / 2 => format!(", perhaps {near} is meant"),
        _ => ", osupdate image lint --list has all".to_owned(),
    }
}

impl FromStr for Allow {
    type Err = ParseAllowError;

    fn from_str(text: &str) -> Result<Self, ParseAllowError> {
        let (name, path) = match text.split_once(':') {
            Some((name, path)) => (name.trim(), Some(path.trim())),
            None => (text.trim(), None),
        };
        let lint = by_name(name).ok_or_else(|| ParseAllowError::Name(name.to_owned()))?;
        if let Some(path) = path.filter(|path| !path.starts_with('/')) {
            return Err(ParseAllowError::Path(path.to_owned()));
        }
        Ok(Self { lint, path: path.map(|path| path.trim_end_matches('/').to_owned()) })
    }
}

impl Allow {
    /// Whether a finding is silenced by it.
    pub fn silences(&self, finding: &Finding) -> bool {
        self.lint == finding.lint
            && match (&self.path, &finding.path) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(allowed), Some(path)) => {
                    path.strip_prefix(allowed.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                }
            }
    }
}

/// What an image says of itself in [`FILE`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    /// What is silenced.
    pub allowed: Vec<Allow>,
    /// Lines that say nothing, and why.
    pub wrong: Vec<(String, ParseAllowError)>,
}

impl AllowList {
    /// Reads the file of an image; without one, nothing is silenced.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn of_image(files: &dyn OpenContent, tree: &Tree) -> Result<Self, ReadError> {
        let text = files::text(files, tree, FILE)?.unwrap_or_default();
        let mut list = Self::default();
        for line in text.lines() {
            // A name and a path have no #; whoever needs one in a path names the directory.
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            match line.parse() {
                Ok(allow) => list.allowed.push(allow),
                Err(error) => list.wrong.push((line.to_owned(), error)),
            }
        }
        Ok(list)
    }
}
