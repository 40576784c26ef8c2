//! GnuPG with a home of its own, in which keys are made, revoked and left to expire.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) struct Gpg {
    home: tempfile::TempDir,
}

impl Gpg {
    pub(crate) fn new() -> Self {
        // Short: the agent's socket is in it.
        let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap();
        Self { home }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs it with this clock (`20200101T000000`), if one is given, and this input. Returns the output.
    #[track_caller]
    pub(crate) fn run(&self, clock: Option<&str>, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.home());
        command.args(["--batch", "--quiet", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""]);
        if let Some(clock) = clock {
            command.args(["--faked-system-time", &format!("{clock}!"), "--ignore-time-conflict"]);
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "gpg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Makes a key and returns its fingerprint.
    #[track_caller]
    pub(crate) fn key(&self, name: &str, clock: Option<&str>, algorithm: &str, expires: &str) -> String {
        self.make(name, clock, &[], algorithm, expires)
    }

    /// The same with options of gpg.
    #[track_caller]
    pub(crate) fn key_with(&self, name: &str, options: &[&str]) -> String {
        self.make(name, None, options, "ed25519", "never")
    }

    #[track_caller]
    fn make(&self, name: &str, clock: Option<&str>, options: &[&str], algorithm: &str, expires: &str) -> String {
        let user_id = format!("{name} <{name}@example.com>");
        let generate = ["--quick-generate-key", &user_id, algorithm, "sign", expires];
        self.run(clock, &[options, &generate].concat(), b"");
        let list = self.run(clock, &["--with-colons", "--list-keys", &format!("={user_id}")], b"");
        let list = String::from_utf8(list).unwrap();
        let line = list.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    /// Adds a subkey that signs from then on in the key's place.
    #[track_caller]
    pub(crate) fn add_subkey(&self, key: &str, clock: Option<&str>, expires: &str) {
        self.run(clock, &["--quick-add-key", key, "ed25519", "sign", expires], b"");
    }

    /// The public key, in a file.
    #[track_caller]
    pub(crate) fn export(&self, key: &str, arguments: &[&str]) -> PathBuf {
        let exported = self.run(None, &[arguments, &["--export", key]].concat(), b"");
        let path = self.home().join(format!("{key}-{}.pub", arguments.len()));
        fs::write(&path, exported).unwrap();
        path
    }

    /// Signs a document as the tools do.
    #[track_caller]
    pub(crate) fn sign(&self, key: &str, clock: Option<&str>, arguments: &[&str], document: &[u8]) -> Vec<u8> {
        self.run(clock, &[&["--local-user", key], arguments, &["--sign"]].concat(), document)
    }

    /// Revokes a key, with the certificate that was made with it.
    #[track_caller]
    pub(crate) fn revoke(&self, key: &str) {
        let file = self.home().join(format!("openpgp-revocs.d/{key}.rev"));
        let text = fs::read_to_string(file).unwrap().replace(":-----BEGIN", "-----BEGIN");
        self.run(None, &["--import"], text.as_bytes());
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // The agent would go on after its home is gone.
        let status = Command::new("gpgconf").arg("--homedir").arg(self.home()).args(["--kill", "all"]).status();
        drop(status);
    }
}
