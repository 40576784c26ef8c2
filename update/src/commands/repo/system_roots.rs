//! What a system needs of the repository beside what its refs name.

use std::path::Path;

use osupdate_core::observer::Event;
use osupdate_core::repository::{Repository, Root};
use osupdate_deploy::record::paths;
use osupdate_deploy::roots;

use crate::cli::Context;
use crate::exit::ResultExt as _;
use crate::system::roots_of;

/// The `--ignore-boot-entries` option.
#[derive(Debug, clap::Args)]
pub(super) struct SystemRoots {
    /// Do not look for boot entries and unified kernel images: what only they need may be removed
    #[arg(long)]
    ignore_boot_entries: bool,
}

impl SystemRoots {
    /// Images that are mounted, and the roots of the system that the repository belongs to: all, if it is the one that runs; if it is that of another
    /// physical root, its deployments.
    pub(super) fn of(&self, repository: &Repository, context: &Context) -> anyhow::Result<Vec<Root>> {
        let mut found = self.of_system(repository, context)?;
        found.extend(roots::of_mounts(repository)?);
        Ok(found)
    }

    fn of_system(&self, repository: &Repository, context: &Context) -> anyhow::Result<Vec<Root>> {
        let path = repository.path().canonicalize()?;
        if roots::is_repository_of_system(&path) {
            let root = Path::new(paths::PHYSICAL_ROOT);
            if self.ignore_boot_entries {
                return Ok(roots::of_running_kernel()?.into_iter().chain(roots::of_deployments(root)?).collect());
            }
            return roots_of(root, &*context.observer)
                .hint("run it as root; --ignore-boot-entries goes on without, for systems that boot otherwise");
        }
        let Some(root) = path.parent().filter(|_| path.ends_with(paths::REPOSITORY)) else { return Ok(Vec::new()) };
        let found = roots::of_deployments(root)?;
        if !found.is_empty() && !self.ignore_boot_entries {
            let text = "this is the repository of a system that does not run: its boot entries are not known";
            context.observer.event(Event::Warning(text));
        }
        Ok(found)
    }
}
