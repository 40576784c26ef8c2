//! `osupdate repo gc`

use indicatif::BinaryBytes;
use osupdate_core::repository::{GcError, Repository, Root};
use serde::Serialize;

use super::system_roots::SystemRoots;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};

/// Remove everything from the repository that no tag, deployment or other ref needs
///
/// Images that are mounted are kept. In the repository of a system, its deployments and everything that can be booted are kept as well: what the running
/// kernel was started with, boot entries of any program, and unified kernel images. osupdate repo why tells why an object
/// is kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate repo gc --dry-run
  osupdate repo gc --root sha512-of-an-image
  osupdate repo why sha512-of-an-object")]
pub(super) struct Args {
    /// Only count what would be removed
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Keep this stream, image or object as if a ref stood for it; may be repeated
    #[arg(long = "root", short = 'r', visible_alias = "keep", value_name = "NAME", add = completion::kept())]
    roots: Vec<String>,

    #[command(flatten)]
    system: SystemRoots,
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    objects_removed: u64,
    freed_bytes: u64,
    objects_kept: u64,
    streams_removed: u64,
    images_removed: u64,
    refs_removed: u64,
    temporary_files_removed: u64,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let mut repository = if self.dry_run { repository.open()? } else { repository.open_for_change()? };
        let named = self.roots.into_iter().map(|name| Root { name, reason: "the option --root".to_owned() });
        let roots = |repository: &Repository| Ok(named.chain(self.system.of(repository, context)?).collect());
        let result: anyhow::Result<_> = repository.gc_with(self.dry_run, roots, &*context.observer);
        let problem = result.as_ref().err().and_then(|error| error.downcast_ref());
        let report = match problem {
            Some(GcError::Root { .. }) => {
                result.hint("see what else is damaged with: osupdate repo fsck; untag the image that cannot be read")?
            }
            Some(GcError::Busy { .. }) => {
                result.hint("wait until they are done, longer with --lock-timeout SECONDS")?
            }
            _ => result?,
        };
        let report = Report {
            dry_run: self.dry_run,
            objects_removed: report.objects_removed,
            freed_bytes: report.freed_bytes,
            objects_kept: report.objects_kept,
            streams_removed: report.streams_pruned,
            images_removed: report.images_pruned,
            refs_removed: report.refs_pruned,
            temporary_files_removed: report.temporary_files_removed,
        };
        context.output.write(&report, |out| {
            let verb = if report.dry_run { "would remove" } else { "removed" };
            let (objects, size, kept) = (report.objects_removed, BinaryBytes(report.freed_bytes), report.objects_kept);
            writeln!(out, "{verb} {objects} objects ({size}), kept {kept}")?;
            let others = [
                (report.streams_removed, "streams"),
                (report.images_removed, "images"),
                (report.refs_removed, "refs that stood for nothing"),
                (report.temporary_files_removed, "temporary files"),
            ];
            for (number, what) in others.iter().filter(|(number, _)| *number > 0) {
                writeln!(out, "{verb} {number} {what}")?;
            }
            Ok(())
        })?;
        Ok(Outcome::Done)
    }
}
