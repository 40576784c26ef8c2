//! [`Machine`]: all that a change of deployments needs.

use osupdate_core::observer::Observer;
use osupdate_core::repository::Repository;

use crate::boot::BootPartition;
use crate::booted::Booted;
use crate::survey::{Survey, SurveyError};
use crate::sysroot::{Lock, Sysroot};

/// A system that is being changed; the lock says that nobody else does.
#[allow(missing_debug_implementations, reason = "an observer has nothing to show")]
pub struct Machine<'a> {
    /// The physical root.
    pub sysroot: &'a Sysroot,
    /// Its repository.
    pub repository: &'a Repository,
    /// Where boot entries and boot files are.
    pub boot: &'a BootPartition,
    /// The deployment that runs.
    pub booted: Option<Booted>,
    /// The right to change all of it.
    _lock: &'a Lock,
    /// Who is told what happens.
    pub observer: &'a dyn Observer,
    /// Where tests stop a change, as a power cut would.
    #[cfg(test)]
    pub(crate) stop_after: Option<Step>,
}

/// What of a change is done and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The repository keeps the image.
    Reference,
    /// The deployment has its new record.
    Record,
    /// Its former /etc is put aside.
    EtcAside,
    /// Its boot files are there.
    Kernel,
    /// Its entry is there: the commit point.
    Entry,
    /// The change is declared finished.
    Finished,
    /// Earlier entries of the same deployment are removed.
    Superseded,
    /// The entries of an unneeded deployment are removed.
    EntryRemoved,
    /// Its boot files are removed.
    KernelRemoved,
    /// Its directory is removed.
    RecordRemoved,
}

impl<'a> Machine<'a> {
    /// Puts together what a change needs.
    pub fn new(
        sysroot: &'a Sysroot,
        repository: &'a Repository,
        boot: &'a BootPartition,
        booted: Option<Booted>,
        lock: &'a Lock,
        observer: &'a dyn Observer,
    ) -> Self {
        Self {
            sysroot,
            repository,
            boot,
            booted,
            _lock: lock,
            observer,
            #[cfg(test)]
            stop_after: None,
        }
    }

    /// Finds out what is there now.
    pub fn survey(&self) -> Result<Survey, SurveyError> {
        Survey::read(self.sysroot, Some(self.boot), self.booted.clone())
    }

    /// Marks the place in a change up to which everything is durable.
    pub(crate) fn reached(&self, step: Step) {
        tracing::debug!("{step:?}");
        #[cfg(test)]
        if self.stop_after == Some(step) {
            std::panic::resume_unwind(Box::new(step));
        }
    }
}
