//! `osupdate image mount`

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueHint;
use osupdate_core::mount::{MountOptions, Upper, attach, compose};
use rustix::fs::{CWD, Mode, OFlags, open};

use super::find_erofs;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;

/// Mount an image of the repository
///
/// The mount is read-only, unless --read-write makes changes go to an upper directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image mount docker://registry.example.com/os:1.2 /mnt
  osupdate image mount test /mnt --upperdir changes/upper --workdir changes/work --read-write
  umount /mnt")]
pub(super) struct Args {
    /// Tag or digest of an image, hex digest of an EROFS image, or refs/NAME
    #[arg(add = completion::images())]
    image: String,

    /// Where to
    #[arg(value_hint = ValueHint::DirPath)]
    directory: PathBuf,

    /// Mount the image as it is booted: with /boot and /sysroot empty
    #[arg(long)]
    boot: bool,

    /// Show what was changed in this directory, by an earlier mount with it, in place of what the image has
    #[arg(long, value_name = "DIRECTORY", requires = "workdir", value_hint = ValueHint::DirPath)]
    upperdir: Option<PathBuf>,

    /// Directory for the kernel's own purposes, on the file system of the upper directory
    #[arg(long, value_name = "DIRECTORY", requires = "upperdir", value_hint = ValueHint::DirPath)]
    workdir: Option<PathBuf>,

    /// Allow changes, which go to the upper directory
    #[arg(long, requires = "upperdir")]
    read_write: bool,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath) -> anyhow::Result<Outcome> {
        let repository = repository.open()?;
        let digest = find_erofs(&repository, &self.image, self.boot)?;
        let upper = match (&self.upperdir, &self.workdir) {
            (Some(upper), Some(work)) => Some(Upper { upper: open_directory(upper)?, work: open_directory(work)? }),
            _ => None,
        };
        let options = MountOptions {
            source: format!("composefs:{digest}"),
            verity: repository.verity(),
            upper,
            read_only: !self.read_write,
            id_map: None,
        };
        let mounting = || format!("cannot mount {}", self.image);
        let image = repository.open_image(&digest).with_context(mounting)?;
        let objects = repository.objects_dir().with_context(mounting)?;
        let mount = compose(image.as_fd(), &[objects.as_fd()], &options).with_context(mounting)?;
        attach(mount.as_fd(), CWD, &self.directory)?;
        Ok(Outcome::Done)
    }
}

fn open_directory(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).with_context(|| format!("cannot open the directory {}", path.display()))
}
