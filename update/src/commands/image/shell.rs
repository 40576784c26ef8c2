//! `osupdate image shell`
//!
//! Three processes, one after the other the same program: this one finds the image and becomes the server, which takes a user
//! namespace of its own and serves the image there through FUSE; the server starts the first process of a process namespace, which
//! makes the image its root and starts the command. All end with the command, or when one of them is killed; and with them
//! their namespaces and mounts.

pub(super) mod init;
mod places;
mod program;
pub(super) mod server;
mod signals;
mod terminal;

use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Error;

use super::fetch_options::FetchOptions;
use super::look::Look;
use super::scratch;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::Outcome;
pub(crate) use program::NotRun;

/// This program, also if it was replaced or removed meanwhile.
const PROGRAM: &str = "/proc/self/exe";
const NAME: &CStr = c"osupdate";

/// Run a command in an image
///
/// A look inside before it is installed, also for users other than root. In a user namespace the user is root of the image, may
/// read all of it, has no privileges, and sees nothing of the machine but the kernel: no files, no processes, and no network unless
/// asked. The image is read-only, each file checked before it is read; /tmp, /run, /var/tmp and /dev/shm are empty and
/// forgotten at the end. Without a command, root's login shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: that of the command; 128 and the number of the signal that ended it; 127 if it is not in the image, 126 if it cannot be
run, 1 if it did not come to that.

Examples:
  osupdate image shell docker://registry.example.com/os:1.2
  osupdate image shell oci-archive:build/os.tar ls -l /usr/lib/modules
  osupdate image shell test dpkg-query --show linux-image-amd64")]
pub(super) struct Args {
    /// Tag or digest of an image, hex digest of an EROFS image, or refs/NAME; or a reference, from which the image is fetched for the
    /// purpose into a temporary repository below $TMPDIR or /var/tmp, if it is not stored
    #[arg(add = completion::images())]
    image: String,

    /// What to run, with its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// The image as it is booted: with /boot and /sysroot empty
    #[arg(long)]
    boot: bool,

    /// Leave it the network of the machine, and the machine's /etc/resolv.conf
    #[arg(long)]
    network: bool,

    #[command(flatten)]
    fetch: FetchOptions,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let look = Look::find(&self.image, self.boot, repository, &self.fetch, context)?;
        let (repository, digest, scratch) = look.hand_over()?;
        // It needs a process without threads.
        let mut server = Command::new(PROGRAM);
        server
            .arg0(OsStr::from_bytes(NAME.to_bytes()))
            .args(["image", "shell-server", "--quiet", "--repo"])
            .arg(repository);
        if let Some(scratch) = &scratch {
            server.arg("--scratch").arg(scratch);
        }
        if self.network {
            server.arg("--network");
        }
        server.arg(digest.to_string()).arg("--").args(self.command);
        let error = server.exec();
        if let Some(scratch) = &scratch {
            scratch::remove(scratch);
        }
        Err(Error::new(error).context("cannot start the server"))
    }
}
