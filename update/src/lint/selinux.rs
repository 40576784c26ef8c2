//! Labels of files, where an image has an SELinux policy.

use std::error::Error as _;

use osupdate_core::boot::{BootError, BootOptions, transform_for_boot};
use osupdate_core::selinux::LABEL_XATTR;
use osupdate_core::transform::{XattrFilter, transform_for_oci};
use osupdate_core::tree::Tree;

use super::walk::walk;
use super::{Findings, Image, Lint, Severity};

pub(super) static SELINUX_POLICY: Lint = Lint {
    name: "selinux-policy",
    severity: Severity::Error,
    reason: "files are labelled by the image's policy when it is deployed, and by this one they cannot be",
    fix: "correct the file in /etc/selinux, or install the policy's package again",
};
pub(super) static SELINUX_UNLABELLED: Lint = Lint {
    name: "selinux-unlabelled",
    severity: Severity::Warning,
    reason: "the image's policy has no label for it, so the kernel takes it for unlabeled_t and most programs may not read it",
    fix: "move it to where the policy expects it, or add a rule to file_contexts.local (semanage fcontext -a)",
};

/// Elsewhere policies leave files out on purpose.
const LABELLED: [&str; 2] = ["etc", "usr"];

/// Returns what is booted, with its labels, if it can be made.
pub(super) fn check(image: &Image<'_>, findings: &mut Findings) -> Result<Option<Tree>, BootError> {
    let mut tree = image.tree.clone();
    // Directories that are missing are told elsewhere.
    if transform_for_oci(&mut tree, XattrFilter::AllowlistOnly).is_err() {
        return Ok(None);
    }
    match transform_for_boot(image.files, &mut tree, &BootOptions::default()) {
        Ok(()) => {}
        Err(BootError::Transform(_)) => return Ok(None),
        Err(BootError::Selinux { policy, source }) => {
            let cause = source.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            let path = format!("etc/selinux/{policy}");
            findings.add(&SELINUX_POLICY, path.as_bytes(), format!("{source}{cause}"));
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    // Without a policy nothing has a label.
    if !tree.root.stat.xattrs.contains_key(LABEL_XATTR) {
        return Ok(Some(tree));
    }
    for directory in LABELLED {
        walk(&tree, directory, &mut |path, node| {
            let is_labelled = node.stat().xattrs.contains_key(LABEL_XATTR);
            if !is_labelled {
                findings.add(&SELINUX_UNLABELLED, path, "the policy has no label for it");
            }
            is_labelled
        });
    }
    Ok(Some(tree))
}
