//! What makes the digest of an image depend on who computes it, or on tools that cannot read it.

use super::walk::walk;
use super::{Findings, Image, Lint, Severity};

pub(super) static DIRECTORY_WITHOUT_ENTRY: Lint = Lint {
    name: "directory-without-entry",
    severity: Severity::Warning,
    reason: "no layer has the directory itself: tools give it an owner, a mode and a time of their own, so that a digest that \
             was computed while building is another one; some refuse the image",
    fix: "let the tool that makes the layer write entries for directories; in a Containerfile: RUN touch DIRECTORY",
};
pub(super) static DIRECTORY_TIME_OPEN: Lint = Lint {
    name: "directory-time-open",
    severity: Severity::Warning,
    reason: "a layer changes what is in the directory without an entry for it, so its time is whatever the tool makes of it, and \
             a digest that was computed while building is another one",
    fix: "let the tool that makes the layer write entries for directories; in a Containerfile: RUN touch DIRECTORY",
};
pub(super) static NAME_NOT_UTF8: Lint = Lint {
    name: "name-not-utf8",
    severity: Severity::Warning,
    reason: "many tools refuse such names or write others, so that the file is lost or the digest is another one",
    fix: "rename the file",
};

pub(super) fn check(image: &Image<'_>, findings: &mut Findings) {
    for loose in image.loose {
        let entry = String::from_utf8_lossy(&loose.entry);
        let lint = if loose.is_described { &DIRECTORY_TIME_OPEN } else { &DIRECTORY_WITHOUT_ENTRY };
        // The lowest layer is the first one for people.
        let detail = format!("layer {} has {entry} in it", loose.layer + 1);
        findings.add(lint, &loose.path, detail);
    }
    walk(image.tree, "", &mut |path, _| {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if std::str::from_utf8(name).is_err() {
            findings.add(&NAME_NOT_UTF8, path, "is not UTF-8");
        }
        true
    });
}
