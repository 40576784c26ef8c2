//! Each program does the same work in turns.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use osupdate_tests::{layout, tool};

use crate::input::{Input, TAG};
use crate::measure::{Series, measure};
use crate::mounts;
use crate::network;
use crate::programs::{DIGEST, Program, Programs};
use crate::say;

/// One kind of work.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Figures of each program that does it, osupdate first.
    pub(crate) figures: Vec<(&'static str, Series)>,
}

/// A program with a repository of its own.
pub(crate) struct Side<'a> {
    pub(crate) name: &'static str,
    pub(crate) program: &'a Program,
    pub(crate) repository: PathBuf,
}

/// The programs that have repositories.
pub(crate) fn sides<'a>(programs: &'a Programs, work: &Path) -> Vec<Side<'a>> {
    let all = [("osupdate", Some(&programs.osupdate)), ("cfsctl", programs.cfsctl.as_ref())];
    let sides = all.into_iter().filter_map(|(name, program)| Some((name, program?)));
    sides.map(|(name, program)| Side { name, program, repository: work.join(name) }).collect()
}

impl Side<'_> {
    pub(crate) fn is_ours(&self) -> bool {
        self.name == "osupdate"
    }

    /// Its command on its repository; `ours` or `theirs`, each followed by `last`.
    fn command(&self, ours: &[&str], theirs: &[&str], last: &[OsString]) -> Command {
        let mut command = if self.is_ours() {
            let mut command = self.program.command(ours);
            command.arg("--quiet").arg("--repo").arg(&self.repository);
            command
        } else {
            let mut command = self.program.command(["--insecure", "--repo"]);
            command.arg(&self.repository).args(theirs);
            command
        };
        command.args(last);
        command
    }

    /// Makes its repository anew.
    pub(crate) fn init(&self) -> Result<()> {
        park(&self.repository)?;
        tool::run(&mut if self.is_ours() {
            self.command(&["repo", "init", "--unverified"], &[], &[])
        } else {
            let mut command = self.program.command(["init", "--insecure"]);
            command.arg(&self.repository);
            command
        })?;
        Ok(())
    }

    pub(crate) fn import(&self, layout: &Path) -> Command {
        let reference = OsString::from(format!("oci:{}:{TAG}", layout.display()));
        if self.is_ours() {
            self.command(&["image", "pull", "--tag", TAG], &[], &[reference])
        } else {
            self.command(&[], &["oci", "pull"], &[reference, TAG.into()])
        }
    }

    /// Pulls from a registry without TLS. skopeo, which cfsctl runs, must be told by the configuration in this home directory.
    pub(crate) fn pull(&self, reference: &str, home: &Path) -> Command {
        if self.is_ours() {
            return self.command(&["image", "pull", "--plain-http", "--tag", TAG], &[], &[reference.into()]);
        }
        let theirs = self.command(&[], &["oci", "pull"], &[reference.into(), TAG.into()]);
        let mut variable = OsString::from("HOME=");
        variable.push(home);
        let mut command = Command::new("env");
        command.arg(variable).arg(theirs.get_program()).args(theirs.get_args());
        command
    }

    /// Publishes its image as `bench`, as osupdate does.
    pub(crate) fn publish(&self, tree: &Path) -> Command {
        let image = OsString::from(format!("{TAG}=bench:{TAG}"));
        self.command(&["repo", "publish"], &[], &[tree.into(), image])
    }

    /// Pulls from a published tree on a web server with this authority, as osupdate does.
    pub(crate) fn pull_tree(&self, reference: &str, authority: &Path) -> Command {
        let pull = self.command(&["image", "pull", "--tag", TAG], &[], &[reference.into()]);
        let mut variable = OsString::from("SSL_CERT_FILE=");
        variable.push(authority);
        let mut command = Command::new("env");
        command.arg(variable).arg(pull.get_program()).args(pull.get_args());
        command
    }

    pub(crate) fn fsck(&self) -> Command {
        self.command(&["repo", "fsck"], &["fsck"], &[])
    }

    /// Mounts its image; `how` is for osupdate, cfsctl serves it through FUSE.
    pub(crate) fn mount(&self, how: &str, place: &Path) -> Command {
        let last = [TAG.into(), place.into()];
        self.command(&["image", "mount", how], &["oci", "mount", "--fuse", "yes"], &last)
    }

    pub(crate) fn gc_dry_run(&self) -> Command {
        self.command(&["repo", "gc", "--dry-run"], &["gc", "--dry-run"], &[])
    }

    /// Digests of the EROFS images in its repository.
    fn images(&self) -> Result<BTreeSet<OsString>> {
        let directory = self.repository.join("images");
        let entries = fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))?;
        entries.map(|entry| Ok(entry?.file_name())).filter(|name| !matches!(name, Ok(name) if name == "refs")).collect()
    }
}

/// All rows.
pub(crate) fn all(programs: &Programs, input: &Input, work: &Path, runs: usize) -> Result<Vec<Row>> {
    let sides = sides(programs, work);
    let mut rows = Vec::new();
    for (name, layout) in [("import, gzip", input.gzip()), ("import, zstd", input.zstd())] {
        remove_parked(work)?;
        layout::warm_up(&layout)?;
        rows.push(row(name, &sides, work, runs, Side::init, |side| side.import(&layout))?);
        agree(&sides)?;
    }
    rows.extend(network::rows(&sides, input, work, runs)?);
    agree(&sides)?;
    rows.extend(digests(programs, input, work, runs)?);
    rows.push(row("fsck", &sides, work, runs, |_| Ok(()), Side::fsck)?);
    rows.extend(mounts::rows(&sides, &input.tree(), work, runs)?);
    rows.push(row("gc, dry run", &sides, work, runs, |_| Ok(()), Side::gc_dry_run)?);

    let second = input.second();
    remove_parked(work)?;
    layout::warm_up(&second)?;
    let again: Vec<Side<'_>> =
        sides.iter().map(|side| Side { repository: work.join(format!("{}-again", side.name)), ..*side }).collect();
    let prepare = |side: &Side<'_>| copy(&work.join(side.name), &side.repository);
    rows.push(row("import of the second version, zstd", &again, work, runs, prepare, |side| side.import(&second))?);
    agree(&again)?;
    let complete = Side { repository: work.join("complete"), ..again[0] };
    fs::rename(&again[0].repository, &complete.repository)?;
    rows.push(network::update(&again, &complete, &second, work, runs, prepare)?);
    agree(&again)?;
    fs::remove_dir_all(&complete.repository)?;
    for side in sides.iter().chain(&again) {
        fs::remove_dir_all(&side.repository)?;
    }
    remove_parked(work)?;
    Ok(rows)
}

fn row<'a>(
    name: &'static str,
    sides: &[Side<'a>],
    work: &Path,
    runs: usize,
    prepare: impl Fn(&Side<'a>) -> Result<()>,
    command: impl Fn(&Side<'a>) -> Command,
) -> Result<Row> {
    say(name);
    let mut figures: Vec<_> = sides.iter().map(|side| (side.name, Series::default())).collect();
    for _ in 0..runs {
        for (side, (_, series)) in sides.iter().zip(&mut figures) {
            prepare(side)?;
            series.0.push(measure(&command(side), work)?);
        }
    }
    Ok(Row { name, figures })
}

/// The digest of a directory needs no repository: as cfsctl has it for an OCI image, and as mkcomposefs has it for the
/// directory as it is.
fn digests(programs: &Programs, input: &Input, work: &Path, runs: usize) -> Result<Vec<Row>> {
    let tree = input.tree();
    let ours = programs.digests_directories.then_some(&programs.osupdate);
    let cfsctl = programs.cfsctl.as_ref();
    let mkcomposefs = programs.mkcomposefs.as_ref();
    let with = |name, program: Option<&Program>, args: &[&str]| {
        let mut command = program?.command(args);
        command.arg(&tree);
        Some((name, command))
    };
    let like_oci =
        [with("osupdate", ours, &DIGEST), with("cfsctl", cfsctl, &["--no-repo", "--hash", "sha512", "compute-id"])];
    // Called by that name it passes over hard links, as mkcomposefs does, and so makes the same image.
    let as_mkcomposefs = programs.osupdate.named("mkcomposefs", work)?;
    let as_it_is = [
        with("osupdate", mkcomposefs.map(|_| &as_mkcomposefs), &["--print-digest-only"]),
        with("mkcomposefs", mkcomposefs, &["--print-digest-only"]),
    ];
    let mut rows = Vec::new();
    for (name, commands) in [("digest of the directory, SHA-512", like_oci), ("the same as it is, SHA-256", as_it_is)] {
        let mut commands: Vec<_> = commands.into_iter().flatten().collect();
        if !commands.is_empty() {
            rows.push(digest_row(name, &mut commands, work, runs)?);
        }
    }
    Ok(rows)
}

fn digest_row(name: &'static str, commands: &mut [(&'static str, Command)], work: &Path, runs: usize) -> Result<Row> {
    say(name);
    // Also reads the tree into the page cache.
    let digests = commands.iter_mut().map(|(_, command)| tool::run(command)).collect::<Result<Vec<_>>>()?;
    let agree = digests.windows(2).all(|pair| pair[0].trim() == pair[1].trim());
    ensure!(agree, "the programs make different digests of the directory: {digests:?}");
    let mut figures: Vec<_> = commands.iter().map(|(name, _)| (*name, Series::default())).collect();
    for _ in 0..runs {
        for ((_, command), (_, series)) in commands.iter().zip(&mut figures) {
            series.0.push(measure(command, work)?);
        }
    }
    Ok(Row { name, figures })
}

/// Fails where the programs made different things: then the times mean nothing.
fn agree(sides: &[Side<'_>]) -> Result<()> {
    for pair in sides.windows(2) {
        let (ours, theirs) = (pair[0].images()?, pair[1].images()?);
        ensure!(ours == theirs, "{} and {} made different images: {ours:?}, {theirs:?}", pair[0].name, pair[1].name);
    }
    Ok(())
}

/// Begins the names of directories that are not needed any more.
const PARKED: &str = "parked-";

/// Puts a directory aside, if it is there. Not removed yet: for a minute, ext4 does not take the inodes of removed files for
/// new ones and passes over all of them at each creation, which can take longer than the import that is timed.
pub(crate) fn park(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let names = (0..).map(|number| directory.with_file_name(format!("{PARKED}{number}")));
    let free = names.into_iter().find(|path| !path.exists()).context("all numbers are taken")?;
    Ok(fs::rename(directory, free)?)
}

/// Removes what was put aside, and waits until the file system has forgotten it.
pub(crate) fn remove_parked(work: &Path) -> Result<()> {
    let mut removed = false;
    for entry in fs::read_dir(work)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PARKED) {
            fs::remove_dir_all(entry.path())?;
            removed = true;
        }
    }
    if removed {
        say("waiting for a minute, for the file system to forget removed files");
        rustix::fs::sync();
        thread::sleep(Duration::from_secs(65));
    }
    Ok(())
}

/// A repository like another, with the same files: objects are never changed in place.
fn copy(from: &Path, to: &Path) -> Result<()> {
    park(to)?;
    tool::run(Command::new("cp").args(["--archive", "--link", "--no-target-directory"]).arg(from).arg(to))?;
    Ok(())
}
