//! `osupdate image dump`

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::bail;
use clap::ValueHint;
use osupdate_core::dumpfile;
use osupdate_core::tree::{Content, Directory, Entry, LeafKind, Tree};
use serde::Serialize;

use super::fetch_options::FetchOptions;
use super::subject::Loader;
use super::tree_options::TreeOptions;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;
use crate::output::write_stdout;

/// Print the files of an image as a composefs dumpfile
///
/// One line for each file: path, size, mode, links, owner, group, device, time, payload, content, digest, attributes.
/// osupdate image mkfs makes an image of it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image dump docker://registry.example.com/os:1.2 > os.dump
  osupdate image dump ./image.erofs /etc /usr/lib/os-release
  osupdate image dump ./rootfs --objects /usr/bin/bash")]
pub(super) struct Args {
    /// Tag or digest of an image in the repository; a directory, dumpfile, EROFS file or image archive; a reference; - for standard input
    #[arg(add = completion::subjects())]
    image: String,

    /// Only these paths, and what is below them
    #[arg(value_hint = ValueHint::Other)]
    paths: Vec<PathBuf>,

    /// The form that is booted: with /boot and /sysroot empty
    #[arg(long, alias = "boot")]
    bootable: bool,

    /// Print only where the contents of each regular file are: its path, and that of the object or `inline`
    #[arg(long)]
    objects: bool,

    #[command(flatten)]
    fetch: FetchOptions,

    #[command(flatten)]
    tree: TreeOptions,
}

#[derive(Serialize)]
struct Report {
    /// Lines of the dumpfile.
    lines: Vec<String>,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let loader = Loader::new(repository, &self.tree, &self.fetch, context);
        let subject = loader.load(&self.image)?;
        let tree = if self.bootable { subject.boot_form()? } else { subject.tree };
        let mut wanted = Vec::new();
        for path in &self.paths {
            let path = normal(path);
            if path != b"/" && !exists(&tree, &path) {
                bail!("{} has no {}", subject.name, path.escape_ascii());
            }
            wanted.push(path);
        }
        let mut text = Vec::new();
        if self.objects {
            objects(&tree, &mut text)?;
        } else {
            dumpfile::write(&tree, &mut text)?;
        }
        if !wanted.is_empty() {
            text = choose(&text, &wanted);
        }
        if !context.output.is_json() {
            write_stdout(&text)?;
            return Ok(Outcome::Done);
        }
        let report = Report { lines: String::from_utf8_lossy(&text).lines().map(str::to_owned).collect() };
        context.output.write(&report, |_| Ok(()))?;
        Ok(Outcome::Done)
    }
}

/// The absolute path without `.`, repeated slashes and a slash at the end.
fn normal(path: &Path) -> Vec<u8> {
    let mut normal = Vec::new();
    for component in path.components() {
        if let Component::Normal(name) = component {
            normal.push(b'/');
            normal.extend_from_slice(name.as_bytes());
        }
    }
    if normal.is_empty() { b"/".to_vec() } else { normal }
}

fn exists(tree: &Tree, path: &[u8]) -> bool {
    let mut directory = &tree.root;
    let mut names = path.split(|&byte| byte == b'/').skip(1).peekable();
    while let Some(name) = names.next() {
        match directory.entries.get(name) {
            Some(Entry::Directory(child)) => directory = child,
            found => return found.is_some() && names.peek().is_none(),
        }
    }
    true
}

/// The lines of paths that are wanted, or below one that is.
fn choose(text: &[u8], wanted: &[Vec<u8>]) -> Vec<u8> {
    let wanted: Vec<Vec<u8>> = wanted.iter().map(|path| dumpfile::escape_path(path)).collect();
    let mut chosen = Vec::new();
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let path = line.split(|&byte| byte == b' ' || byte == b'\n').next().unwrap_or_default();
        let below = |wanted: &Vec<u8>| {
            path.strip_prefix(wanted.as_slice())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || wanted == b"/")
        };
        if wanted.iter().any(below) {
            chosen.extend_from_slice(line);
        }
    }
    chosen
}

/// A line for each regular file: its path, and where its contents are.
fn objects(tree: &Tree, out: &mut Vec<u8>) -> std::io::Result<()> {
    fn visit(tree: &Tree, directory: &Directory, path: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        for (name, entry) in &directory.entries {
            let path = [path, b"/", name].concat();
            match entry {
                Entry::Directory(child) => visit(tree, child, &path, out)?,
                Entry::Leaf(id) => {
                    if let LeafKind::Regular(content) = &tree.leaf(*id).kind {
                        out.extend_from_slice(&dumpfile::escape_path(&path));
                        match content {
                            Content::Inline(_) => out.extend_from_slice(b" inline\n"),
                            Content::External { payload, .. } => {
                                let payload = payload.as_deref().unwrap_or(b"-");
                                writeln!(out, " {}", payload.escape_ascii())?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
    visit(tree, &tree.root, b"", out)
}
