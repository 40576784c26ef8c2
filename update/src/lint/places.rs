//! Directories that must be there, and those in which an image should have nothing.

use osupdate_core::tree::{Entry, LeafKind, Tree};

use super::files::{self, ReadError};
use super::tmpfiles::{self, Tmpfiles};
use super::walk::{Node, count_files, walk};
use super::{Findings, Image, Lint, Severity};

pub(super) static DIRECTORY_MISSING: Lint = Lint {
    name: "directory-missing",
    severity: Severity::Error,
    reason: "the root is read-only, so nobody can make the directory in which something is mounted at boot",
    fix: "make the directory when building the image: mkdir -p /sysroot",
};
pub(super) static BOOT_CONTENT: Lint = Lint {
    name: "boot-content",
    severity: Severity::Warning,
    reason: "the boot partition is mounted on /boot, so what the image has there is never seen; only UKIs and their addons are \
             taken from there",
    fix: "move the kernel to /usr/lib/modules/<version>/vmlinuz and its initramfs to initramfs.img beside it; remove the rest",
};
pub(super) static RUN_CONTENT: Lint = Lint {
    name: "run-content",
    severity: Severity::Warning,
    reason: "/run is empty at boot, and in every image that is made of this one",
    fix: "let a tmpfiles.d file or the RuntimeDirectory= of a service make it; rm -rf /run/* when building the image",
};
pub(super) static TMP_CONTENT: Lint = Lint {
    name: "tmp-content",
    severity: Severity::Warning,
    reason: "nothing looks for anything in /tmp or /var/tmp: it takes room, and differs from build to build",
    fix: "rm -rf /tmp/* /var/tmp/* when building the image",
};
pub(super) static VAR_CONTENT: Lint = Lint {
    name: "var-content",
    severity: Severity::Warning,
    reason: "/var is the machine's: it is filled from the image when a machine is installed, and no later image changes it",
    fix: "move what belongs to the image to /usr, and let a tmpfiles.d file make what must be in /var; remove caches",
};
pub(super) static LOG_FILE: Lint = Lint {
    name: "log-file",
    severity: Severity::Warning,
    reason: "it tells of the build, not of the machine, and differs from build to build",
    fix: "rm -rf /var/log/* when building the image",
};

/// What something is mounted on, and what an image consists of.
const NEEDED: [&str; 10] = ["boot", "dev", "etc", "proc", "run", "sys", "sysroot", "tmp", "usr", "var"];
/// Where symbolic links cannot be: what boots the image takes them as they are.
const NO_LINKS: [&str; 5] = ["boot", "etc", "sysroot", "usr", "var"];
/// Builders mount these, and leave the places behind.
const OF_BUILDERS: [&str; 2] = ["run/.containerenv", "run/secrets"];

pub(super) fn check(image: &Image<'_>, findings: &mut Findings) -> Result<(), ReadError> {
    needed(image.tree, findings);
    boot(image.tree, findings);
    for (directory, lint) in [("run", &RUN_CONTENT), ("tmp", &TMP_CONTENT), ("var/tmp", &TMP_CONTENT)] {
        emptied(image.tree, directory, lint, findings);
    }
    let texts = files::drop_ins(image.files, image.tree, &tmpfiles::DIRECTORIES, ".conf")?;
    var(image.tree, &Tmpfiles::parse(&texts), findings);
    Ok(())
}

fn needed(tree: &Tree, findings: &mut Findings) {
    for name in NEEDED {
        let detail = match tree.lookup(name) {
            Some(Entry::Directory(_)) => continue,
            Some(Entry::Leaf(id)) if matches!(tree.leaf(*id).kind, LeafKind::Symlink(_)) => {
                if !NO_LINKS.contains(&name) {
                    continue;
                }
                "is a symbolic link, not a directory"
            }
            Some(Entry::Leaf(_)) => "is a file, not a directory",
            None => "is not there",
        };
        findings.add(&DIRECTORY_MISSING, name.as_bytes(), detail);
    }
}

/// `3 files`, `1 file`, `no files`.
fn number_of_files(number: usize) -> String {
    match number {
        0 => "no files".to_owned(),
        1 => "1 file".to_owned(),
        number => format!("{number} files"),
    }
}

fn boot(tree: &Tree, findings: &mut Findings) {
    walk(tree, "boot", &mut |path, node| {
        let text = String::from_utf8_lossy(path);
        let below = text.strip_prefix("boot/").unwrap_or_default();
        let parts: Vec<&str> = below.split('/').collect();
        let is_extra = |name: &str| name.ends_with(".efi.extra.d");
        let is_usual = match (node, &parts[..]) {
            (Node::Directory(_), ["EFI" | "loader"] | ["EFI", "Linux"] | ["loader", "addons"]) => true,
            (Node::Directory(_), ["EFI", "Linux", extra]) => is_extra(extra),
            (Node::Leaf(_), ["EFI", "Linux", name]) => name.ends_with(".efi"),
            (Node::Leaf(_), ["EFI", "Linux", extra, _]) => is_extra(extra),
            (Node::Leaf(_), ["loader", "addons", name]) => name.ends_with(".efi"),
            _ => false,
        };
        if !is_usual {
            findings.add(&BOOT_CONTENT, path, contents(node));
        }
        is_usual
    });
}

fn contents(node: Node<'_>) -> String {
    match node {
        Node::Directory(directory) => format!("a directory with {}", number_of_files(count_files(directory))),
        Node::Leaf(_) => "a file".to_owned(),
    }
}

/// Tells what is in a directory that should be empty. Directories without files do no harm, nor do empty files in /run, on which
/// builders mount their own.
fn emptied(tree: &Tree, directory: &str, lint: &'static Lint, findings: &mut Findings) {
    walk(tree, directory, &mut |path, node| {
        let is_harmless = match node {
            _ if OF_BUILDERS.iter().any(|known| known.as_bytes() == path) => true,
            Node::Directory(child) => count_files(child) == 0,
            Node::Leaf(leaf) => {
                directory == "run" && matches!(&leaf.kind, LeafKind::Regular(content) if content.size() == 0)
            }
        };
        // Of /run each file is looked at.
        if directory == "run" && !is_harmless && matches!(node, Node::Directory(_)) {
            return true;
        }
        if !is_harmless {
            findings.add(lint, path, contents(node));
        }
        false
    });
}

fn var(tree: &Tree, tmpfiles: &Tmpfiles, findings: &mut Findings) {
    walk(tree, "var", &mut |path, node| {
        let text = String::from_utf8_lossy(path);
        let is_made = tmpfiles.makes(&text);
        let in_log = text.starts_with("var/log/");
        match node {
            _ if text == "var/tmp" => return false,
            Node::Directory(_) if in_log && !is_made => {
                findings.add(&VAR_CONTENT, path, "a directory that no tmpfiles.d file makes");
                // For the logs in it.
                return true;
            }
            Node::Directory(_) if is_made || text == "var/log" => return true,
            Node::Directory(directory) => {
                let files = number_of_files(count_files(directory));
                findings.add(&VAR_CONTENT, path, format!("a directory with {files} that no tmpfiles.d file makes"));
            }
            Node::Leaf(leaf) if in_log => match &leaf.kind {
                LeafKind::Regular(content) if content.size() > 0 || !is_made => {
                    findings.add(&LOG_FILE, path, format!("{} bytes", content.size()));
                }
                _ => {}
            },
            Node::Leaf(_) if is_made => {}
            Node::Leaf(_) => findings.add(&VAR_CONTENT, path, "a file that no tmpfiles.d file makes"),
        }
        false
    });
}
