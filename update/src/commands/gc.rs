//! `osupdate gc`: removes deployments that nothing needs, and what only they used.

use indicatif::BinaryBytes;
use osupdate_core::observer::Event;
use osupdate_deploy::cleanup;
use serde::Serialize;

use super::repository_path::LockTimeout;
use super::upgrade::patience;
use crate::cli::Context;
use crate::exit::Outcome;
use crate::system::System;

/// Remove deployments that nothing needs, and files of the repository that nothing refers to
///
/// Kept are the booted, next, rollback and pinned deployments, tagged images, images that are mounted, and every image
/// that a boot entry or a unified kernel image of the boot partition names, whoever made it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Wait for another osupdate that is changing the system, instead of failing
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    lock: LockTimeout,
}

/// What `--json` prints; a contract.
#[derive(Serialize)]
struct Report {
    dry_run: bool,
    deployments: Vec<String>,
    objects_removed: u64,
    freed_bytes: u64,
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let system = System::open(context, patience(self.wait), self.lock, "osupdate gc")?;
        let machine = system.machine(&*context.observer);
        let removed = if self.dry_run {
            let survey = machine.survey()?;
            survey.model.unneeded().map(|deployment| deployment.id.clone()).collect()
        } else {
            cleanup::repair(&machine)?;
            cleanup::remove_unneeded(&machine)?
        };
        let collected = system.collect(self.dry_run, &*context.observer)?;
        let report = Report {
            dry_run: self.dry_run,
            deployments: removed.iter().map(ToString::to_string).collect(),
            objects_removed: collected.objects_removed,
            freed_bytes: collected.freed_bytes,
        };
        context.output.write(&report, |out| {
            let verb = if report.dry_run { "Would remove" } else { "Removed" };
            writeln!(
                out,
                "{verb} {} deployments and {} objects, {}.",
                report.deployments.len(),
                report.objects_removed,
                BinaryBytes(report.freed_bytes)
            )?;
            if report.dry_run && !report.deployments.is_empty() {
                writeln!(out, "Objects that only these deployments use are not counted.")?;
            }
            Ok(())
        })?;
        Ok(Outcome::Done)
    }
}

/// Collects garbage at the end of a change that is done: a failure is told and changes nothing.
pub(super) fn collect_quietly(context: &Context, system: System) {
    match system.collect(false, &*context.observer) {
        Ok(report) => {
            let text = format!("freed {} in the repository", BinaryBytes(report.freed_bytes));
            context.observer.event(Event::Step(&text));
        }
        Err(err) => {
            let text = format!("files of the removed deployments stay until osupdate gc: {err:#}");
            context.observer.event(Event::Warning(&text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_is_the_pinned_one() {
        let report = Report { dry_run: true, deployments: vec!["a".to_owned()], objects_removed: 1, freed_bytes: 2 };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"dry_run":true,"deployments":["a"],"objects_removed":1,"freed_bytes":2}"#
        );
    }
}
