//! `osupdate image lint`

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::ArgGroup;
use osupdate_core::observer::Event;
use osupdate_core::oci::loose_directories;
use serde::Serialize;

use super::fetch_options::FetchOptions;
use super::subject::{Kind, Loader, MountedFiles, Subject};
use super::tree_options::{TreeOptions, Xattrs};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};
use crate::lint::{self, ALLOW_FILE, Allow, AllowList, Finding, Image, LINTS, Lint, Severity};

/// Paths of one kind of finding that people are shown.
const PATHS_SHOWN: usize = 10;

/// Find what breaks or weakens an OS image
///
/// Looks at an image in the repository, in a registry or anywhere else, or at a directory with its files: also at that of the
/// build that is running, as the last step of a Containerfile. Ends with status 3 if there are errors. What is meant to be
/// as it is can be silenced, by an option or by a file in the image, /usr/lib/osupdate/lint-allow, with a line NAME or
/// NAME:/PATH for each, and comments after #.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true), after_help = "\
Examples:
  osupdate image lint oci:build/image
  osupdate image lint docker://registry.example.com/os:1.2 --allow var-content
  RUN osupdate image lint --rootfs / --fatal-warnings")]
pub(super) struct Args {
    /// Tag or digest of an image in the repository, a reference (docker://, oci:), or a directory
    #[arg(group = "what", add = completion::subjects())]
    image: Option<String>,

    /// The directory with the files of the image; file systems that are mounted in it are left out
    #[arg(long, value_name = "DIRECTORY", group = "what")]
    rootfs: Option<PathBuf>,

    /// List all kinds of findings, with reason and remedy
    #[arg(long, group = "what")]
    list: bool,

    /// Silence a kind of finding, everywhere or at a path and below it; may be repeated
    #[arg(long, value_name = "NAME[:/PATH]")]
    allow: Vec<Allow>,

    /// Let warnings count as errors
    #[arg(long)]
    fatal_warnings: bool,

    #[command(flatten)]
    fetch: FetchOptions,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    errors: usize,
    warnings: usize,
    /// Findings that are silenced.
    allowed: usize,
    findings: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    name: &'static str,
    severity: &'static str,
    path: Option<String>,
    detail: String,
    reason: &'static str,
    fix: &'static str,
    /// Whether it is silenced.
    allowed: bool,
}

#[derive(Serialize)]
struct List {
    lints: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    severity: &'static str,
    reason: &'static str,
    fix: &'static str,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        if self.list {
            list(context)?;
            return Ok(Outcome::Done);
        }
        let options =
            TreeOptions { no_transform: true, xattrs: Xattrs::AllowlistOnly, one_file_system: self.rootfs.is_some() };
        let loader = Loader::new(repository, &options, &self.fetch, context);
        let subject = match (&self.rootfs, &self.image) {
            (Some(path), _) => loader.rootfs(path, MountedFiles::LeaveOut)?,
            (None, Some(name)) => loader.load(name)?,
            (None, None) => unreachable!("clap requires one of them"),
        };
        let (findings, allowed) = check(&subject, &self.allow, context)?;
        let report = self.report(findings, &allowed);
        context.output.write(&report, |out| report.write(out))?;
        Ok(if report.ok { Outcome::Done } else { Outcome::Findings })
    }

    fn report(&self, findings: Vec<Finding>, allowed: &[Allow]) -> Report {
        let found = findings.into_iter().map(|finding| {
            let allowed = allowed.iter().any(|allow| allow.silences(&finding));
            let Finding { lint: Lint { name, severity, reason, fix }, path, detail } = finding;
            Found { name, severity: severity.name(), path, detail, reason, fix, allowed }
        });
        let findings: Vec<Found> = found.collect();
        let count = |severity: Severity| {
            findings.iter().filter(|found| !found.allowed && found.severity == severity.name()).count()
        };
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        Report {
            ok: errors == 0 && !(self.fatal_warnings && warnings > 0),
            errors,
            warnings,
            allowed: findings.iter().filter(|found| found.allowed).count(),
            findings,
        }
    }
}

/// What is found in an image, and what is silenced, there and by `allow`.
pub(super) fn check(
    subject: &Subject,
    allow: &[Allow],
    context: &Context,
) -> anyhow::Result<(Vec<Finding>, Vec<Allow>)> {
    let doing = || format!("cannot look through {}", subject.name);
    let loose = match (&subject.kind, subject.repository()) {
        (Kind::Layers { image }, Some(repository)) => loose_directories(repository, image).with_context(doing)?,
        (Kind::Directory, _) => Vec::new(),
        (kind, _) => {
            return Err(anyhow!("{} is a {}, in which the files of the image are not", subject.name, kind.describe()))
                .hint("name the image, or the directory with its files");
        }
    };
    let files = subject.files()?;
    context.observer.event(Event::Step("looking through the image"));
    let findings = lint::check(&Image { tree: &subject.tree, files, loose: &loose }).with_context(doing)?;
    let AllowList { mut allowed, wrong } = AllowList::of_image(files, &subject.tree).with_context(doing)?;
    for (line, error) in wrong {
        let text = format!("/{ALLOW_FILE} of the image has the line {line:?}, ignoring: {error}");
        context.observer.event(Event::Warning(&text));
    }
    allowed.extend(allow.iter().cloned());
    Ok((findings, allowed))
}

impl Report {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let told: Vec<&Found> = self.findings.iter().filter(|found| !found.allowed).collect();
        for of_one_kind in told.chunk_by(|one, other| one.name == other.name) {
            let Some(Found { name, severity, reason, fix, .. }) = of_one_kind.first() else { continue };
            writeln!(out, "{severity}: {name}")?;
            for Found { path, detail, .. } in of_one_kind.iter().take(PATHS_SHOWN) {
                match path {
                    Some(path) => writeln!(out, "  {path}: {detail}")?,
                    None => writeln!(out, "  {detail}")?,
                }
            }
            if let Some(more @ 1..) = of_one_kind.len().checked_sub(PATHS_SHOWN) {
                writeln!(out, "  and {more} more, which --json has")?;
            }
            writeln!(out, "  why: {reason}\n  fix: {fix}")?;
        }
        let allowed = match self.allowed {
            0 => String::new(),
            allowed => format!("; {allowed} allowed"),
        };
        let number = |number, what| match number {
            1 => format!("1 {what}"),
            number => format!("{number} {what}s"),
        };
        match (self.errors, self.warnings) {
            (0, 0) => writeln!(out, "nothing is wrong{allowed}"),
            (errors, warnings) => {
                writeln!(out, "{}, {}{allowed}", number(errors, "error"), number(warnings, "warning"))
            }
        }
    }
}

fn list(context: &Context) -> anyhow::Result<()> {
    let listed = |lint: &&Lint| {
        let Lint { name, severity, reason, fix } = lint;
        Listed { name, severity: severity.name(), reason, fix }
    };
    let list = List { lints: LINTS.iter().map(listed).collect() };
    context.output.write(&list, |out| {
        for Listed { name, severity, reason, fix } in &list.lints {
            writeln!(out, "{name} ({severity})\n  why: {reason}\n  fix: {fix}")?;
        }
        Ok(())
    })
}
