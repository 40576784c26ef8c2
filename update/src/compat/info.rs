//! `composefs-info`: what is in an image.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use osupdate_core::erofs::{self, Format};
use osupdate_core::repository::measure_file;
use osupdate_core::tree::{Content, Entry, LeafKind, Tree};
use osupdate_core::{Algorithm, dumpfile, fsverity};

use super::options::{Options, Spec};
use super::{Failure, chain, plain};
use crate::output::write_stdout;

pub(super) const USAGE: &str = "\
usage: composefs-info [--basedir=path] [--filter=name] [ls|objects|dump|missing-objects|measure-file] IMAGES...
";

const SPECS: [Spec; 2] = [("basedir", true), ("filter", true)];

pub(super) fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let options = Options::parse("composefs-info", arguments, &SPECS)?;
    let Some((command, images)) = options.operands.split_first() else {
        return Err(Failure::Usage("No command specified".to_owned()));
    };
    let command = command.to_string_lossy();
    if !["ls", "dump", "objects", "missing-objects", "measure-file"].contains(&&*command) {
        return Err(Failure::Message(format!("Unknown command '{command}'")));
    }
    if images.is_empty() {
        return Err(Failure::Usage("No image path specified".to_owned()));
    }
    let filter: Vec<&[u8]> = options.values("filter").map(OsStr::as_bytes).collect();
    if let Some(path) = filter.iter().find(|name| name.contains(&b'/')) {
        return Err(Failure::Message(format!("Filter must be a single name: {}", path.escape_ascii())));
    }
    let keep = |name: &[u8]| filter.is_empty() || filter.contains(&name);
    let base = options.value("basedir").map(PathBuf::from);
    if let Some(base) = &base {
        fs::read_dir(base)
            .map_err(|error| Failure::because(format!("Can't open basedir `{}`", base.display()), plain(&error)))?;
    }

    let mut out = Vec::new();
    let mut objects = BTreeSet::new();
    for name in images {
        let path = Path::new(name);
        let failed =
            |what: &str, reason: String| Failure::because(format!("Failed to {what} '{}'", path.display()), reason);
        if command == "measure-file" {
            let file = File::open(path).map_err(|error| failed("open", plain(&error)))?;
            let digest = match measure_file(file.as_fd()) {
                Ok(Some(digest)) if digest.algorithm() == Algorithm::Sha256 => digest,
                _ => fsverity::digest_reader(Algorithm::Sha256, file).map_err(|error| failed("read", plain(&error)))?,
            };
            out.extend(format!("{digest}\n").into_bytes());
            continue;
        }
        let bytes = fs::read(path).map_err(|error| failed("open", plain(&error)))?;
        let (tree, format) = erofs::read(&bytes).map_err(|error| failed("load", chain(&error)))?;
        match &*command {
            "ls" => list(&tree, &keep, &mut out),
            "dump" => out.extend(dump(&tree, format, &keep).map_err(|reason| failed("dump", reason))?),
            _ => objects.extend(payloads(&tree, &keep)),
        }
    }
    for object in &objects {
        let missing = command == "missing-objects";
        let there = || base.as_ref().is_some_and(|base| base.join(OsStr::from_bytes(object)).exists());
        if !(missing && there()) {
            out.write_all(object).and_then(|()| out.write_all(b"\n")).expect("memory takes all bytes");
        }
    }
    write_stdout(&out).map_err(|error| Failure::Message(format!("{error:#}")))
}

fn dump(tree: &Tree, format: Format, keep: &dyn Fn(&[u8]) -> bool) -> Result<Vec<u8>, String> {
    erofs::dump_stored(tree, format, keep).map_err(|error| chain(&error))
}

/// Paths of external contents.
fn payloads(tree: &Tree, keep: &dyn Fn(&[u8]) -> bool) -> BTreeSet<Vec<u8>> {
    let mut payloads = BTreeSet::new();
    let mut open: Vec<&Entry> =
        tree.root.entries.iter().filter(|(name, _)| keep(name)).map(|(_, entry)| entry).collect();
    while let Some(entry) = open.pop() {
        match entry {
            Entry::Directory(child) => open.extend(child.entries.values()),
            Entry::Leaf(id) => {
                if let LeafKind::Regular(Content::External { payload: Some(payload), .. }) = &tree.leaf(*id).kind {
                    payloads.insert(payload.to_vec());
                }
            }
        }
    }
    payloads
}

/// A path with its blanks, but with nothing that could move the cursor.
fn printable(path: &[u8]) -> Vec<u8> {
    path.split(|&byte| byte == b' ')
        // A lone dash means nothing special here.
        .map(|part| if part == b"-" { part.to_vec() } else { dumpfile::escape_path(part) })
        .collect::<Vec<_>>()
        .join(&b' ')
}

fn list(tree: &Tree, keep: &dyn Fn(&[u8]) -> bool, out: &mut Vec<u8>) {
    let mut seen = BTreeSet::new();
    let mut path = Vec::new();
    let mut open = vec![(0, tree.root.entries.iter())];
    while let Some((path_len, entries)) = open.last_mut() {
        let path_len = *path_len;
        path.truncate(path_len);
        let Some((name, entry)) = entries.next() else {
            open.pop();
            continue;
        };
        if path_len == 0 && !keep(name) {
            continue;
        }
        path.push(b'/');
        path.extend_from_slice(name);
        out.extend(printable(&path));
        match entry {
            Entry::Directory(child) => {
                out.extend_from_slice(b"/\t");
                open.push((path.len(), child.entries.iter()));
            }
            // Of a file with several names only the first one tells what it is.
            Entry::Leaf(id) if !seen.insert(*id) => {}
            Entry::Leaf(id) => {
                let (arrow, target) = match &tree.leaf(*id).kind {
                    LeafKind::Symlink(target) => (&b"\t-> "[..], Some(target)),
                    LeafKind::Regular(Content::External { payload, .. }) => (&b"\t@ "[..], payload.as_ref()),
                    _ => (&b""[..], None),
                };
                if let Some(target) = target {
                    out.extend_from_slice(arrow);
                    out.extend(dumpfile::escape_path(target));
                }
            }
        }
        out.push(b'\n');
    }
}
