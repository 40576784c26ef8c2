//! `osupdate repo fsck`

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context as _;
use osupdate_core::Event;
use osupdate_core::oci::{ImageFinding, ImageFindingKind, repair_from_image, verify_images};
use osupdate_core::repository::{self, FsckOptions, FsckReport, Namespace, Repository};
use serde::Serialize;

use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::Outcome;
use crate::transport::{self, ImageReference, SourceOptions};

/// Check that everything in the repository is there and is what its name says
///
/// Nothing is changed, unless --repair names a place to get from what is damaged or missing: another repository, from
/// which single objects are copied, or an image, of which those layers are fetched that contain them. Everything is
/// proven by its digest before it takes the place of what is bad. Then all is checked again. Works while the repository
/// is in use. Exits with 3 if something is wrong at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate repo fsck
  osupdate repo fsck --metadata-only --json
  osupdate repo fsck --repair /mnt/other/composefs
  osupdate repo fsck --repair docker://registry.example.com/os:1.2")]
pub(super) struct Args {
    /// Leave out the contents of the objects, which takes most of the time
    #[arg(long)]
    metadata_only: bool,

    /// Get what is damaged or missing from here: the directory of another repository, or an image in a registry, an OCI
    /// layout, an archive, or any other place that image pull knows; may be repeated
    #[arg(long, value_name = "SOURCE")]
    repair: Vec<String>,

    /// Speak HTTP without TLS with the registry
    #[arg(long, requires = "repair")]
    plain_http: bool,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    /// How many findings a repair began with; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    findings_before_repair: Option<usize>,
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
        let repository = if self.repair.is_empty() { repository.open()? } else { repository.open_for_change()? };
        let (mut checked, mut of_images) = self.check(&repository, context)?;
        let before = checked.findings.len() + of_images.len();
        for source in &self.repair {
            if checked.is_clean() && of_images.is_empty() {
                break;
            }
            (checked, of_images) = self.repair_from(&repository, source, checked, context)?;
        }
        let report = Report {
            ok: checked.is_clean() && of_images.is_empty(),
            findings_before_repair: (!self.repair.is_empty()).then_some(before),
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

    fn check(&self, repository: &Repository, context: &Context) -> anyhow::Result<(FsckReport, Vec<ImageFinding>)> {
        let options = FsckOptions { metadata_only: self.metadata_only };
        let mut checked = repository.fsck(&options, &*context.observer)?;
        context.observer.event(Event::Step("checking tagged images"));
        let of_images = match verify_images(repository) {
            // The refs are in disorder, which was found already.
            Err(error) if !checked.is_clean() => {
                let text = format!("the tagged images are not checked: {:#}", anyhow::Error::new(error));
                context.observer.event(Event::Warning(&text));
                Vec::new()
            }
            result => result?,
        };
        // It may be that only the name is missing.
        let images = of_images.iter().filter(|finding| finding.kind == ImageFindingKind::ImageMissing);
        checked.missing_names.extend(images.map(|finding| (Namespace::Images, finding.subject.clone())));
        Ok((checked, of_images))
    }

    /// Repairs and checks again, as long as that brings anything: what is restored may lead to more that is missing.
    fn repair_from(
        &self,
        repository: &Repository,
        source: &str,
        mut checked: FsckReport,
        context: &Context,
    ) -> anyhow::Result<(FsckReport, Vec<ImageFinding>)> {
        let doing = || format!("cannot repair from {source}");
        let source = Source::open(source, self.plain_http).with_context(doing)?;
        loop {
            context.observer.event(Event::Step("repairing"));
            source.repair(repository, &checked, context).with_context(doing)?;
            let (after, of_images) = self.check(repository, context)?;
            let bad = |report: &FsckReport| (report.bad_objects.clone(), report.missing_names.clone());
            if after.is_clean() && of_images.is_empty() || bad(&after) == bad(&checked) {
                return Ok((after, of_images));
            }
            checked = after;
        }
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
        match report.findings_before_repair {
            Some(before @ 1..) if report.ok => {
                return writeln!(out, "{before} findings repaired, nothing is wrong now");
            }
            Some(before @ 1..) => writeln!(out, "there were {before} findings before the repair")?,
            _ => {}
        }
        match report.findings.len() {
            0 => writeln!(out, "nothing is wrong"),
            1 => writeln!(out, "1 thing is wrong"),
            n => writeln!(out, "{n} things are wrong"),
        }
    }
}

/// Where what is bad is taken from.
enum Source {
    Repository(Box<Repository>),
    Image(Box<transport::Source>),
}

impl Source {
    fn open(source: &str, plain_http: bool) -> anyhow::Result<Self> {
        let path = Path::new(source);
        if path.is_dir() {
            return Ok(Self::Repository(Box::new(Repository::open(path)?)));
        }
        let reference: ImageReference = source.parse()?;
        let options = SourceOptions { plain_http, ..SourceOptions::default() };
        Ok(Self::Image(Box::new(transport::open_source(&reference, &options)?)))
    }

    fn repair(&self, repository: &Repository, checked: &FsckReport, context: &Context) -> anyhow::Result<()> {
        let observer = &*context.observer;
        match self {
            Self::Repository(source) => drop(repository.repair_from(source, checked, observer)?),
            Self::Image(source) => drop(repair_from_image(repository, &**source, checked, observer)?),
        }
        Ok(())
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
