//! Kernel arguments: those that an image asks for, and changing those of the machine.
//!
//! An image has `/usr/lib/bootc/kargs.d/*.toml`. Each file has `kargs = ["…"]` and optionally `match-architectures = ["x86_64", …]`; files are taken in the order of
//! their names. The same files work with bootc, so an image needs them only once.

pub mod allow;
pub mod change;
pub mod edit;

use std::io::Read as _;

use osupdate_core::repository::OpenContent;
use osupdate_core::tree::{Entry, LeafKind, Tree};
use serde::Deserialize;
use thiserror::Error;

/// Where the files are, from the root of the image.
const DIRECTORY: &str = "usr/lib/bootc/kargs.d";

/// Largest file that is read; a list of arguments is a few hundred bytes.
const SIZE_MAX: u64 = 1 << 20;

/// Why an image's kernel arguments cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KargsError {
    /// The file could not be read.
    #[error("cannot read /{DIRECTORY}/{name} of the image")]
    Read {
        /// Name of the file.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is not what it should be.
    #[error("/{DIRECTORY}/{name} of the image is not valid")]
    Invalid {
        /// Name of the file.
        name: String,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// An argument could end the line of a boot entry or add a key to it.
    #[error("/{DIRECTORY}/{name} of the image has a kernel argument with a line break or control character")]
    Control {
        /// Name of the file.
        name: String,
    },
    /// The argument that selects the image is ours to write.
    #[error("/{DIRECTORY}/{name} of the image has a composefs argument, which is not the image's to set")]
    Composefs {
        /// Name of the file.
        name: String,
    },
}

#[derive(Deserialize)]
struct KargsFile {
    #[serde(default)]
    kargs: Vec<String>,
    #[serde(rename = "match-architectures")]
    match_architectures: Option<Vec<String>>,
}

/// The kernel arguments that an image asks for on this machine's architecture.
pub fn image_arguments(files: &dyn OpenContent, tree: &Tree) -> Result<Vec<String>, KargsError> {
    let mut arguments = Vec::new();
    let Some(directory) = tree.directory(DIRECTORY) else { return Ok(arguments) };
    for (name, entry) in &directory.entries {
        let name = String::from_utf8_lossy(name).into_owned();
        let Entry::Leaf(id) = entry else { continue };
        let LeafKind::Regular(content) = &tree.leaf(*id).kind else { continue };
        if !name.ends_with(".toml") || content.size() > SIZE_MAX {
            continue;
        }
        let mut text = String::new();
        let read = |source: Box<dyn std::error::Error + Send + Sync>| KargsError::Read { name: name.clone(), source };
        files
            .open_content(content)
            .map_err(|err| read(Box::new(err)))?
            .read_to_string(&mut text)
            .map_err(|err| read(Box::new(err)))?;
        arguments.extend(parse(&name, &text, std::env::consts::ARCH)?);
    }
    Ok(arguments)
}

/// The arguments of one file, if it is for this architecture.
fn parse(name: &str, text: &str, architecture: &str) -> Result<Vec<String>, KargsError> {
    let name = || name.to_owned();
    let file: KargsFile =
        toml::from_str(text).map_err(|source| KargsError::Invalid { name: name(), source: Box::new(source) })?;
    if file.match_architectures.is_some_and(|list| !list.iter().any(|item| item == architecture)) {
        return Ok(Vec::new());
    }
    for argument in &file.kargs {
        if argument.chars().any(char::is_control) {
            return Err(KargsError::Control { name: name() });
        }
        if is_composefs(argument) {
            return Err(KargsError::Composefs { name: name() });
        }
    }
    Ok(file.kargs)
}

/// Whether an argument of the machine can be one: it neither breaks a boot entry nor selects another image.
pub fn is_usable(argument: &str) -> bool {
    // For the kernel, some bytes of other characters are blanks.
    let is_printable = argument.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    !argument.is_empty() && argument.trim() == argument && is_printable && !is_composefs(argument)
}

/// Whether an argument selects the image, which is ours to write.
pub fn is_composefs(argument: &str) -> bool {
    osupdate_core::kernel_args::split(argument)
        .any(|word| word.starts_with("composefs=") || word.starts_with("composefs.digest="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_for_their_architectures() {
        let text = "kargs = [\"console=ttyS0\", \"quiet\"]\nmatch-architectures = [\"x86_64\"]\n";
        assert_eq!(parse("a.toml", text, "x86_64").unwrap(), ["console=ttyS0", "quiet"]);
        assert!(parse("a.toml", text, "aarch64").unwrap().is_empty());
        assert_eq!(parse("a.toml", "kargs = [\"ro\"]", "aarch64").unwrap(), ["ro"]);
        assert!(parse("a.toml", "", "x86_64").unwrap().is_empty());
    }

    #[test]
    fn dangerous_and_broken_files_are_refused() {
        assert!(matches!(parse("a", "kargs = 3", "x"), Err(KargsError::Invalid { .. })));
        assert!(matches!(parse("a", "kargs = [\"a\\nlinux /x\"]", "x"), Err(KargsError::Control { .. })));
        assert!(matches!(parse("a", "kargs = [\"a composefs=00\"]", "x"), Err(KargsError::Composefs { .. })));
    }
}
