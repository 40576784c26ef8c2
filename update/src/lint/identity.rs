//! What makes one machine different from another, and has no place in an image.

use super::files::{self, ReadError};
use super::{Findings, Image, Lint, Severity};

pub(super) static MACHINE_ID_SET: Lint = Lint {
    name: "machine-id-set",
    severity: Severity::Error,
    reason: "all machines with the image would have the same identity: the same DHCP leases, the same name in every log",
    fix: ": > /etc/machine-id when building the image; each machine makes its own at its first boot",
};
pub(super) static MACHINE_ID_MISSING: Lint = Lint {
    name: "machine-id-missing",
    severity: Severity::Warning,
    reason: "without it the first boot sets all units to their presets, and a machine with a read-only /etc does not boot",
    fix: ": > /etc/machine-id when building the image",
};
pub(super) static BUILDER_LEFTOVER: Lint = Lint {
    name: "builder-leftover",
    severity: Severity::Warning,
    reason: "the tool that built the image left an empty file where it had mounted its own: no name is resolved by it",
    fix: "remove it in a build step of its own, or write what it should be: the link to systemd-resolved for resolv.conf",
};

const MACHINE_ID: &str = "etc/machine-id";
/// An older copy, which is read where the first one has nothing.
const DBUS_MACHINE_ID: &str = "var/lib/dbus/machine-id";
const MOUNTED_BY_BUILDERS: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

pub(super) fn check(image: &Image<'_>, findings: &mut Findings) -> Result<(), ReadError> {
    if image.tree.lookup(MACHINE_ID).is_none() {
        findings.add(&MACHINE_ID_MISSING, MACHINE_ID.as_bytes(), "is not there");
    }
    for path in [MACHINE_ID, DBUS_MACHINE_ID] {
        let Some(content) = image.tree.regular_file(path) else { continue };
        let text = files::read(image.files, path.as_bytes(), content, 64)?;
        let text = text.trim_ascii();
        if !text.is_empty() && text != b"uninitialized" {
            findings.add(&MACHINE_ID_SET, path.as_bytes(), "has an identity");
        }
    }
    for path in MOUNTED_BY_BUILDERS {
        if image.tree.regular_file(path).is_some_and(|content| content.size() == 0) {
            findings.add(&BUILDER_LEFTOVER, path.as_bytes(), "is empty");
        }
    }
    Ok(())
}
