//! Completion of command lines: commands and options from their definition, names from the repository.
//!
//! The scripts for the shells are in `completion/`; they ask the program with `osupdate complete -- WORDS...`. So the scripts
//! never change, and names that only the repository knows are completed, too. A repository that is locked or cannot be
//! read completes to nothing: at the prompt nobody wants to wait, or to read an error.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _, complete};
use osupdate_core::oci;
use osupdate_core::repository::{Namespace, Repository};

use crate::cli::Cli;
use crate::commands::repository_path;
use crate::transport::ImageReference;
use crate::transport::reference::TRANSPORTS;

/// Transports after which a directory comes.
const OF_DIRECTORIES: [&str; 2] = ["oci:", "dir:"];
/// Transports after which a file comes.
const OF_FILES: [&str; 2] = ["oci-archive:", "docker-archive:"];

/// What the last of the words could become, each with a tab and a description if there is one.
///
/// # Errors
/// When paths cannot be listed.
pub fn candidates(mut words: Vec<OsString>) -> std::io::Result<Vec<Vec<u8>>> {
    let Some(last) = words.len().checked_sub(1) else { return Ok(Vec::new()) };
    // However the program was called.
    words[0] = "osupdate".into();
    let current = words[last].clone();
    let found = complete(&mut Cli::command(), words, last, env::current_dir().ok().as_deref())?;
    let visible = found.iter().filter(|candidate| !candidate.is_hide_set());
    // Options are only offered to those who begin to write one: there are many, and names are what is looked for.
    let visible = visible.filter(|candidate| is_option(&current) || !is_option(candidate.get_value()));
    Ok(visible.filter_map(line).collect())
}

fn is_option(word: &OsStr) -> bool {
    word.as_bytes().starts_with(b"-")
}

/// A candidate as the scripts read it; none for names that would be several lines.
fn line(candidate: &CompletionCandidate) -> Option<Vec<u8>> {
    let mut line = candidate.get_value().as_bytes().to_vec();
    if line.iter().any(u8::is_ascii_control) {
        return None;
    }
    if let Some(help) = candidate.get_help() {
        line.push(b'\t');
        line.extend(
            help.to_string().lines().next().unwrap_or_default().bytes().filter(|byte| !byte.is_ascii_control()),
        );
    }
    Some(line)
}

/// Completes the name of an image: tags; digests for those who begin to write one.
pub(crate) fn images() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        names(current, |repository, current, names| {
            names.extend(oci::list(repository)?.into_iter().map(|(tag, _)| tag));
            if current.starts_with("sha256:") {
                let streams = repository.stream_names()?.into_iter();
                names.extend(streams.filter_map(|name| name.strip_prefix("oci-manifest-").map(str::to_owned)));
            }
            Ok(())
        })
    })
}

/// Completes what commands take that look at any image: one of the repository, a path, a reference.
pub(crate) fn subjects() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        if path_after(current, &OF_DIRECTORIES).or(path_after(current, &OF_FILES)).is_some() {
            return references().complete(current);
        }
        let named = if is_path(current) { Vec::new() } else { images().complete(current) };
        named.into_iter().chain(PathCompleter::any().complete(current)).collect()
    })
}

/// Words that can be nothing but a path.
fn is_path(word: &OsStr) -> bool {
    [&b"/"[..], b"./", b"../"].iter().any(|prefix| word.as_bytes().starts_with(prefix))
}

/// Completes the diff_id of a layer.
pub(crate) fn layers() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        names(current, |repository, _, names| {
            let streams = repository.stream_names()?.into_iter();
            names.extend(streams.filter_map(|name| name.strip_prefix("oci-layer-").map(str::to_owned)));
            Ok(())
        })
    })
}

/// Completes what may be kept in a repository: tags, streams, EROFS images, refs.
pub(crate) fn kept() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        names(current, |repository, _, names| {
            names.extend(oci::list(repository)?.into_iter().map(|(tag, _)| tag));
            names.extend(repository.stream_names()?);
            names.extend(repository.image_digests()?.iter().map(ToString::to_string));
            for namespace in [Namespace::Streams, Namespace::Images] {
                names.extend(repository.refs(namespace)?.into_iter().map(|(name, _)| format!("refs/{name}")));
            }
            Ok(())
        })
    })
}

/// Completes the name of a stream or of a ref to one.
pub(crate) fn streams() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        names(current, |repository, _, names| {
            names.extend(repository.stream_names()?);
            let refs = repository.refs(Namespace::Streams)?.into_iter();
            names.extend(refs.map(|(name, _)| format!("refs/{name}")));
            Ok(())
        })
    })
}

/// Completes where an image is fetched from: what has been pulled before, transports, and paths after those that have one.
pub(crate) fn references() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        if let Some((transport, path)) = path_after(current, &OF_DIRECTORIES) {
            let found = PathCompleter::dir().complete(path).into_iter();
            return found.map(|found| image_directory(&found).unwrap_or(found).add_prefix(transport)).collect();
        }
        if let Some((transport, path)) = path_after(current, &OF_FILES) {
            let found = PathCompleter::any().complete(path).into_iter();
            return found.map(|found| found.add_prefix(transport)).collect();
        }
        if is_path(current) {
            return PathCompleter::any().complete(current);
        }
        let pulled = |name: &String| name.parse::<ImageReference>().is_ok();
        names(current, |repository, _, names| {
            names.extend(oci::list(repository)?.into_iter().map(|(tag, _)| tag).filter(pulled));
            // For those who do not know them. What comes after docker:// nobody here knows.
            let others = TRANSPORTS.iter().filter(|transport| transport.ends_with(':'));
            names.extend(others.map(|transport| (*transport).to_owned()));
            Ok(())
        })
    })
}

/// The transport that a word begins with, and the path after it.
fn path_after<'a>(word: &'a OsStr, transports: &[&'static str]) -> Option<(&'static str, &'a OsStr)> {
    transports.iter().find_map(|transport| {
        let path = word.as_bytes().strip_prefix(transport.as_bytes())?;
        Some((*transport, OsStr::from_bytes(path)))
    })
}

/// The candidate for a directory that an image is in: nothing more follows.
fn image_directory(candidate: &CompletionCandidate) -> Option<CompletionCandidate> {
    let directory = candidate.get_value().as_bytes().strip_suffix(b"/")?;
    let directory = Path::new(OsStr::from_bytes(directory));
    let has = |file: &str| directory.join(file).is_file();
    (has("oci-layout") || has("manifest.json")).then(|| CompletionCandidate::new(directory))
}

/// Completes a tag.
pub(crate) fn tags() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        names(current, |repository, _, names| {
            names.extend(oci::list(repository)?.into_iter().map(|(tag, _)| tag));
            Ok(())
        })
    })
}

/// The names that begin like the word, from the repository that the command line is about.
fn names(
    current: &OsStr,
    list: impl FnOnce(&Repository, &str, &mut BTreeSet<String>) -> anyhow::Result<()>,
) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let mut names = BTreeSet::new();
    let listed = repository().and_then(|repository| list(&repository, current, &mut names));
    if let Err(error) = listed {
        tracing::debug!("cannot complete {current:?}: {error:#}, ignoring");
    }
    names.into_iter().filter(|name| name.starts_with(current)).map(CompletionCandidate::new).collect()
}

/// The repository that the command line being completed is about: completers get the one word only.
fn repository() -> anyhow::Result<Repository> {
    let words: Vec<OsString> = env::args_os().skip_while(|word| word != "--").collect();
    let has = |option: &str| words.iter().any(|word| word == option);
    let after = words.windows(2).find(|pair| pair[0] == "--repo").map(|pair| pair[1].as_bytes());
    let joined = words.iter().find_map(|word| word.as_bytes().strip_prefix(b"--repo="));
    let path = after.or(joined).map(|path| PathBuf::from(OsStr::from_bytes(path)));
    repository_path::open_for_a_look(path.as_deref(), has("--system"), has("--user"))
}
