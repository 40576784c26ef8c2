//! What the comparison found, for people and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use osupdate_core::Digest;
use osupdate_core::diff::{Cause, Causes, Change, Diff, Only};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Side {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) format: Option<u32>,
    pub(super) algorithm: Option<&'static str>,
    pub(super) image_digest: Option<Digest>,
}

#[derive(Serialize)]
pub(super) struct Report {
    equal: bool,
    left: Side,
    right: Side,
    compared: usize,
    incomparable: usize,
    pub(super) nanoseconds_ignored: bool,
    /// Of equal trees: whether they make the same image.
    pub(super) same_image: Option<bool>,
    differences: Vec<Row>,
    /// By field.
    counts: BTreeMap<&'static str, usize>,
    only: Option<&'static str>,
    causes: Vec<CauseRow>,
}

#[derive(Serialize)]
struct Row {
    path: String,
    field: &'static str,
    /// Name of the extended attribute.
    name: Option<String>,
    left: Option<String>,
    right: Option<String>,
}

#[derive(Serialize)]
struct CauseRow {
    cause: &'static str,
    hint: &'static str,
}

/// Longest value that is shown whole.
const SHOWN_BYTES: usize = 64;

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn device(number: u32) -> String {
    format!("{}:{}", number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00)
}

impl Row {
    fn new(path: &[u8], change: &Change) -> Self {
        let lossy = |bytes: &[u8]| Some(text(bytes));
        let link = |other: &Option<Vec<u8>>| Some(other.as_deref().map_or_else(|| "none".to_owned(), text));
        let (left, right) = match change {
            Change::OnlyLeft(kind) => (Some(kind.to_string()), None),
            Change::OnlyRight(kind) => (None, Some(kind.to_string())),
            Change::Kind { left, right } => (Some(left.to_string()), Some(right.to_string())),
            Change::Mode { left, right } => (Some(format!("{left:04o}")), Some(format!("{right:04o}"))),
            Change::Uid { left, right } | Change::Gid { left, right } | Change::LinkCount { left, right } => {
                (Some(left.to_string()), Some(right.to_string()))
            }
            Change::Mtime { left, right } => (Some(left.to_string()), Some(right.to_string())),
            Change::Xattr { left, right, .. } | Change::Payload { left, right } => {
                (left.as_deref().map(text), right.as_deref().map(text))
            }
            Change::Size { left, right } => (Some(left.to_string()), Some(right.to_string())),
            Change::Contents { left, right } => {
                (left.map(|digest| digest.to_string()), right.map(|digest| digest.to_string()))
            }
            Change::Stored { left_inline: true } => (Some("in the image".into()), Some("as an object".into())),
            Change::Stored { left_inline: false } => (Some("as an object".into()), Some("in the image".into())),
            Change::Target { left, right } => (lossy(left), lossy(right)),
            Change::Device { left, right } => (Some(device(*left)), Some(device(*right))),
            Change::HardLink { left, right } | Change::PrimaryName { left, right } => (link(left), link(right)),
            _ => (None, None),
        };
        let name = match change {
            Change::Xattr { name, .. } => Some(text(name)),
            _ => None,
        };
        Self { path: text(path), field: change.field(), name, left, right }
    }

    /// One line: the path, the field, both values.
    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { path, field, name, left, right } = self;
        let shown = |value: &Option<String>| match value {
            None => "missing".to_owned(),
            Some(value) if *field == "contents" => format!("{}…", &value[..value.len().min(16)]),
            Some(value) if value.len() > SHOWN_BYTES => format!("{}… ({} bytes)", &value[..SHOWN_BYTES], value.len()),
            Some(value) if *field == "xattr" => format!("\"{value}\""),
            Some(value) => value.clone(),
        };
        match (*field, left, right) {
            ("path", Some(kind), _) => writeln!(out, "{path}: {kind} only on the left"),
            ("path", None, Some(kind)) => writeln!(out, "{path}: {kind} only on the right"),
            _ => {
                let name = name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
                writeln!(out, "{path}: {field}{name} {} -> {}", shown(left), shown(right))
            }
        }
    }
}

fn only(only: Only) -> (&'static str, &'static str) {
    match only {
        Only::DirectoryTimes => ("directory-times", "Only modification times of directories differ."),
        Only::Times => ("times", "Only modification times differ."),
        Only::Xattrs => ("xattrs", "Only extended attributes differ."),
        Only::TimesAndXattrs => ("times-and-xattrs", "Only modification times and extended attributes differ."),
        Only::Paths => ("paths", "What both sides have is equal; one side lacks the paths above."),
        Only::Metadata => ("metadata", "Paths and contents are equal; only metadata differs."),
        _ => ("other", ""),
    }
}

fn cause(cause: Cause) -> CauseRow {
    let (cause, hint) = match cause {
        Cause::NotTransformed => (
            "not-transformed",
            "one side has the / and /run of a container: compare without --no-transform, or with an image made of it",
        ),
        Cause::BootForm => (
            "boot-form",
            "/boot and /sysroot have contents on one side only: add --bootable if the other one is the image that is booted",
        ),
        Cause::ImplicitDirectories => (
            "implicit-directories",
            "directories that layers do not list, and trees that podman or buildah unpacked, have the time of unpacking: \
             compute digests from the layers, not from a container's file system",
        ),
        Cause::TimesNotKept => (
            "times-not-kept",
            "most files have another time: one side was copied or unpacked without keeping times (cp -a, rsync -a, tar -p keep \
             them)",
        ),
        Cause::NanosecondsLost => (
            "nanoseconds-lost",
            "one side has whole seconds: tar layers without PAX times, and images of version 2, have no nanoseconds",
        ),
        Cause::SelinuxLabels => (
            "selinux-labels",
            "SELinux labels differ: those of the machine that unpacked the tree are not those of the image's policy",
        ),
        Cause::CapabilitiesLost => (
            "capabilities-lost",
            "security.capability is on one side only: unpacking without privileges, or copying without attributes, loses it",
        ),
        Cause::XattrsNotFiltered => (
            "xattrs-not-filtered",
            "extended attributes are on one side only: OCI images keep security.capability, with --xattrs=keep-user-xattrs \
             also user.*",
        ),
        Cause::Umask => {
            ("umask", "one side lacks permissions of group and others: it was unpacked or copied with a umask")
        }
        Cause::Owners => {
            ("owners", "owners differ throughout: it was unpacked by another user, or in a user namespace")
        }
        Cause::HardLinksSplit => (
            "hard-links-split",
            "names of one file are files of their own on one side: a copy without hard links (cp -a and rsync -H keep them)",
        ),
        Cause::MountPoints => (
            "mount-points",
            "paths that a container runtime makes or mounts over are on one side only: use a container that never ran",
        ),
        _ => ("other", ""),
    };
    CauseRow { cause, hint }
}

impl Report {
    pub(super) fn new(left: Side, right: Side, diff: &Diff, causes: &Causes) -> Self {
        let mut counts = BTreeMap::new();
        for one in &diff.differences {
            *counts.entry(one.change.field()).or_default() += 1;
        }
        Self {
            equal: diff.is_empty(),
            left,
            right,
            compared: diff.compared,
            incomparable: diff.incomparable,
            nanoseconds_ignored: false,
            same_image: None,
            differences: diff.differences.iter().map(|one| Row::new(&one.path, &one.change)).collect(),
            counts,
            only: causes.only.map(|is| only(is).0),
            causes: causes.causes.iter().map(|one| cause(*one)).collect(),
        }
    }

    pub(super) fn print(&self, out: &mut dyn Write, summary: bool) -> io::Result<()> {
        if !summary {
            for row in &self.differences {
                row.print(out)?;
            }
        }
        if !self.differences.is_empty() && !summary {
            writeln!(out)?;
        }
        for (label, side) in [("left", &self.left), ("right", &self.right)] {
            let digest = side.image_digest.map(|digest| format!(" {digest}")).unwrap_or_default();
            writeln!(out, "{label:5}  {} ({}{digest})", side.name, side.kind)?;
        }
        if self.incomparable > 0 {
            let reason = match (self.left.algorithm, self.right.algorithm) {
                (Some(left), Some(right)) if left != right => format!("{left} and {right} digests"),
                _ => "no digest on one side".to_owned(),
            };
            writeln!(out, "The contents of {} files cannot be compared: {reason}.", self.incomparable)?;
        }
        if self.nanoseconds_ignored {
            writeln!(out, "Nanoseconds were not compared: images of version 2 have none.")?;
        }
        if self.equal {
            let files = self.compared;
            return match (self.same_image, self.left.format, self.right.format) {
                (_, Some(left), Some(right)) if left != right => writeln!(
                    out,
                    "All {files} files are equal. The images differ in their format: version {left} and version {right}."
                ),
                (Some(false), ..) => writeln!(
                    out,
                    "All {files} files are equal, but not the images: they differ in what only a dumpfile can say."
                ),
                _ => writeln!(out, "All {files} files are equal."),
            };
        }
        let counts: Vec<_> = self.counts.iter().map(|(field, count)| format!("{field} {count}")).collect();
        writeln!(out, "{} differences in {} files: {}", self.differences.len(), self.paths(), counts.join(", "))?;
        if let Some(is) = self.only_text() {
            writeln!(out, "{is}")?;
        }
        for cause in &self.causes {
            writeln!(out, "hint: {}", cause.hint)?;
        }
        Ok(())
    }

    fn paths(&self) -> usize {
        let mut paths: Vec<_> = self.differences.iter().map(|row| &row.path).collect();
        paths.dedup();
        paths.len()
    }

    fn only_text(&self) -> Option<&'static str> {
        let all = [Only::DirectoryTimes, Only::Times, Only::Xattrs, Only::TimesAndXattrs, Only::Paths, Only::Metadata];
        let (_, text) = all.into_iter().map(only).find(|(name, _)| Some(*name) == self.only)?;
        Some(text)
    }
}
