//! Where the program is run in tests, and what a run leaves.

use std::path::Path;
use std::process::Command;

use osupdate_core::oci::Platform;
use serde_json::Value;

use crate::layout::Layout;

/// What a run of the program left.
#[must_use]
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Runs a program.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The standard output of a run that must have been successful.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.status, 0, "{}", self.stderr);
        self.stdout
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let value: Value = serde_json::from_str(&self.done()).unwrap();
        assert_eq!(value["version"], 1);
        value
    }

    /// The standard error of a run that must have ended with this status, without anything on standard output.
    #[track_caller]
    pub(crate) fn failed(self, status: i32) -> String {
        assert_eq!((self.status, self.stdout.as_str()), (status, ""), "{}", self.stderr);
        self.stderr
    }
}

/// A directory with a repository `repo` and an OCI layout `image`, in which the program runs.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let mut layout = Layout::create(&place.path().join("image"));
        let base: &[(&str, &[u8])] = &[
            ("usr/lib/modules/6.1/vmlinuz", b"a kernel"),
            ("usr/lib/modules/6.1/initramfs.img", b"an initramfs"),
            ("usr/lib/os-release", b"ID=test\n"),
            ("boot/leftover", b"not booted"),
            ("sysroot/leftover", b"not booted"),
        ];
        let large = [7; 10_000];
        let layers: [&[(&str, &[u8])]; 2] = [base, &[("usr/share/large", &large)]];
        let image = layout.image(&Platform::host().architecture, &layers);
        layout.tag("1", &image);
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn with_repository() -> Self {
        let place = Self::new();
        assert!(place.run(&["repo", "init", "--unverified"]).done().starts_with("made repository repo"));
        place
    }

    /// Runs `osupdate`, with `--repo repo` for the commands that have it.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, &[])
    }

    pub(crate) fn run_with(&self, arguments: &[&str], environment: &[(&str, &Path)]) -> Run {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        if matches!(arguments.first(), Some(&("repo" | "image"))) && !arguments.contains(&"--repo") {
            command.args(["--repo", "repo"]);
        }
        Run::of(&mut command)
    }

    /// Runs `osupdate` with just these arguments.
    pub(crate) fn run_bare(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// `osupdate` with these arguments, to be run here, with nothing of the user who runs the test.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_osupdate"));
        command.args(arguments).current_dir(self.path());
        command.env_clear().env("HOME", self.path()).env("TMPDIR", self.path());
        command
    }
}
