//! `osupdate image mount`

use std::error::Error;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{ValueEnum, ValueHint};
use osupdate_core::mount::{MountError, MountOptions, Upper, attach, compose};
use osupdate_core::repository::Repository;
use osupdate_core::{Digest, Event};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;

use super::fetch_options::FetchOptions;
use super::look::Look;
use super::{find_erofs, scratch, serve};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;

/// Mount an image of the repository
///
/// The mount is read-only, unless --read-write makes changes go to an upper directory. Where the kernel may not or cannot mount
/// it, the image is served through FUSE, by a process that ends with the mount: read-only, files checked before they are read.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image mount docker://registry.example.com/os:1.2 /mnt
  osupdate image mount test /mnt --upperdir changes/upper --workdir changes/work --read-write
  osupdate image mount --fuse test ~/look
  osupdate image mount --fuse oci:build/image ~/look
  osupdate image unmount ~/look")]
pub(super) struct Args {
    /// Tag or digest of an image, hex digest of an EROFS image, or refs/NAME; with --fuse also a reference, from which the image is
    /// fetched for the purpose into a temporary repository below $TMPDIR or /var/tmp, if it is not stored
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

    /// Serve it through FUSE: always, never, or auto: where the kernel may not or cannot mount it
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        default_missing_value = "always",
        num_args = 0..=1,
        require_equals = true,
        hide_possible_values = true
    )]
    fuse: Fuse,

    /// Serve it in this process, until the image is unmounted or a signal comes; a line `ready` tells when it can be used
    #[arg(long)]
    foreground: bool,

    /// Leave the session of the terminal as soon as it can be used
    #[arg(long, hide = true, requires = "foreground")]
    detach: bool,

    /// Remove this directory at the end
    #[arg(long, hide = true, requires = "foreground")]
    scratch: Option<PathBuf>,

    #[command(flatten)]
    fetch: FetchOptions,
}

/// When an image is served through FUSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fuse {
    Auto,
    Always,
    Never,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        if self.upperdir.is_some() && self.fuse == Fuse::Always {
            bail!("an image that is served through FUSE takes no upper directory");
        }
        if self.foreground && self.fuse != Fuse::Always {
            bail!("--foreground goes with --fuse only: the kernel needs no process for its mounts");
        }
        let mounting = || format!("cannot mount {}", self.image);
        if self.fuse != Fuse::Always {
            let repository = repository.open()?;
            let digest = find_erofs(&repository, &self.image, self.boot)?;
            let error = match self.mount(&repository, &digest) {
                Ok(()) => return Ok(Outcome::Done),
                Err(error) => error,
            };
            if self.fuse == Fuse::Never || self.upperdir.is_some() || !is_not_possible(&error) {
                return Err(error).with_context(mounting);
            }
            let text = "the kernel may not or cannot mount it, serving it through FUSE";
            context.observer.event(Event::Warning(text));
        }
        let look = Look::find(&self.image, self.boot, repository, &self.fetch, context)?;
        if !self.foreground {
            return serve::background(look, &self.directory).with_context(mounting);
        }
        let (path, digest, fetched) = look.hand_over()?;
        let result = Repository::open(&path)
            .map_err(anyhow::Error::from)
            .and_then(|repository| serve::foreground(repository, &digest, &self.directory, self.detach));
        if let Some(scratch) = self.scratch.or(fetched) {
            scratch::remove(&scratch);
        }
        result.with_context(mounting)?;
        Ok(Outcome::Done)
    }

    /// Lets the kernel mount it.
    fn mount(&self, repository: &Repository, digest: &Digest) -> anyhow::Result<()> {
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
        let image = repository.open_image(digest)?;
        let objects = repository.objects_dir()?;
        let mount = compose(image.as_fd(), &[objects.as_fd()], &options)?;
        Ok(attach(mount.as_fd(), CWD, &self.directory)?)
    }
}

/// Whether the kernel does not permit the mount, or lacks the file system.
fn is_not_possible(error: &anyhow::Error) -> bool {
    let is_mount_error = error.downcast_ref::<MountError>().is_some();
    let errno = |cause: &(dyn Error + 'static)| Errno::from_io_error(cause.downcast_ref::<io::Error>()?);
    is_mount_error && error.chain().filter_map(errno).any(|errno| matches!(errno, Errno::PERM | Errno::NODEV))
}

fn open_directory(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).with_context(|| format!("cannot open the directory {}", path.display()))
}
