//! Decisions that need no look at the disk: what staging an image means here, and where a rollback goes.

use osupdate_record::{DeploymentId, Uki};
use thiserror::Error;

use crate::model::Model;

/// What staging an image means, given the deployments that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staging {
    /// The image runs and boots next: nothing to do.
    Current,
    /// The image runs but another deployment would boot next: the running one is put first again.
    KeepBooted,
    /// It is staged already, with the running system's /etc; or it runs, and its kernel arguments or its UKI were changed since it
    /// was started.
    Staged,
    /// It was tried and the loader gave up on it.
    Failed,
    /// There is a deployment of it: it becomes the next one, with its /etc carried anew from the running system.
    Again,
    /// It runs or is staged, and now comes with another UKI for the same files: the deployment gets the new one.
    Resealed,
    /// There is none yet.
    New,
}

impl Staging {
    /// Decides for the image whose deployment is named `id`.
    pub fn of(model: &Model, id: &DeploymentId) -> Self {
        let Some(existing) = model.get(id) else { return Self::New };
        let is_next = model.next().is_some_and(|next| next.id == *id);
        let carries_current = existing.record.etc.carry_from.as_ref() == model.booted_id();
        match (model.is_booted(id), is_next) {
            (true, true) if model.change_pending() => Self::Staged,
            (true, true) => Self::Current,
            (true, false) => Self::KeepBooted,
            (false, _) if model.is_bad(id) => Self::Failed,
            (false, true) if !existing.booted_before && carries_current => Self::Staged,
            (false, _) => Self::Again,
        }
    }

    /// The same if its UKI is known, too, which is no part of the image's digest.
    pub fn with_uki(model: &Model, id: &DeploymentId, uki: Option<&Uki>) -> Self {
        let staging = Self::of(model, id);
        let of_image = |uki: &Uki| (uki.object.clone(), uki.addons.clone());
        let same = model.get(id).is_none_or(|known| known.record.boot.uki.as_ref().map(of_image) == uki.map(of_image));
        match staging {
            _ if same => staging,
            Self::Current | Self::KeepBooted | Self::Staged => Self::Resealed,
            Self::Failed | Self::Again | Self::Resealed | Self::New => Self::Again,
        }
    }
}

/// Where a rollback goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// The deployment that will boot next.
    pub target: DeploymentId,
    /// A deployment that was staged and is given up by this.
    pub discards: Option<DeploymentId>,
    /// A rollback was queued already and is taken back.
    pub undoes: bool,
}

/// Why there is no rollback.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RollbackError {
    /// No other deployment ran before.
    #[error("there is nothing to roll back to: no other deployment ran on this machine")]
    Nothing,
    /// All others failed to boot.
    #[error("there is nothing to roll back to: the loader gave up on all other deployments")]
    OnlyBad,
}

impl Rollback {
    /// Decides where a rollback goes now. Twice the same decision in a row toggles.
    pub fn of(model: &Model) -> Result<Self, RollbackError> {
        if let (true, Some(booted)) = (model.rollback_queued(), model.booted()) {
            return Ok(Self { target: booted.id.clone(), discards: None, undoes: true });
        }
        let discards = model.staged().map(|staged| staged.id.clone());
        match model.rollback() {
            Some(target) => Ok(Self { target: target.id.clone(), discards, undoes: false }),
            None => {
                let bad =
                    model.deployments().iter().any(|other| !model.is_booted(&other.id) && model.is_bad(&other.id));
                Err(if bad { RollbackError::OnlyBad } else { RollbackError::Nothing })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{carrying, deployment, entry, id, model};

    #[test]
    fn staging_depends_on_what_is_there() {
        let found = vec![deployment('a', 1, true), deployment('b', 2, true), carrying(deployment('c', 3, false), 'b')];
        let entries = [entry('a', 1, None), entry('b', 2, None), entry('c', 3, Some(3))];
        let running_b = model(found.clone(), 'b', &entries);
        assert_eq!(Staging::of(&running_b, &id('d')), Staging::New);
        assert_eq!(Staging::of(&running_b, &id('c')), Staging::Staged);
        assert_eq!(Staging::of(&running_b, &id('b')), Staging::KeepBooted);
        assert_eq!(Staging::of(&running_b, &id('a')), Staging::Again);
        let running_a = model(found, 'a', &entries);
        assert_eq!(Staging::of(&running_a, &id('c')), Staging::Again, "its /etc would come from another deployment");
    }

    #[test]
    fn other_uki_is_something_new() {
        let uki = |object: &str| Uki { object: object.to_owned(), ..Uki::default() };
        let mut found = vec![deployment('a', 1, true), deployment('b', 2, true)];
        for deployment in &mut found {
            deployment.record.boot.uki = Some(Uki { local: Some(Default::default()), ..uki("old") });
        }
        let running_a = model(found, 'a', &[entry('a', 1, None), entry('b', 2, Some(0))]);
        let staging = |digit, object: &str| Staging::with_uki(&running_a, &id(digit), Some(&uki(object)));
        assert_eq!((staging('a', "old"), staging('a', "new")), (Staging::Current, Staging::Resealed));
        assert_eq!((staging('b', "old"), staging('b', "new")), (Staging::Failed, Staging::Again));
        assert_eq!(staging('c', "new"), Staging::New);
        assert_eq!(Staging::with_uki(&running_a, &id('a'), None), Staging::Resealed);
    }

    #[test]
    fn failed_image_is_known() {
        let found = vec![deployment('a', 1, true), deployment('b', 2, true)];
        let model = model(found, 'a', &[entry('a', 1, None), entry('b', 2, Some(0))]);
        assert_eq!(Staging::of(&model, &id('a')), Staging::Current);
        assert_eq!(Staging::of(&model, &id('b')), Staging::Failed);
        assert_eq!(Rollback::of(&model), Err(RollbackError::OnlyBad));
    }

    #[test]
    fn rollback_toggles() {
        let queue = |a, b| {
            let entries = [entry('a', a, None), entry('b', b, None)];
            Rollback::of(&model(vec![deployment('a', a, true), deployment('b', b, true)], 'b', &entries)).unwrap()
        };
        assert_eq!(queue(1, 2), Rollback { target: id('a'), discards: None, undoes: false });
        assert_eq!(queue(3, 2), Rollback { target: id('b'), discards: None, undoes: true });
        assert_eq!(queue(3, 4), Rollback { target: id('a'), discards: None, undoes: false });
    }

    #[test]
    fn rollback_gives_up_what_was_staged() {
        let found = vec![deployment('a', 1, true), deployment('b', 2, true), carrying(deployment('c', 3, false), 'b')];
        let entries = [entry('a', 1, None), entry('b', 2, None), entry('c', 3, Some(3))];
        let plan = Rollback::of(&model(found, 'b', &entries)).unwrap();
        assert_eq!(plan, Rollback { target: id('a'), discards: Some(id('c')), undoes: false });
    }

    #[test]
    fn only_deployment_has_no_rollback() {
        let alone = model(vec![deployment('a', 1, true)], 'a', &[entry('a', 1, None)]);
        assert_eq!(Rollback::of(&alone), Err(RollbackError::Nothing));
        let with_staged = model(
            vec![deployment('a', 1, true), carrying(deployment('b', 2, false), 'a')],
            'a',
            &[entry('a', 1, None), entry('b', 2, Some(3))],
        );
        assert_eq!(Rollback::of(&with_staged), Err(RollbackError::Nothing), "what never ran is nothing to go back to");
    }
}
