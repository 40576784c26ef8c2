//! `osupdate image mount`

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use osupdate_core::Digest;
use osupdate_core::mount::attach;
use rustix::fs::CWD;
use std::os::fd::AsFd as _;

use super::open;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};

/// Mount an image of the repository, read-only
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image mount docker://registry.example.com/os:1.2 /mnt
  umount /mnt")]
pub(super) struct Args {
    /// Tag or digest of an image, or the hex digest of an EROFS image
    #[arg(add = completion::images())]
    image: String,

    /// Where to
    directory: PathBuf,

    /// Mount the image as it is booted: with /boot and /sysroot empty
    #[arg(long)]
    boot: bool,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath) -> anyhow::Result<Outcome> {
        let repository = repository.open()?;
        let digest = match self.image.parse::<Digest>() {
            Ok(_) if self.boot => bail!("--boot goes with the name of an image, not with the digest of an EROFS image"),
            Ok(digest) => digest,
            Err(_) => {
                let image = open(&repository, &self.image)?;
                let (digest, what, how) = match self.boot {
                    true => (image.boot_image, "boot image", "osupdate image pull --bootable"),
                    false => (image.image, "EROFS image", "osupdate image pull"),
                };
                digest
                    .ok_or_else(|| anyhow!("{} has no {what} in the repository", self.image))
                    .hint(format!("pull it again with: {how}"))?
            }
        };
        let mount = repository.mount_image(&digest, None).with_context(|| format!("cannot mount {}", self.image))?;
        attach(mount.as_fd(), CWD, &self.directory)?;
        Ok(Outcome::Done)
    }
}
