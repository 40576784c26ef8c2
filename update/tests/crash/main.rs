//! A crash at any system call, and a failure of any, leaves a repository that the check calls clean; and what was begun
//! can be done again with the same result. The program itself is run, under `ptrace`.
#![allow(missing_docs, clippy::print_stderr, reason = "a test binary; skips are printed")]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod directory;
mod order;
mod power_cut;
mod scenarios;
mod tracer;
#[path = "../command/whole_tree.rs"]
mod whole_tree;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use osupdate_core::observer::Silent;
use osupdate_core::oci::verify_images;
use osupdate_core::repository::{FsckOptions, GcOptions, Repository};

use directory::{copy, snapshot, temporary};
use power_cut::{Loss, cut};
use tracer::{Call, Fate, Run};
use whole_tree::whole;

/// Something that is begun, interrupted, and done again.
pub(crate) struct Scenario {
    /// The directory as it is before; the repository is `repo` in it.
    start: tempfile::TempDir,
    /// Arguments of the program; `@` in them stands for the directory.
    arguments: Vec<String>,
    /// It is not in order until the program is done.
    damaged: bool,
}

impl Scenario {
    fn command(&self, dir: &Path) -> Vec<OsString> {
        let dir = dir.to_str().unwrap();
        let arguments = self.arguments.iter().map(|argument| argument.replace('@', dir).into());
        [OsString::from(env!("CARGO_BIN_EXE_osupdate"))].into_iter().chain(arguments).collect()
    }

    /// A copy of the directory as it is before.
    fn place(&self) -> (tempfile::TempDir, PathBuf) {
        let dir = temporary();
        let path = dir.path().join("place");
        std::fs::create_dir(&path).unwrap();
        copy(self.start.path(), &path);
        (dir, path)
    }

    fn run(&self, place: &Path, fate: Option<(usize, Fate)>) -> Run {
        tracer::run(&self.command(place), place, fate)
    }

    /// Runs it without harm: the calls that it makes, and what is there at the end.
    fn undisturbed(&self) -> (Vec<Call>, BTreeMap<PathBuf, Vec<u8>>) {
        let (_dir, place) = self.place();
        let run = self.run(&place, None);
        assert_eq!(run.status, Some(0), "{}", run.stderr);
        check(&place, "undisturbed");
        collect(&place);
        (run.calls, without_times(&place, snapshot(&place)))
    }

    /// Does it again, and compares.
    fn again(&self, place: &Path, expected: &BTreeMap<PathBuf, Vec<u8>>, when: &str) {
        let command = self.command(place);
        let output = std::process::Command::new(&command[0]).args(&command[1..]).output().unwrap();
        assert!(output.status.success(), "{when}: {}", String::from_utf8_lossy(&output.stderr));
        check(place, when);
        collect(place);
        let found = without_times(place, snapshot(place));
        let names = |of: &BTreeMap<PathBuf, Vec<u8>>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(expected), "{when}");
        assert!(found == *expected, "{when}: contents differ");
    }

    /// Kills the program at every call in turn.
    fn survives_being_killed(&self) {
        let (calls, expected) = self.undisturbed();
        let mut number = 0;
        loop {
            let (dir, place) = self.place();
            let run = self.run(&place, Some((number, Fate::Kill)));
            if run.status == Some(0) {
                break;
            }
            let last = run.calls.last();
            let when = format!("killed before call {number}, after {last:?}");
            assert!(run.signal.is_some(), "{when}: {:?}, {}", run.status, run.stderr);
            for loss in [Loss::Data, Loss::Names] {
                let copied = dir.path().join(format!("{loss:?}"));
                copy(&place, &copied);
                cut(&run.calls, &place, &copied, loss);
                let when = format!("{when}, lost {loss:?}");
                if !self.damaged {
                    collect(&copied);
                    check(&copied, &when);
                }
                self.again(&copied, &expected, &when);
            }
            if !self.damaged {
                check(&place, &when);
                collect(&place);
                check(&place, &when);
            }
            self.again(&place, &expected, &when);
            number += 1;
        }
        // Threads may take turns differently each time, but not make other calls.
        assert!(number + 2 >= calls.len(), "{number} of {} calls", calls.len());
    }

    /// Makes every call fail in turn.
    fn survives_errors(&self) {
        let (calls, expected) = self.undisturbed();
        for (number, call) in calls.iter().enumerate() {
            let (_dir, place) = self.place();
            let run = self.run(&place, Some((number, Fate::Fail)));
            let when = format!("call {number} failed, as {call:?}");
            assert!(!run.stderr.contains("panicked"), "{when}: {}", run.stderr);
            match run.status {
                // It went another way, or did without.
                Some(0) => {}
                // The check found what is left.
                Some(3) if self.damaged => {}
                Some(1) => assert!(run.stderr.contains("error: "), "{when}: {}", run.stderr),
                _ => panic!("{when}: {run:?}"),
            }
            if !self.damaged {
                check(&place, &when);
            }
            self.again(&place, &expected, &when);
        }
    }
}

/// The repository of a place, unless the crash came before there was one.
fn repository(place: &Path) -> Option<Repository> {
    let path = place.join("repo");
    path.join("meta.json").exists().then(|| Repository::open(&path).unwrap())
}

/// The files of a place, without the times that a publication writes into a tree.
fn without_times(place: &Path, mut files: BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<PathBuf, Vec<u8>> {
    if let Some(summary) = files.get_mut(Path::new("tree/summary.json")) {
        *summary = format!("{:?}", whole(&place.join("tree"), "in the end").0.images).into_bytes();
        files.remove(Path::new("tree/.history.json"));
    }
    files
}

/// The check finds nothing, and a tree that was published is whole.
fn check(place: &Path, when: &str) {
    if place.join("tree").exists() {
        whole(&place.join("tree"), when);
    }
    let Some(repository) = repository(place) else { return };
    let report = repository.fsck(&FsckOptions::default(), &Silent).unwrap();
    assert!(report.is_clean(), "{when}: {:?}", report.findings);
    assert_eq!(verify_images(&repository).unwrap(), [], "{when}");
}

/// Collects garbage, after which there is none and no temporary file.
fn collect(place: &Path) {
    let Some(mut repository) = repository(place) else { return };
    repository.gc(&GcOptions::default(), &Silent).unwrap();
    let again = repository.gc(&GcOptions::default(), &Silent).unwrap();
    assert_eq!((again.objects_removed, again.temporary_files_removed), (0, 0));
}
