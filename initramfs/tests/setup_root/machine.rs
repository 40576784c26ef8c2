//! A physical root on a loop device, in a mount namespace of its own, and the program run on it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use osupdate_core::erofs::{self, Format};
use osupdate_core::repository::{Repository, Verity};
use osupdate_core::tree::{Content, Directory, Entry, Leaf, LeafKind, Stat, Tree};
use osupdate_core::{Algorithm, Digest};

/// Set in the process that has its own mount namespace.
const INSIDE: &str = "OSUPDATE_TEST_NAMESPACE";

/// Runs the test `name` again in its own mount namespace, in which all mounts are shared, as systemd has them. True in
/// that process; the other one only waits for it.
pub(crate) fn in_own_namespace(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return false;
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "the test failed in its namespace");
    false
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the program came through, and what it said.
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) said: String,
}

/// One line of mountinfo.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) options: String,
    pub(crate) shared_with: Option<String>,
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) super_options: String,
}

/// The machine. Its disk is one ext4 file.
pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &["--make-rshared", "/"]);
        run("mount", &["-t", "tmpfs", "run", "/run"]);
        let disk = dir.path().join("disk");
        fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", disk.to_str().unwrap()]);
        let sysroot = dir.path().join("sysroot");
        fs::create_dir(&sysroot).unwrap();
        run("mount", &["-o", "loop", disk.to_str().unwrap(), sysroot.to_str().unwrap()]);
        let path = sysroot.join("composefs");
        Repository::init(&path, Algorithm::Sha512, Verity::Unverified).unwrap();
        fs::create_dir_all(sysroot.join("state/os/default/var/lib")).unwrap();
        Self { dir }
    }

    /// Where the physical root is mounted, and after a run the new one.
    pub(crate) fn sysroot(&self) -> PathBuf {
        self.dir.path().join("sysroot")
    }

    /// A path below it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.sysroot().join(name)
    }

    /// A file below it, as text.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
    }

    /// Stores an image with the given files in /etc; `usr/bin/tool` has `tool` in an object of its own.
    pub(crate) fn image(&self, etc: &[(&str, &str)], tool: &str) -> Digest {
        let repository = Repository::open(&self.path("composefs")).unwrap();
        let object = repository.put_object(tool.as_bytes()).unwrap();
        let mut tree = Tree { root: directory(0o755), leaves: Vec::new() };
        for name in ["etc", "sysroot", "usr", "var"] {
            tree.root.entries.insert(name.as_bytes().into(), Entry::Directory(directory(0o755)));
        }
        let mut add = |parent: &str, name: &str, content: Content| {
            let id = tree.push_leaf(Leaf::new(stat(0o644), LeafKind::Regular(content)));
            let mut at = &mut tree.root;
            for component in parent.split('/').filter(|component| !component.is_empty()) {
                let entry =
                    at.entries.entry(component.as_bytes().into()).or_insert_with(|| Entry::Directory(directory(0o755)));
                let Entry::Directory(child) = entry else { panic!("{component} is a file") };
                at = child;
            }
            at.entries.insert(name.as_bytes().into(), Entry::Leaf(id));
        };
        add("usr/bin", "tool", Content::object(object.digest, object.size_bytes));
        for (path, text) in etc {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            add(&format!("etc/{parent}"), name, Content::Inline(text.as_bytes().into()));
        }
        repository.put_image(&erofs::write(&tree, Format::V1).unwrap()).unwrap()
    }

    /// Makes the state of a deployment, and its record if there is one to carry from.
    pub(crate) fn deploy(&self, id: &Digest, carry_from: Option<&Digest>) {
        let state = self.path(&format!("state/deploy/{id}"));
        fs::create_dir_all(&state).unwrap();
        symlink("../../os/default/var", state.join("var")).unwrap();
        if let Some(from) = carry_from {
            let record = format!(
                "version = 1\nsequence = 2\ncreated = \"2026-01-01T00:00:00Z\"\n[image]\nreference = \"oci:/os\"\n\
                 manifest_digest = \"sha256:00\"\nconfig_digest = \"sha256:00\"\n[boot]\ndigest = \"00\"\n\
                 kernel = \"6\"\n[etc]\ncarry_from = \"{from}\"\n"
            );
            fs::write(state.join("deployment.toml"), record).unwrap();
        }
    }

    /// Runs the program with this kernel command line, and a configuration file if it is not empty.
    pub(crate) fn boot(&self, cmdline: &str, config: &str) -> Outcome {
        let config_path = self.dir.path().join("conf.toml");
        if !config.is_empty() {
            fs::write(&config_path, config).unwrap();
        }
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_osupdate-setup-root"))
            .arg("--sysroot")
            .arg(self.sysroot())
            .arg("--config")
            .arg(config_path)
            .args(["--cmdline", cmdline])
            .output()
            .unwrap();
        assert!(stdout.is_empty());
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
        let said = String::from_utf8(stderr).unwrap();
        eprintln!("{said}");
        Outcome { success: status.success(), said }
    }

    /// Boots an image of this machine, which has no fs-verity, with the default configuration.
    pub(crate) fn boot_image(&self, image: &Digest) {
        let outcome = self.boot(&argument(image), "");
        assert!(outcome.success, "{}", outcome.said);
    }

    /// Takes the new root away and mounts the disk again, as a machine that starts.
    pub(crate) fn shut_down(&self) {
        let sysroot = self.sysroot();
        let sysroot = sysroot.to_str().unwrap();
        run("umount", &["-R", sysroot]);
        let disk = self.dir.path().join("disk");
        run("mount", &["-o", "loop", disk.to_str().unwrap(), sysroot]);
    }

    /// What is mounted at a path below the sysroot, the topmost.
    pub(crate) fn mount_at(&self, name: &str) -> Option<Mount> {
        let path = if name.is_empty() { self.sysroot() } else { self.path(name) };
        mounts().into_iter().rev().find(|(at, _)| *at == path).map(|(_, mount)| mount)
    }
}

/// All mounts, in the kernel's order.
pub(crate) fn mounts() -> Vec<(PathBuf, Mount)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let parse = |line: &str| {
        let (before, after) = line.split_once(" - ").unwrap();
        let (before, after): (Vec<_>, Vec<_>) = (before.split(' ').collect(), after.split(' ').collect());
        let mount = Mount {
            options: before[5].to_owned(),
            shared_with: before[6..].iter().find_map(|field| field.strip_prefix("shared:")).map(str::to_owned),
            kind: after[0].to_owned(),
            source: after[1].to_owned(),
            super_options: after[2].to_owned(),
        };
        (Path::new(before[4]).to_owned(), mount)
    };
    text.lines().map(parse).collect()
}

/// The kernel argument for an image in a repository without fs-verity.
pub(crate) fn argument(image: &Digest) -> String {
    format!("composefs.digest=?v1-sha512-12:{image}")
}

/// Sets the mode of a file.
pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn stat(mode: u16) -> Stat {
    Stat { mode, mtime_secs: 1_700_000_000, ..Stat::default() }
}

fn directory(mode: u16) -> Directory {
    Directory { stat: stat(mode), ..Directory::default() }
}
