//! The process that serves an image through FUSE.

use std::env;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, bail};
use osupdate_core::repository::Repository;
use osupdate_core::{Digest, erofs};
use osupdate_fuse::{Access, MountError, MountOptions, View, mount};
use osupdate_sys::inheritance::unblock;
use rustix::process::Signal;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use signal_hook::iterator::Signals;

use super::look::Look;
use super::scratch::ENDING;
use crate::exit::{Outcome, ResultExt as _};

/// What tells that the image can be used.
const READY: &str = "ready";
/// Where systemd's journal takes the standard error of services.
const JOURNAL: &str = "/run/systemd/journal/stdout";
/// Name of the sender and the priority of its lines, "warning"; no unit, no prefixes, and to nobody else.
const JOURNAL_HEADER: &str = "osupdate\n\n4\n0\n0\n0\n0\n";

/// Starts a process that serves an image, and waits until it can be used. If it fails, so do we, with its status: it has said why.
pub(super) fn background(look: Look, directory: &Path) -> anyhow::Result<Outcome> {
    let program = env::current_exe().context("cannot find the program itself")?;
    let (repository, digest, scratch) = look.hand_over()?;
    let mut server = Command::new(program);
    server.args(["image", "mount", "--fuse", "--foreground", "--detach", "--repo"]).arg(repository);
    if let Some(scratch) = scratch {
        server.arg("--scratch").arg(scratch);
    }
    server.arg(digest.to_string()).arg(directory).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut server = server.spawn().context("cannot start the server")?;
    let stdout = server.stdout.take().context("the server has no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).context("cannot hear from the server")?;
    if line.trim_end() == READY {
        return Ok(Outcome::Done);
    }
    let status = server.wait().context("cannot wait for the server")?;
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code @ 1..) => Ok(Outcome::Program(code)),
        _ => bail!("its server has ended: {status}"),
    }
}

/// Serves an image until it is unmounted, also by a signal.
pub(super) fn foreground(
    repository: Repository,
    digest: &Digest,
    directory: &Path,
    detach: bool,
) -> anyhow::Result<()> {
    let directory =
        &directory.canonicalize().with_context(|| format!("cannot find the directory {}", directory.display()))?;
    let repository = Arc::new(repository);
    let image = repository.read_image(digest)?;
    let (tree, _) = erofs::read(&image).context("the image is refused")?;
    drop(image);
    let access = if rustix::process::geteuid().is_root() { Access::Everyone } else { Access::Owner };
    let options = MountOptions { source: format!("composefs:{digest}"), access };
    // From here on a signal unmounts.
    let mut signals = Signals::new(ENDING.map(Signal::as_raw)).context("cannot wait for signals")?;
    unblock(&ENDING).context("cannot take signals")?;
    let mounted = mount(View::new(tree, repository.clone()), directory, &options);
    let served = match mounted {
        Err(MountError::Mount { .. }) if access == Access::Owner => {
            mounted.hint("users other than root need fusermount3, in the package fuse3, and must own the directory")?
        }
        _ => mounted?,
    };
    // Collections of garbage take the mount as a reason to keep the image.
    repository.unlock()?;
    let ender = served.ender();
    thread::spawn(move || {
        for _ in signals.forever() {
            if let Err(error) = ender.end() {
                tracing::warn!("{}", crate::exit::one_line(&error));
            }
        }
    });
    let mut stdout = io::stdout();
    // Who started it may be gone; it serves on.
    if let Err(error) = writeln!(stdout, "{READY}").and_then(|()| stdout.flush()) {
        tracing::debug!("cannot say that it is ready: {error}, ignoring");
    }
    if detach {
        leave_terminal().context("cannot leave the terminal")?;
    }
    Ok(served.serve()?)
}

/// Becomes a process that no terminal ends and that holds no directory; warnings go to the journal, if there is one.
fn leave_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    env::set_current_dir("/")?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    let log = match UnixStream::connect(JOURNAL) {
        Ok(mut journal) => {
            journal.write_all(JOURNAL_HEADER.as_bytes())?;
            OwnedFd::from(journal)
        }
        Err(_) => nothing.try_clone()?.into(),
    };
    dup2_stdin(&nothing)?;
    dup2_stdout(&nothing)?;
    dup2_stderr(&log)?;
    Ok(())
}
