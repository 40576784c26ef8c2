//! `osupdate status`: which deployment runs, which boots next, which one to go back to.

use std::io::{self, Write};

use osupdate_deploy::boot::preferred_by_loader;
use osupdate_deploy::booted::Booted;
use osupdate_deploy::freshness;
use osupdate_deploy::model::{Damaged, Deployment, Model, Role};
use osupdate_deploy::record::Uki;
use osupdate_deploy::survey::Foreign;
use osupdate_deploy::timestamp;
use osupdate_efi::secure_boot::SecureBoot;
use osupdate_efi::variables::EfiVariables;
use serde::Serialize;

use self::signed::{RequirementRow, SignatureRow};

use crate::cli::Context;
use crate::exit::Outcome;
use crate::system;

/// Show the booted, staged and rollback deployments and what boots next
///
/// Needs no privileges; with them it also looks at the boot entries: which deployments the boot loader gave up on, and
/// entries of other systems.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let (booted, survey) = system::look(context)?;
        let foreign = survey.model.entries_known().then_some(survey.listing.foreign);
        let mut report = Report::new(&survey.model, booted.as_ref(), foreign);
        report.preferred_by_loader = preferred_by_loader();
        report.secure_boot = SecureBoot::read(&EfiVariables::default()).ok().map(|state| state.enabled);
        context.output.write(&report, |out| report.human(out))?;
        Ok(Outcome::Done)
    }
}

/// What `--json` prints; a contract.
#[derive(Debug, Serialize)]
struct Report {
    booted: Option<Row>,
    staged: Option<Row>,
    rollback: Option<Row>,
    others: Vec<Row>,
    next: Option<String>,
    preferred_by_loader: Option<String>,
    rollback_queued: bool,
    change_pending: bool,
    change_failed: bool,
    entries_read: bool,
    damaged: Vec<DamagedRow>,
    interrupted: Vec<String>,
    foreign_entries: Option<Vec<ForeignRow>>,
    secure_boot: Option<bool>,
}

/// One deployment.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) roles: Vec<&'static str>,
    pub(super) image: ImageRow,
    requirement: Option<RequirementRow>,
    verified: Option<bool>,
    pinned: bool,
    booted_before: bool,
    sequence: u64,
    created: String,
    kernel: String,
    arguments: Vec<String>,
    image_arguments: Vec<String>,
    uki: Option<UkiRow>,
    boot_entry: Option<String>,
    tries_left: Option<u32>,
}

/// The image of a deployment.
#[derive(Debug, Serialize)]
pub(super) struct ImageRow {
    pub(super) reference: String,
    pub(super) manifest_digest: String,
    pub(super) version: Option<String>,
    title: Option<String>,
    expires: Option<String>,
    pub(super) signatures: Vec<SignatureRow>,
}

/// The UKI that a deployment boots with.
#[derive(Debug, Serialize)]
struct UkiRow {
    path: String,
    addons: Vec<String>,
    local_arguments: Vec<String>,
}

impl UkiRow {
    fn new(uki: &Uki) -> Self {
        Self {
            path: format!("/{}", uki.path),
            addons: uki.addons.iter().map(|addon| addon.name.clone()).collect(),
            local_arguments: uki.local.as_ref().map(|local| local.arguments.clone()).unwrap_or_default(),
        }
    }
}

#[derive(Debug, Serialize)]
struct DamagedRow {
    name: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct ForeignRow {
    id: String,
    title: Option<String>,
}

impl Row {
    pub(super) fn new(model: &Model, deployment: &Deployment, booted: Option<&Booted>) -> Self {
        let Deployment { id, record, booted_before, .. } = deployment;
        let entry = model.entry(id);
        Self {
            id: id.to_string(),
            roles: model.roles(id).into_iter().map(Role::name).collect(),
            image: ImageRow {
                reference: record.image.reference.clone(),
                manifest_digest: record.image.manifest_digest.clone(),
                version: record.image.version.clone(),
                title: record.image.title.clone(),
                expires: record.image.expires.clone(),
                signatures: record.image.signatures.iter().map(SignatureRow::new).collect(),
            },
            requirement: record.origin.requirement.as_ref().map(RequirementRow::new),
            // Only of the mounted root it is known whether the kernel checks it.
            verified: booted.filter(|booted| booted.id == *id).map(|booted| booted.verified),
            pinned: record.pinned,
            booted_before: *booted_before,
            sequence: record.sequence,
            created: record.created.clone(),
            kernel: record.boot.kernel.clone(),
            arguments: record.boot.arguments.clone(),
            image_arguments: record.boot.image_arguments.clone(),
            uki: record.boot.uki.as_ref().map(UkiRow::new),
            boot_entry: entry.map(|entry| entry.file_name.clone()),
            tries_left: entry.and_then(|entry| entry.tries_left),
        }
    }

    /// The lines of one deployment, under a heading.
    fn human(&self, out: &mut dyn Write, heading: &str) -> io::Result<()> {
        let mut heading = heading.to_owned();
        for role in ["pinned", "bad"] {
            if self.roles.contains(&role) {
                heading.push_str(&format!(" ({role})"));
            }
        }
        writeln!(out, "{heading}: {}", self.image.reference)?;
        let title = self.image.title.as_deref().unwrap_or("no title");
        writeln!(out, "  version     {} ({title})", self.image.version.as_deref().unwrap_or("none"))?;
        writeln!(out, "  digest      {}", self.image.manifest_digest)?;
        writeln!(out, "  deployment  {}", &self.id[..12])?;
        match self.verified {
            Some(true) => writeln!(out, "  verified    yes")?,
            Some(false) => writeln!(out, "  verified    NO: the kernel does not check this root file system")?,
            None => {}
        }
        if let Some(UkiRow { path, addons, local_arguments }) = &self.uki {
            writeln!(out, "  boots       {path} of the image, a UKI with sealed kernel arguments")?;
            for addon in addons {
                writeln!(out, "  addon       {addon}")?;
            }
            if !local_arguments.is_empty() {
                writeln!(out, "  arguments   {}, in an addon of this machine", local_arguments.join(" "))?;
            }
        }
        signed::human(out, &self.image.signatures, self.requirement.as_ref())?;
        if let Some(expires) = &self.image.expires {
            let over = freshness::is_over(expires, timestamp::now_secs());
            let note = if over { ": over; osupdate upgrade should have found a newer one" } else { "" };
            writeln!(out, "  expires     {expires}{note}")?;
        }
        if self.roles.contains(&"bad") {
            writeln!(out, "  bad         the boot loader gave up on it after failed boots")?;
        }
        Ok(())
    }
}

impl Report {
    fn new(model: &Model, booted: Option<&Booted>, foreign: Option<Vec<Foreign>>) -> Self {
        let row = |deployment: &Deployment| Row::new(model, deployment, booted);
        let named = [model.booted(), model.staged(), model.rollback()];
        let is_named = |other: &&Deployment| named.iter().flatten().any(|named| named.id == other.id);
        let damaged = |Damaged { name, reason }: &Damaged| DamagedRow { name: name.clone(), reason: reason.clone() };
        let foreign_row = |Foreign { id, title }| ForeignRow { id, title };
        Self {
            booted: named[0].map(row),
            staged: named[1].map(row),
            rollback: named[2].map(row),
            others: model.deployments().iter().filter(|other| !is_named(other)).map(row).collect(),
            next: model.next().map(|next| next.id.to_string()),
            preferred_by_loader: None,
            rollback_queued: model.rollback_queued(),
            change_pending: model.change_pending(),
            change_failed: model.next().is_some_and(|next| model.change_failed(&next.id)),
            entries_read: model.entries_known(),
            damaged: model.damaged.iter().map(damaged).collect(),
            interrupted: model.interrupted.iter().map(ToString::to_string).collect(),
            foreign_entries: foreign.map(|foreign| foreign.into_iter().map(foreign_row).collect()),
            secure_boot: None,
        }
    }

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.booted {
            Some(row) => row.human(out, "Booted")?,
            None => writeln!(out, "Booted: none of these deployments")?,
        }
        for (heading, row) in [("Staged", &self.staged), ("Rollback", &self.rollback)] {
            if let Some(row) = row {
                writeln!(out)?;
                row.human(out, heading)?;
            }
        }
        for row in &self.others {
            writeln!(out)?;
            row.human(out, "Other")?;
        }
        writeln!(out, "\nNext boot: {}", self.next_boot())?;
        if self.change_failed {
            writeln!(
                out,
                "  as before the last change of its kernel arguments or its UKI: the boot loader gave up on that."
            )?;
            writeln!(
                out,
                "  Take bad arguments back with osupdate kargs --delete ARGUMENT, or later images get them, too"
            )?;
        }
        if let Some(entry) = &self.preferred_by_loader {
            writeln!(out, "  but the boot loader was told to start {entry} instead")?;
        }
        let sealed = self.booted.as_ref().is_some_and(|row| row.uki.is_some());
        if sealed && self.secure_boot == Some(false) {
            writeln!(out, "Secure Boot is off: nobody checks who sealed the image")?;
        }
        for row in &self.damaged {
            writeln!(out, "Damaged: {} {}", row.name, row.reason)?;
        }
        for id in &self.interrupted {
            writeln!(out, "Interrupted: deployment {} was not completed; the next change cleans up", &id[..12])?;
        }
        match &self.foreign_entries {
            None => writeln!(out, "Boot entries were not looked at: that needs root privileges")?,
            Some(foreign) if foreign.is_empty() => {}
            Some(foreign) => {
                writeln!(out, "Boot entries of other systems, left alone:")?;
                for entry in foreign {
                    writeln!(out, "  {} {}", entry.id, entry.title.as_deref().unwrap_or_default())?;
                }
            }
        }
        Ok(())
    }

    fn next_boot(&self) -> String {
        let all = [&self.booted, &self.staged, &self.rollback].into_iter().flatten().chain(&self.others);
        let Some(row) = all.into_iter().find(|row| Some(&row.id) == self.next.as_ref()) else {
            return "no deployment has a boot entry; any change repairs that".to_owned();
        };
        let name = format!("{} ({})", row.image.version.as_deref().unwrap_or(&row.image.reference), &row.id[..12]);
        let has = |role| row.roles.contains(&role);
        if has("booted") && self.change_pending {
            format!("the booted deployment, {name}, with kernel arguments or a UKI that it was not started with")
        } else if has("booted") {
            format!("the booted deployment, {name}")
        } else if has("staged") {
            format!("the staged deployment, {name}")
        } else if self.rollback_queued {
            format!("the rollback deployment, {name}")
        } else {
            name
        }
    }
}

pub(crate) mod signed;
#[cfg(test)]
mod tests;
