//! Secrets: whoever can pull the image has them, and so has every machine.

use osupdate_core::tree::LeafKind;

use super::files::{self, ReadError};
use super::walk::{Node, walk};
use super::{Findings, Image, Lint, Severity};

pub(super) static SSH_HOST_KEY: Lint = Lint {
    name: "ssh-host-key",
    severity: Severity::Error,
    reason: "all machines with the image would have the same SSH identity, and whoever can pull the image can take it on",
    fix: "rm /etc/ssh/ssh_host_* when building the image; let a unit make the keys at the first boot (ssh-keygen -A)",
};
pub(super) static SECRET: Lint = Lint {
    name: "secret",
    severity: Severity::Error,
    reason: "it is meant to be secret, and whoever can pull the image can read it",
    fix: "remove it; mount it while building (RUN --mount=type=secret), or give it to machines as a systemd credential",
};

/// Where keys are that are used, not examples of libraries.
const OF_MACHINES: [&str; 6] = ["etc", "home", "opt", "root", "srv", "var"];
/// No key is larger.
const KEY_MAX_BYTES: u64 = 64 << 10;
/// Files that are secrets or have some, by the end of their paths, and what they are.
const KNOWN: [(&str, &str); 10] = [
    ("var/lib/systemd/credential.secret", "the key of systemd's credentials"),
    ("var/lib/systemd/random-seed", "the seed of random numbers"),
    ("etc/krb5.keytab", "a Kerberos key"),
    ("etc/osupdate/auth.json", "a login to a registry"),
    ("etc/ostree/auth.json", "a login to a registry"),
    ("/.config/containers/auth.json", "a login to a registry"),
    ("/.docker/config.json", "a login to a registry"),
    ("/.netrc", "passwords"),
    ("/.git-credentials", "passwords"),
    ("/.bash_history", "the commands of a user"),
];

pub(super) fn check(image: &Image<'_>, findings: &mut Findings) -> Result<(), ReadError> {
    for directory in OF_MACHINES {
        let mut small_files = Vec::new();
        walk(image.tree, directory, &mut |path, node| {
            if let Node::Leaf(leaf) = node
                && let LeafKind::Regular(content) = &leaf.kind
                && content.size() > 0
            {
                let text = String::from_utf8_lossy(path);
                let name = text.rsplit('/').next().unwrap_or_default();
                if text.starts_with("etc/ssh/") && name.starts_with("ssh_host_") && name.ends_with("_key") {
                    findings.add(&SSH_HOST_KEY, path, "a secret key");
                } else if let Some((_, what)) = KNOWN.iter().find(|(end, _)| text.ends_with(end)) {
                    findings.add(&SECRET, path, *what);
                } else if content.size() <= KEY_MAX_BYTES {
                    small_files.push((path.to_vec(), content));
                }
            }
            true
        });
        for (path, content) in small_files {
            if has_private_key(&files::read(image.files, &path, content, KEY_MAX_BYTES)?) {
                findings.add(&SECRET, &path, "a private key");
            }
        }
    }
    Ok(())
}

/// Whether there is a private key in PEM or in OpenPGP's armor: a line that begins one, of whatever kind.
fn has_private_key(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').any(|line| {
        let line = line.trim_ascii();
        let Some(kind) = line.strip_prefix(b"-----BEGIN ").and_then(|line| line.strip_suffix(b"-----")) else {
            return false;
        };
        kind.ends_with(b"PRIVATE KEY") || kind == b"PGP PRIVATE KEY BLOCK"
    })
}
