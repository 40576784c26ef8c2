//! The peer.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, str};

use serde_json::Value;

/// cfsctl 0.9.
pub(crate) struct Cfsctl {
    program: PathBuf,
}

impl Cfsctl {
    /// Finds it; says that the test is skipped where it is not.
    pub(crate) fn find() -> Option<Self> {
        let program = match env::var_os("CFSCTL") {
            Some(program) => PathBuf::from(program),
            None => {
                let path = env::var_os("PATH").unwrap_or_default();
                let found = env::split_paths(&path).map(|dir| dir.join("cfsctl")).find(|program| program.is_file());
                let Some(program) = found else {
                    eprintln!("skipped: cfsctl is neither on PATH nor named by CFSCTL");
                    return None;
                };
                program
            }
        };
        let version = Command::new(&program).arg("--version").output().expect("cfsctl starts").stdout;
        let version = str::from_utf8(&version).unwrap();
        assert!(version.starts_with("cfsctl 0.9."), "{} is not cfsctl 0.9 but {version}", program.display());
        Some(Self { program })
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    fn output<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let mut command = Command::new(&self.program);
        command.args(args).env_remove("RUST_LOG");
        command.output().expect("cfsctl starts")
    }

    /// Runs it on a repository without fs-verity; returns what it prints.
    #[track_caller]
    pub(crate) fn run(&self, repository: &Path, args: &[&str]) -> Vec<u8> {
        let result = self.try_run(repository, args);
        result.unwrap_or_else(|error| panic!("cfsctl {}: {error}", args.join(" ")))
    }

    /// Like [`Self::run`], but its failure is returned: what it says.
    pub(crate) fn try_run(&self, repository: &Path, args: &[&str]) -> Result<Vec<u8>, String> {
        let global = ["--insecure".as_ref(), "--repo".as_ref(), repository.as_os_str()];
        let output = self.output(global.into_iter().chain(args.iter().map(OsStr::new)));
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    #[track_caller]
    pub(crate) fn text(&self, repository: &Path, args: &[&str]) -> String {
        String::from_utf8(self.run(repository, args)).unwrap().trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self, repository: &Path, args: &[&str]) -> Value {
        serde_json::from_slice(&self.run(repository, args)).unwrap()
    }

    /// Makes a repository without fs-verity.
    #[track_caller]
    pub(crate) fn init(&self, repository: &Path, algorithm: &str, format: &str) {
        let args = ["init", "--insecure", "--algorithm", algorithm, "--erofs-version", format];
        let output = self.output(args.iter().map(OsStr::new).chain([repository.as_os_str()]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Fails unless all is well in its eyes.
    #[track_caller]
    pub(crate) fn assert_clean(&self, repository: &Path) {
        for args in [&["fsck", "--json"][..], &["oci", "fsck", "--json"]] {
            let report = self.json(repository, args);
            assert_eq!(report["ok"], true, "cfsctl {}: {report:#}", args.join(" "));
        }
    }

    /// Objects and bytes that a collection would remove.
    #[track_caller]
    pub(crate) fn garbage(&self, repository: &Path) -> (u64, u64) {
        let text = self.text(repository, &["gc", "--dry-run"]);
        let numbers = text.lines().find_map(|line| line.strip_prefix("Objects: ")?.split_once(" removed ("));
        let (objects, rest) = numbers.unwrap_or_else(|| panic!("cfsctl gc prints {text}"));
        let bytes = rest.split(' ').next().unwrap();
        (objects.parse().unwrap(), bytes.parse().unwrap())
    }
}
