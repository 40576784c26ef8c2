//! Signing images as their makers do: OpenPGP keys of GnuPG, used by skopeo.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::tool;

/// A key pair without a passphrase, in a home directory of GnuPG.
#[derive(Debug)]
pub struct SigningKey {
    home: PathBuf,
    fingerprint: String,
}

impl SigningKey {
    /// The key in this directory, made if there is none. GnuPG wants a short path: its agent listens there.
    pub fn get(home: &Path, user_id: &str) -> Result<Self> {
        if !home.join("pubring.kbx").exists() {
            fs::create_dir_all(home).with_context(|| format!("making {}", home.display()))?;
            fs::set_permissions(home, fs::Permissions::from_mode(0o700))?;
            tool::run(gpg(home).args(["--quick-generate-key", user_id, "rsa3072", "sign", "never"]))
                .context("making a key (Debian package gnupg)")?;
        }
        let listing = tool::run(gpg(home).args(["--with-colons", "--list-keys"]))?;
        let fingerprint =
            listing.lines().find_map(|line| line.strip_prefix("fpr:")?.split(':').find(|field| !field.is_empty()));
        Ok(Self { home: home.to_owned(), fingerprint: fingerprint.context("GnuPG lists no key")?.to_owned() })
    }

    /// In upper-case hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Writes the public key, in the form that policies take.
    pub fn export(&self, path: &Path) -> Result<()> {
        tool::run(gpg(&self.home).arg("--output").arg(path).args(["--export", &self.fingerprint]))?;
        Ok(())
    }

    /// A command that finds the key by its fingerprint.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("GNUPGHOME", &self.home);
        command
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        // It would stay for ever; that it has ended already is no error.
        let killed = Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "gpg-agent"]).status();
        if let Err(error) = killed {
            eprintln!("cannot end the agent of GnuPG: {error}");
        }
    }
}

fn gpg(home: &Path) -> Command {
    let mut command = Command::new("gpg");
    command.args(["--batch", "--quiet", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""]);
    command.arg("--homedir").arg(home);
    command
}
