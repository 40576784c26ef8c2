//! Both sets of tools.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the C tools are.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    tree: Option<PathBuf>,
}

/// What a run left.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Run {
    fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap();
        Self {
            status: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same results, whatever the messages are.
    pub(crate) fn same(&self, other: &Self) -> bool {
        (self.status, &self.stdout) == (other.status, &other.stdout)
    }

    pub(crate) fn show(&self) -> String {
        let text = self.stdout.escape_ascii().to_string();
        format!("status {:?}, {} {:?}", self.status, &text[..text.len().min(2000)], self.stderr)
    }
}

impl Tools {
    /// `None`, with a note, if there are none.
    pub(crate) fn find() -> Option<Self> {
        let tree = env::var_os("OSUPDATE_C_TOOLS").map(PathBuf::from);
        let tools = Self { tree };
        if let Some(tree) = &tools.tree {
            assert!(tree.join("usr/bin/mkcomposefs").exists(), "OSUPDATE_C_TOOLS has no C tools: {}", tree.display());
            return Some(tools);
        }
        let on_path = |directory: PathBuf| directory.join("mkcomposefs").exists();
        if env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(on_path) {
            return Some(tools);
        }
        println!("skipped: mkcomposefs is not installed, and OSUPDATE_C_TOOLS names no tree with it");
        None
    }

    /// A C tool.
    pub(crate) fn c(&self, tool: &str) -> Command {
        let Some(tree) = &self.tree else { return Command::new(tool) };
        // Run by the dynamic linker of the tree: the tools see the files of this machine.
        let first = |paths: &[&str]| paths.iter().map(|path| tree.join(path)).find(|path| path.exists()).unwrap();
        let linker = first(&["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"]);
        let libraries = fs::read_dir(tree.join("usr/lib")).unwrap().map(|entry| entry.unwrap().path());
        let libraries = libraries.filter(|path| path.join("libc.so.6").exists()).collect::<Vec<_>>();
        let mut command = Command::new(linker);
        command.arg("--library-path").arg(&libraries[0]).arg("--argv0").arg(tool);
        command.arg(first(&[&format!("usr/bin/{tool}"), &format!("usr/sbin/{tool}")]));
        command
    }

    /// The same tool as this program has it.
    pub(crate) fn ours(tool: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_osupdate"));
        command.arg0(tool);
        command
    }

    /// Runs both in a directory; theirs is first.
    pub(crate) fn both(&self, tool: &str, arguments: &[&dyn AsRef<OsStr>], directory: &Path) -> (Run, Run) {
        let run = |mut command: Command| {
            command.args(arguments.iter().map(|argument| argument.as_ref())).current_dir(directory);
            Run::of(&mut command)
        };
        (run(self.c(tool)), run(Self::ours(tool)))
    }

    /// Fails unless both leave the same standard output and status.
    #[track_caller]
    pub(crate) fn agree(&self, tool: &str, arguments: &[&str], directory: &Path) -> Run {
        let arguments: Vec<&dyn AsRef<OsStr>> = arguments.iter().map(|argument| argument as _).collect();
        let (theirs, ours) = self.both(tool, &arguments, directory);
        let shown: Vec<_> = arguments.iter().map(|argument| argument.as_ref().display().to_string()).collect();
        assert!(theirs.same(&ours), "{tool} {shown:?}\ntheirs: {}\nours:   {}", theirs.show(), ours.show());
        ours
    }
}
