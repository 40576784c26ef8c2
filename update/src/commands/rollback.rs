//! `osupdate rollback`: back to the deployment that ran before.

use osupdate_deploy::rollback::rollback;
use serde::Serialize;

use super::repository_path::LockTimeout;
use super::status::signed::{SignatureRow, signed_by};
use super::upgrade::patience;
use crate::cli::Context;
use crate::exit::Outcome;
use crate::system::{self, System};

/// Make the deployment boot next that ran before
///
/// It comes back with the /etc that it had; /var is shared. A staged deployment is given up. A second rollback before a
/// reboot takes the first one back; after the reboot it goes forward again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Reboot when done
    #[arg(long)]
    apply: bool,

    /// Wait for another osupdate that is changing the system, instead of failing
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    lock: LockTimeout,
}

/// What `--json` prints; a contract.
#[derive(Serialize)]
struct Report {
    next: String,
    image_version: Option<String>,
    signatures: Vec<SignatureRow>,
    undone: bool,
    discarded: Option<String>,
    reboot_needed: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let system = System::open(context, patience(self.wait), self.lock, "osupdate rollback")?;
        let machine = system.machine(&*context.observer);
        let done = rollback(&machine)?;
        let image_version = done.record.image.version.clone();
        let report = Report {
            next: done.plan.target.to_string(),
            image_version,
            signatures: done.record.image.signatures.iter().map(SignatureRow::new).collect(),
            undone: done.plan.undoes,
            discarded: done.plan.discards.as_ref().map(ToString::to_string),
            reboot_needed: !done.plan.undoes,
        };
        context.output.write(&report, |out| {
            let name = report.image_version.as_deref().unwrap_or(&done.record.image.reference);
            let id = done.plan.target.short(12);
            if let Some(discarded) = &done.plan.discards {
                writeln!(out, "The staged deployment {} is given up.", discarded.short(12))?;
            }
            match done.plan.undoes {
                true => writeln!(out, "The rollback is taken back: {name} ({id}), which runs, boots next."),
                false => {
                    let signed = signed_by(&report.signatures);
                    writeln!(out, "Next boot: {name} ({id}), {signed}.\nReboot to use it.")
                }
            }
        })?;
        if !done.removed.is_empty() {
            super::gc::collect_quietly(context, system);
        }
        if self.apply && !done.plan.undoes {
            system::reboot(&*context.observer)?;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_is_the_pinned_one() {
        let report = Report {
            next: "a".to_owned(),
            image_version: Some("1".to_owned()),
            signatures: Vec::new(),
            undone: false,
            discarded: None,
            reboot_needed: true,
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"next":"a","image_version":"1","signatures":[],"undone":false,"discarded":null,"reboot_needed":true}"#
        );
    }
}
