//! The machine that the command runs on: what commands on deployments open first.

use std::path::Path;

use anyhow::Context as _;
use osupdate_core::observer::{Event, Observer};
use osupdate_core::repository::{GcReport, Repository, Root};
use osupdate_deploy::boot::{Access, BootPartition, preferred_by_loader};
use osupdate_deploy::booted::Booted;
use osupdate_deploy::check::Scene;
use osupdate_deploy::machine::Machine;
use osupdate_deploy::record::paths::PHYSICAL_ROOT;
use osupdate_deploy::roots::{self, RootsError};
use osupdate_deploy::survey::Survey;
use osupdate_deploy::sysroot::{Lock, OpenError, Patience, Sysroot};

use crate::cli::Context;
use crate::commands::repository_path::LockTimeout;
use crate::exit::ResultExt as _;

/// What to do where this program has nothing to manage.
const NOT_OSUPDATE_HINT: &str = "install a disk with osupdate install to-disk, and boot it";

/// A running osupdate system, opened for a change.
#[derive(Debug)]
pub(crate) struct System {
    /// The deployment that runs.
    pub(crate) booted: Booted,
    sysroot: Sysroot,
    repository: Repository,
    boot: BootPartition,
    lock: Lock,
}

impl System {
    /// Opens the running system for a change; `purpose` tells others what is going on.
    pub(crate) fn open(
        context: &Context,
        patience: Patience,
        lock_timeout: LockTimeout,
        purpose: &str,
    ) -> anyhow::Result<Self> {
        let (sysroot, lock) = lock(context, patience, purpose)?;
        let booted = Booted::read()?.context("this is not an osupdate system: no composefs image was booted");
        let booted = booted.hint(NOT_OSUPDATE_HINT)?;
        let boot = BootPartition::find(&sysroot, Access::Write).context("cannot open the boot partition")?;
        let repository = sysroot.repository(&lock_timeout.options()).context("cannot open the repository")?;
        if let Some(entry) = preferred_by_loader() {
            let text = format!("the boot loader was told to start {entry}, whatever comes first here");
            context.observer.event(Event::Warning(&text));
        }
        Ok(Self { booted, sysroot, repository, boot, lock })
    }

    /// What changes of deployments work on.
    pub(crate) fn machine<'a>(&'a self, observer: &'a dyn Observer) -> Machine<'a> {
        let booted = Some(self.booted.clone());
        Machine::new(&self.sysroot, &self.repository, &self.boot, booted, &self.lock, observer)
    }

    /// The repository.
    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Collects garbage; keeps what the system needs, whatever the refs say. Nobody else may change the system until it is done.
    pub(crate) fn collect(self, dry_run: bool, observer: &dyn Observer) -> anyhow::Result<GcReport> {
        let Self { sysroot, mut repository, lock: _lock, .. } = self;
        let roots = |repository: &Repository| -> anyhow::Result<_> {
            let mut found = roots_of(sysroot.path(), observer)?;
            found.extend(roots::of_mounts(repository)?);
            Ok(found)
        };
        repository.gc_with(dry_run, roots, observer)
    }
}

/// A running osupdate system that is looked at: nothing of it is changed, not even the note of a lock.
#[derive(Debug)]
pub(crate) struct Look {
    /// Its deployments.
    pub(crate) survey: Survey,
    sysroot: Sysroot,
    repository: Repository,
    boot: Option<BootPartition>,
}

impl Look {
    /// Looks at the running system. Without privileges the boot partition is left out.
    pub(crate) fn open(context: &Context, lock_timeout: LockTimeout) -> anyhow::Result<Self> {
        let sysroot = open()?;
        let booted = Booted::read()?;
        let repository = sysroot.repository(&lock_timeout.options()).context("cannot open the repository")?;
        let (survey, boot) = survey(context, &sysroot, booted)?;
        Ok(Self { survey, sysroot, repository, boot })
    }

    /// What a check compares an image with.
    pub(crate) fn scene(&self) -> Scene<'_> {
        let (sysroot, repository, boot) = (&self.sysroot, &self.repository, self.boot.as_ref());
        Scene { sysroot, repository, boot, model: &self.survey.model }
    }
}

/// Looks at the running system; needs no privileges and changes nothing.
pub(crate) fn look(context: &Context) -> anyhow::Result<(Option<Booted>, Survey)> {
    let sysroot = open()?;
    let booted = Booted::read()?;
    let (survey, _) = survey(context, &sysroot, booted.clone())?;
    Ok((booted, survey))
}

/// Reads what is there, with the boot entries if that is possible.
fn survey(
    context: &Context,
    sysroot: &Sysroot,
    booted: Option<Booted>,
) -> anyhow::Result<(Survey, Option<BootPartition>)> {
    if rustix::process::geteuid().is_root() {
        let seen = BootPartition::find(sysroot, Access::Read)
            .map_err(anyhow::Error::new)
            .and_then(|boot| Ok((Survey::read(sysroot, Some(&boot), booted.clone())?, Some(boot))));
        match seen {
            Ok(seen) => return Ok(seen),
            // The records still tell most of it.
            Err(err) => context.observer.event(Event::Warning(&format!("cannot read the boot entries: {err:#}"))),
        }
    }
    Ok((Survey::read(sysroot, None, booted)?, None))
}

/// What the running system needs of its repository, whatever the refs say: by its kernel, its deployments, and everything
/// that can be booted.
pub(crate) fn roots_of(root: &Path, observer: &dyn Observer) -> Result<Vec<Root>, RootsError> {
    let mut found = roots::of_running_kernel()?;
    found.extend(roots::of_deployments(root)?);
    found.extend(roots::of_boot_partitions(root, observer)?);
    Ok(found)
}

/// Opens the physical root for reading.
pub(crate) fn open() -> anyhow::Result<Sysroot> {
    hinted(Sysroot::open(Path::new(PHYSICAL_ROOT)))
}

/// Opens the physical root for a change and takes the right to make it; `purpose` tells others what is going on.
pub(crate) fn lock(context: &Context, patience: Patience, purpose: &str) -> anyhow::Result<(Sysroot, Lock)> {
    let sysroot = hinted(Sysroot::open_for_change(Path::new(PHYSICAL_ROOT)))?;
    let lock = sysroot.lock(patience, purpose, &*context.observer);
    let lock = lock.hint("wait until it is done, or give --wait to do so here")?;
    Ok((sysroot, lock))
}

/// Makes the physical root writable for this process, if it is mounted read-only.
pub(crate) fn make_writable() -> anyhow::Result<()> {
    hinted(Sysroot::open_for_change(Path::new(PHYSICAL_ROOT))).map(drop)
}

/// Restarts the machine, the way that its service manager does it; not if the boot loader would not start what boots next here, for
/// then nothing is gained, and what restarts by itself would do so for ever.
pub(crate) fn reboot(observer: &dyn Observer) -> anyhow::Result<()> {
    reboot_unless(preferred_by_loader(), observer, || {
        let status = std::process::Command::new("systemctl").arg("reboot").status();
        let status = status.context("cannot run systemctl reboot")?;
        anyhow::ensure!(status.success(), "systemctl reboot failed with {status}");
        Ok(())
    })
}

/// Restarts unless the boot loader was told to start another entry.
fn reboot_unless(
    preferred: Option<String>,
    observer: &dyn Observer,
    restart: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(entry) = preferred else { return restart() };
    let text = format!(
        "not rebooting: the boot loader would start {entry}. Take that back with bootctl set-default \"\" (or, if it was told so for \
         one boot, bootctl set-oneshot \"\"), then reboot"
    );
    observer.event(Event::Warning(&text));
    Ok(())
}

fn hinted<T>(result: Result<T, OpenError>) -> anyhow::Result<T> {
    match &result {
        Err(OpenError::NotRoot) => result.hint("run it as root"),
        Err(OpenError::NotOsupdate { .. }) => result.hint(NOT_OSUPDATE_HINT),
        _ => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Default)]
    struct Warnings(std::sync::Mutex<Vec<String>>);

    impl Observer for Warnings {
        fn event(&self, event: Event<'_>) {
            if let Event::Warning(text) = event {
                self.0.lock().unwrap().push(text.to_owned());
            }
        }
    }

    #[test]
    fn machine_is_not_restarted_into_what_the_boot_loader_was_told_to_start() {
        let (warnings, restarts) = (Warnings::default(), Cell::new(0));
        let reboot = |preferred: Option<&str>| {
            let restart = || {
                restarts.set(restarts.get() + 1);
                Ok(())
            };
            reboot_unless(preferred.map(str::to_owned), &warnings, restart).unwrap();
        };
        reboot(Some("osupdate-aaaaaaaaaaaa-000001.conf"));
        assert_eq!(restarts.get(), 0);
        let told = warnings.0.lock().unwrap().join("\n");
        assert!(told.contains("osupdate-aaaaaaaaaaaa-000001.conf") && told.contains("bootctl set-default"), "{told}");
        reboot(None);
        assert_eq!((restarts.get(), warnings.0.lock().unwrap().len()), (1, 1));
    }
}
