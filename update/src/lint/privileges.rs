//! Programs with more rights than whoever starts them, and files that anybody may change.

use osupdate_core::tree::{Leaf, LeafKind};

use super::walk::{Node, walk};
use super::{Findings, Image, Lint, Severity};

pub(super) static PRIVILEGED_WRITABLE: Lint = Lint {
    name: "privileged-writable",
    severity: Severity::Error,
    reason: "who may write to a program that runs with other rights has these rights",
    fix: "chmod go-w the file",
};
pub(super) static SET_ID_UNUSUAL: Lint = Lint {
    name: "set-id-unusual",
    severity: Severity::Warning,
    reason: "it runs with the rights of its owner or group, and is not one of the programs that distributions have so",
    fix: "chmod ug-s the file, or remove it; if it is meant to be so, silence it by its path",
};
pub(super) static CAPABILITY_UNUSUAL: Lint = Lint {
    name: "capability-unusual",
    severity: Severity::Warning,
    reason: "it gives rights to whoever starts it, and is not one of the programs that distributions have so",
    fix: "setcap -r the file, or remove it; if it is meant to be so, silence it by its path",
};
pub(super) static WORLD_WRITABLE: Lint = Lint {
    name: "world-writable",
    severity: Severity::Error,
    reason: "any user of a machine may change it",
    fix: "chmod o-w it, or chmod +t if it is a directory for files of all users",
};
pub(super) static DEVICE_NODE: Lint = Lint {
    name: "device-node",
    severity: Severity::Warning,
    reason: "the kernel makes /dev at boot, and elsewhere a device node is a way around the permissions there",
    fix: "rm it when building the image",
};

const SET_ID: u16 = 0o6000;
const STICKY: u16 = 0o1000;
const GROUP_RUNS: u16 = 0o010;
const SET_GROUP_ID: u16 = 0o2000;
const SET_USER_ID: u16 = 0o4000;
const CAPABILITY: &[u8] = b"security.capability";

/// Programs below /usr that distributions install set-uid or set-gid.
const USUAL_SET_ID: &[&str] = &[
    "Xorg.wrap",
    "at",
    "bsd-write",
    "bwrap",
    "camel-lock-helper-1.2",
    "chage",
    "chfn",
    "chrome-sandbox",
    "chsh",
    "crontab",
    "dbus-daemon-launch-helper",
    "doas",
    "dotlockfile",
    "exim4",
    "expiry",
    "fusermount",
    "fusermount3",
    "gpasswd",
    "grub2-set-bootflag",
    "locate",
    "lockdev",
    "mail-lock",
    "mail-touchlock",
    "mail-unlock",
    "mlocate",
    "mount",
    "mount.cifs",
    "mount.nfs",
    "newgidmap",
    "newgrp",
    "newuidmap",
    "ntfs-3g",
    "opensmtpd",
    "pam_extrausers_chkpwd",
    "pam_timestamp_check",
    "passwd",
    "ping",
    "pkexec",
    "plocate",
    "polkit-agent-helper-1",
    "postdrop",
    "postqueue",
    "pppd",
    "screen",
    "sendmail",
    "snap-confine",
    "spice-client-glib-usb-acl-helper",
    "ssh-agent",
    "ssh-keysign",
    "staprun",
    "su",
    "sudo",
    "umount",
    "unix2_chkpwd",
    "unix_chkpwd",
    "userhelper",
    "usernetctl",
    "utempter",
    "wall",
    "write",
];
/// Programs below /usr that distributions install with capabilities.
const USUAL_CAPABILITY: &[&str] = &[
    "arping",
    "clockdiff",
    "dumpcap",
    "fping",
    "gnome-keyring-daemon",
    "gst-ptp-helper",
    "ksgrd_network_helper",
    "kwin_wayland",
    "mtr-packet",
    "newgidmap",
    "newuidmap",
    "ping",
    "rcp",
    "rlogin",
    "rsh",
    "suexec",
    "traceroute6.iputils",
];

pub(super) fn check(image: &Image<'_>, findings: &mut Findings) {
    walk(image.tree, "", &mut |path, node| {
        // Others are mounted there, and /run becomes empty.
        if matches!(path, b"dev" | b"proc" | b"run" | b"sys") {
            return false;
        }
        match node {
            Node::Directory(directory) => {
                let mode = directory.stat.mode;
                if mode & 0o002 != 0 && mode & STICKY == 0 && !in_usr(path) {
                    findings.add(&WORLD_WRITABLE, path, format!("a directory with mode {mode:04o}"));
                }
            }
            Node::Leaf(leaf) => file(path, leaf, findings),
        }
        true
    });
}

/// /usr is read-only on every machine.
fn in_usr(path: &[u8]) -> bool {
    path == b"usr" || path.starts_with(b"usr/")
}

fn file(path: &[u8], leaf: &Leaf, findings: &mut Findings) {
    match leaf.kind {
        LeafKind::Regular(_) => {}
        // A whiteout.
        LeafKind::CharDevice(0) => return,
        LeafKind::CharDevice(_) | LeafKind::BlockDevice(_) => {
            return findings.add(&DEVICE_NODE, path, format!("with mode {:04o}", leaf.stat.mode));
        }
        _ => return,
    }
    let mode = leaf.stat.mode;
    // Without the right to execute, set-gid means something else.
    let set_id = mode & SET_USER_ID != 0 || mode & SET_GROUP_ID != 0 && mode & GROUP_RUNS != 0;
    let has_capability = leaf.stat.xattrs.contains_key(CAPABILITY);
    if (set_id || has_capability) && (mode & 0o002 != 0 || mode & 0o020 != 0 && leaf.stat.gid != 0) {
        findings.add(&PRIVILEGED_WRITABLE, path, format!("mode {mode:04o}, group {}", leaf.stat.gid));
    } else if mode & 0o002 != 0 && !in_usr(path) {
        findings.add(&WORLD_WRITABLE, path, format!("a file with mode {mode:04o}"));
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let is_usual = |names: &[&str]| {
        in_usr(path) && !path.starts_with(b"usr/local/") && names.iter().any(|usual| usual.as_bytes() == name)
    };
    if set_id && !is_usual(USUAL_SET_ID) {
        let of = match mode & SET_ID {
            SET_USER_ID => format!("set-uid, user {}", leaf.stat.uid),
            SET_GROUP_ID => format!("set-gid, group {}", leaf.stat.gid),
            _ => format!("set-uid, user {}, set-gid, group {}", leaf.stat.uid, leaf.stat.gid),
        };
        findings.add(&SET_ID_UNUSUAL, path, of);
    }
    if has_capability && !is_usual(USUAL_CAPABILITY) {
        findings.add(&CAPABILITY_UNUSUAL, path, "has file capabilities");
    }
}
