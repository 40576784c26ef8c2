//! What an initramfs must have in it.

use osupdate_core::boot::{InitramfsSearch, search_initramfs};
use osupdate_core::tree::Content;

use super::files::ReadError;
use super::{Findings, Image, Lint, Severity, walk};

pub(super) static INITRAMFS_SETUP_ROOT: Lint = Lint {
    name: "initramfs-setup-root",
    severity: Severity::Error,
    reason: "osupdate-setup-root mounts the image as the root; without it the machine stops in the initramfs",
    fix: "install osupdate with its dracut module in the image, then run dracut --no-hostonly again",
};

/// The program, as the dracut module installs it.
const SETUP_ROOT: &str = "usr/lib/osupdate/osupdate-setup-root";

/// Looks into an initramfs. That it cannot be looked into is no finding.
pub(super) fn check(
    image: &Image<'_>,
    path: &str,
    content: &Content,
    findings: &mut Findings,
) -> Result<(), ReadError> {
    let failed = |source| ReadError { path: walk::text(path.as_bytes()), source };
    let initramfs = image.files.open_content(content).map_err(|error| failed(error.into()))?;
    match search_initramfs(initramfs, SETUP_ROOT).map_err(|error| failed(error.into()))? {
        InitramfsSearch::Found => {}
        InitramfsSearch::Absent => {
            findings.add(&INITRAMFS_SETUP_ROOT, path.as_bytes(), format!("has no /{SETUP_ROOT}"));
        }
        InitramfsSearch::Unknown => {
            tracing::debug!("/{path} is compressed in a way that is not known here, so it is not looked into");
        }
    }
    Ok(())
}
