//! `osupdate repo fsck`

use std::io::{self, Write};

use osupdate_core::Event;
use osupdate_core::oci::{ImageFinding, verify_images};
use osupdate_core::repository::{self, FsckOptions};
use serde::Serialize;

use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::Outcome;

/// Check that everything in the repository is there and is what its name says
///
/// Nothing is changed. Exits with 3 if something is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate repo fsck
  osupdate repo fsck --metadata-only --json")]
pub(super) struct Args {
    /// Leave out the contents of the objects, which takes most of the time
    #[arg(long)]
    metadata_only: bool,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    has_metadata: bool,
    objects_checked: u64,
    objects_corrupted: u64,
    streams_checked: u64,
    streams_corrupted: u64,
    images_checked: u64,
    images_corrupted: u64,
    broken_links: u64,
    missing_objects: u64,
    temporary_files: Vec<String>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    kind: &'static str,
    /// A path in the repository; of an image: a tag or digest.
    subject: String,
    detail: Option<String>,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let options = FsckOptions { metadata_only: self.metadata_only };
        let repository = repository.open()?;
        let checked = repository.fsck(&options, &*context.observer)?;
        context.observer.event(Event::Step("checking tagged images"));
        let of_images = verify_images(&repository)?;
        let report = Report {
            ok: checked.is_clean() && of_images.is_empty(),
            has_metadata: checked.has_metadata,
            objects_checked: checked.objects_checked,
            objects_corrupted: checked.objects_corrupted,
            streams_checked: checked.streams_checked,
            streams_corrupted: checked.streams_corrupted,
            images_checked: checked.images_checked,
            images_corrupted: checked.images_corrupted,
            broken_links: checked.broken_links,
            missing_objects: checked.missing_objects,
            temporary_files: checked.temporary_files,
            findings: checked
                .findings
                .into_iter()
                .map(Finding::from)
                .chain(of_images.into_iter().map(Finding::from))
                .collect(),
        };
        context.output.write(&report, |out| self.write(&report, out))?;
        Ok(if report.ok { Outcome::Done } else { Outcome::Findings })
    }

    fn write(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        for Finding { kind, subject, detail } in &report.findings {
            match detail {
                Some(detail) => writeln!(out, "{kind}: {subject}: {detail}")?,
                None => writeln!(out, "{kind}: {subject}")?,
            }
        }
        if !report.has_metadata {
            writeln!(out, "meta.json: absent")?;
        }
        let counts = [
            ("objects", report.objects_checked, report.objects_corrupted, self.metadata_only),
            ("streams", report.streams_checked, report.streams_corrupted, false),
            ("images", report.images_checked, report.images_corrupted, false),
        ];
        for (what, checked, corrupted, left_out) in counts {
            match left_out {
                true => writeln!(out, "{what}: not checked")?,
                false => writeln!(out, "{what}: {}/{checked} ok", checked.saturating_sub(corrupted))?,
            }
        }
        if let files @ 1.. = report.temporary_files.len() {
            writeln!(out, "temporary files: {files}, in use or left by a crash; osupdate repo gc removes the latter")?;
        }
        match report.findings.len() {
            0 => writeln!(out, "nothing is wrong"),
            1 => writeln!(out, "1 thing is wrong"),
            n => writeln!(out, "{n} things are wrong"),
        }
    }
}

impl From<repository::Finding> for Finding {
    fn from(finding: repository::Finding) -> Self {
        Self { kind: finding.kind.name(), subject: finding.path, detail: finding.detail }
    }
}

impl From<ImageFinding> for Finding {
    fn from(finding: ImageFinding) -> Self {
        let detail = Some(finding.detail).filter(|detail| !detail.is_empty());
        Self { kind: finding.kind.name(), subject: finding.subject, detail }
    }
}
