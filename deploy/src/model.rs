//! Which deployment is which: pure decisions over what was found on disk and on the boot partition.
//!
//! The deployments are the records below `state/deploy`; boot entries are made from them. An entry tells two things
//! that no record has: whether the loader gave up on the deployment (no tries left), and whether a change that was
//! begun reached its commit point. Everything here works for any number of deployments, and without entries, which an
//! unprivileged reader cannot see.

use osupdate_record::{Deployment as Record, DeploymentId};

use crate::booted::Booted;

/// One deployment as it is on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Its name: the digest of its boot image.
    pub id: DeploymentId,
    /// Its record.
    pub record: Record,
    /// It ran at least once: its /etc exists.
    pub booted_before: bool,
    /// A change that was begun and not declared finished.
    pub unfinished: Option<Unfinished>,
}

/// What a deployment was before a change that was not declared finished.
///
/// The change counts if the boot entry with the record's sequence number exists: that entry is the commit point.
#[derive(Clone, Debug, PartialEq)]
pub enum Unfinished {
    /// It did not exist.
    New,
    /// It had this record.
    Changed(Box<Record>),
}

/// A directory in `state/deploy` that cannot be used as a deployment; reported, never deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Name of the directory.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A boot entry of this system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The deployment that it boots.
    pub deployment: DeploymentId,
    /// Its place in the order.
    pub sequence: u64,
    /// Tries left, if the loader counts its boots.
    pub tries_left: Option<u32>,
    /// Its file name, counter included.
    pub file_name: String,
}

impl Entry {
    /// The loader gave up on it and tries it last.
    pub fn is_bad(&self) -> bool {
        self.tries_left == Some(0)
    }

    /// Place in the loader's menu: the greatest is tried first.
    fn rank(&self) -> (bool, u64) {
        (!self.is_bad(), self.sequence)
    }
}

/// What a deployment is to the machine; one can be several things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The system that runs.
    Booted,
    /// Boots next and never ran before.
    Staged,
    /// Boots next.
    Next,
    /// The newest other one that ran before.
    Rollback,
    /// Kept until unpinned.
    Pinned,
    /// The loader tried it as often as it may and gave up.
    Bad,
}

impl Role {
    /// The role in one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Booted => "booted",
            Self::Staged => "staged",
            Self::Next => "next",
            Self::Rollback => "rollback",
            Self::Pinned => "pinned",
            Self::Bad => "bad",
        }
    }
}

/// Why a deployment is not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It has a role that needs it: booted, next, rollback or pinned.
    Needed,
    /// A deployment that never ran takes its /etc from it.
    CarrySource,
    /// It is newer than what runs and failed to boot: kept so that it is known not to be tried again. Goes first when
    /// space is short.
    Failed,
}

/// All deployments, newest first, and what each of them is.
#[derive(Clone, Debug)]
pub struct Model {
    deployments: Vec<Deployment>,
    entries: Option<Vec<Entry>>,
    booted: Option<Booted>,
    /// Directories that cannot be used.
    pub damaged: Vec<Damaged>,
    /// Deployments whose making was interrupted before the commit point.
    pub interrupted: Vec<DeploymentId>,
}

impl Model {
    /// Settles what was found: a change that did not reach its commit point is taken as not made.
    ///
    /// `entries` are this system's own boot entries, `None` if they could not be read. The order is then that of the
    /// records alone.
    pub fn new(
        found: Vec<Deployment>,
        damaged: Vec<Damaged>,
        booted: Option<Booted>,
        entries: Option<Vec<Entry>>,
    ) -> Self {
        let mut interrupted = Vec::new();
        let mut deployments = Vec::new();
        for mut deployment in found {
            let committed = match &entries {
                _ if deployment.unfinished.is_none() => true,
                Some(entries) => entries
                    .iter()
                    .any(|entry| entry.deployment == deployment.id && entry.sequence == deployment.record.sequence),
                None => false,
            };
            let ran = deployment.booted_before || booted.as_ref().is_some_and(|booted| booted.id == deployment.id);
            match (&deployment.unfinished, committed) {
                (Some(Unfinished::New), false) if !ran => {
                    interrupted.push(deployment.id);
                    continue;
                }
                (Some(Unfinished::Changed(earlier)), false) => deployment.record = (**earlier).clone(),
                _ => {}
            }
            deployments.push(deployment);
        }
        deployments.sort_by(|a, b| b.record.sequence.cmp(&a.record.sequence).then_with(|| a.id.cmp(&b.id)));
        Self { deployments, entries, booted, damaged, interrupted }
    }

    /// All deployments, the highest sequence number first.
    pub fn deployments(&self) -> &[Deployment] {
        &self.deployments
    }

    /// The deployment with this name.
    pub fn get(&self, id: &DeploymentId) -> Option<&Deployment> {
        self.deployments.iter().find(|deployment| deployment.id == *id)
    }

    /// All entries of this system, as far as they could be read.
    pub fn entries(&self) -> &[Entry] {
        self.entries.as_deref().unwrap_or_default()
    }

    /// Whether boot entries could be read.
    pub fn entries_known(&self) -> bool {
        self.entries.is_some()
    }

    /// The entry by which the loader would boot a deployment.
    pub fn entry(&self, id: &DeploymentId) -> Option<&Entry> {
        self.entries.iter().flatten().filter(|entry| entry.deployment == *id).max_by_key(|entry| entry.rank())
    }

    /// Those of one deployment's entries that nothing needs, once its newest has this sequence number. While the newest is
    /// being tried (`counted`), the last one that was good stays, behind it: it may be the only one that boots.
    pub(crate) fn superseded(&self, id: &DeploymentId, sequence: u64, counted: bool) -> Vec<&Entry> {
        let mut older: Vec<_> =
            self.entries().iter().filter(|entry| entry.deployment == *id && entry.sequence != sequence).collect();
        let good = older.iter().filter(|entry| entry.tries_left.is_none()).map(|entry| entry.sequence).max();
        older.retain(|entry| !counted || Some(entry.sequence) != good);
        older
    }

    /// The name that the running system has on its kernel command line, whether or not there is a record.
    pub fn booted_id(&self) -> Option<&DeploymentId> {
        self.booted.as_ref().map(|booted| &booted.id)
    }

    /// The deployment that runs.
    pub fn booted(&self) -> Option<&Deployment> {
        self.get(self.booted_id()?)
    }

    /// The deployment that the loader will choose.
    ///
    /// The highest that is not bad, else the highest. Foreign entries and a default set by the user are not known here.
    pub fn next(&self) -> Option<&Deployment> {
        match &self.entries {
            None => self.deployments.first(),
            Some(_) => self
                .deployments
                .iter()
                .filter_map(|deployment| Some((self.entry(&deployment.id)?.rank(), deployment)))
                .max_by_key(|(rank, _)| *rank)
                .map(|(_, deployment)| deployment),
        }
    }

    /// The deployment that boots next and never ran.
    pub fn staged(&self) -> Option<&Deployment> {
        self.next().filter(|next| !next.booted_before && !self.is_booted(&next.id))
    }

    /// The newest other deployment that ran before and that the loader did not give up on.
    pub fn rollback(&self) -> Option<&Deployment> {
        let current = self.booted_id().or_else(|| Some(&self.next()?.id))?;
        self.deployments.iter().find(|other| other.id != *current && other.booted_before && !self.is_bad(&other.id))
    }

    /// A rollback is queued: another deployment that ran before boots next.
    pub fn rollback_queued(&self) -> bool {
        self.booted.is_some() && self.next().is_some_and(|next| next.booted_before && !self.is_booted(&next.id))
    }

    /// Whether this deployment runs.
    pub fn is_booted(&self, id: &DeploymentId) -> bool {
        self.booted_id() == Some(id)
    }

    /// Whether this deployment runs, and was started with the kernel arguments and the UKI of its record. False also where they were
    /// changed and the loader does not tell what it started.
    pub(crate) fn runs_as_recorded(&self, deployment: &Deployment) -> bool {
        let started = self.booted.as_ref().and_then(|booted| booted.sequence);
        let is_since = |since| started.is_some_and(|started| started >= since);
        self.is_booted(&deployment.id) && deployment.record.boot_since.is_none_or(is_since)
    }

    /// The running deployment boots next, but with something else than it was started with: other kernel arguments, or another
    /// UKI. False also where the loader does not tell what it started. True also if they were changed back since; and, where entries
    /// could not be read, if the loader gave up on the change.
    pub fn change_pending(&self) -> bool {
        let Some(next) = self.next().filter(|next| self.is_booted(&next.id)) else { return false };
        let Some(since) = next.record.boot_since else { return false };
        let started = self.booted.as_ref().and_then(|booted| booted.sequence);
        // Of what the loader gave up the entry before is left.
        started.is_some_and(|started| started < since)
            && self.entry(&next.id).is_none_or(|entry| entry.sequence >= since)
    }

    /// The loader gave up on what was last changed of this deployment, its kernel arguments or its UKI, and starts it by an entry that
    /// it had before.
    pub fn change_failed(&self, id: &DeploymentId) -> bool {
        let Some(Deployment { record, .. }) = self.get(id) else { return false };
        let is_current = |entry: &&Entry| entry.deployment == *id && entry.sequence == record.sequence;
        self.entries().iter().find(is_current).is_some_and(Entry::is_bad) && !self.is_bad(id)
    }

    /// Whether the loader gave up on this deployment.
    pub fn is_bad(&self, id: &DeploymentId) -> bool {
        self.entry(id).is_some_and(Entry::is_bad)
    }

    /// All roles of a deployment.
    pub fn roles(&self, id: &DeploymentId) -> Vec<Role> {
        let is = |deployment: Option<&Deployment>| deployment.is_some_and(|deployment| deployment.id == *id);
        let mut roles = Vec::new();
        let mut add = |holds: bool, role| {
            if holds {
                roles.push(role);
            }
        };
        add(self.is_booted(id), Role::Booted);
        add(is(self.staged()), Role::Staged);
        add(is(self.next()), Role::Next);
        add(is(self.rollback()), Role::Rollback);
        add(self.get(id).is_some_and(|deployment| deployment.record.pinned), Role::Pinned);
        add(self.is_bad(id), Role::Bad);
        roles
    }

    /// Why a deployment is not removed; `None` if it is no longer needed.
    pub fn kept(&self, id: &DeploymentId) -> Option<Kept> {
        let roles = self.roles(id);
        if roles.iter().any(|role| *role != Role::Bad) {
            return Some(Kept::Needed);
        }
        let carries = |deployment: &&Deployment| {
            !deployment.booted_before && deployment.record.etc.carry_from.as_ref() == Some(id)
        };
        let has_role = |deployment: &Deployment| self.roles(&deployment.id).iter().any(|role| *role != Role::Bad);
        if self.deployments.iter().filter(carries).any(has_role) {
            return Some(Kept::CarrySource);
        }
        let booted = self.booted()?;
        let newer = self.get(id)?.record.sequence > booted.record.sequence;
        (newer && self.is_bad(id)).then_some(Kept::Failed)
    }

    /// The deployments that nothing needs, oldest first.
    pub fn unneeded(&self) -> impl Iterator<Item = &Deployment> {
        self.deployments.iter().rev().filter(|deployment| self.kept(&deployment.id).is_none())
    }

    /// The deployments that may go when space is short, oldest first.
    pub fn expendable(&self) -> impl Iterator<Item = &Deployment> {
        self.deployments
            .iter()
            .rev()
            .filter(|deployment| matches!(self.kept(&deployment.id), None | Some(Kept::Failed)))
    }

    /// The sequence number of the next change: above every one in use, so that its entry sorts first.
    pub fn next_sequence(&self) -> u64 {
        let in_records = self.deployments.iter().map(|deployment| deployment.record.sequence);
        let in_entries = self.entries.iter().flatten().map(|entry| entry.sequence);
        in_records.chain(in_entries).max().unwrap_or(0) + 1
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
