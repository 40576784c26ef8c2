//! The process that serves the image of a shell.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufReader, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::Context as _;
use osupdate_core::{Digest, erofs};
use osupdate_fuse::{Access, MountOptions, View, mount};
use osupdate_sys::inheritance::unblock;
use osupdate_sys::namespace::{own_processes_of_children, own_users};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, kill_process_group};
use rustix::thread::set_name;

use super::super::scratch;
use super::signals::Receiver;
use super::terminal::Terminal;
use super::{NAME, PROGRAM, places};
use crate::commands::repository_path::RepositoryPath;
use crate::exit::{Outcome, ResultExt as _, one_line};

/// Where the image is mounted, for the server and its children only: a directory that exists everywhere.
pub(super) const ROOT: &str = "/tmp";
/// What the first process tells: the command has been started, or stopped.
pub(super) const STARTED: u8 = b'+';
pub(super) const STOPPED: u8 = b'-';
/// How the names of host and domain name servers are found.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Settings that forbid user namespaces, with the value that does.
const FORBIDDEN: [(&str, &str); 3] = [
    ("user.max_user_namespaces", "0"),
    ("kernel.unprivileged_userns_clone", "0"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
];

/// Serve an image and run a command in it
#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    /// The EROFS image
    erofs: Digest,

    /// What to run
    command: Vec<OsString>,

    #[arg(long)]
    network: bool,

    /// What to remove at the end
    #[arg(long)]
    scratch: Option<PathBuf>,
}

impl Args {
    pub(in super::super) fn run(self, repository: &RepositoryPath) -> anyhow::Result<Outcome> {
        let scratch = self.scratch.clone();
        let mut is_mounted = false;
        let result = self.serve(repository, &mut is_mounted);
        if let Some(scratch) = scratch {
            // It may be below the place of the image. Before that is mounted, the place is the machine's.
            if is_mounted && let Err(errno) = unmount(ROOT, UnmountFlags::DETACH) {
                tracing::debug!("cannot unmount {ROOT}: {errno}, ignoring");
            }
            scratch::remove(&scratch);
        }
        result
    }

    fn serve(self, repository: &RepositoryPath, is_mounted: &mut bool) -> anyhow::Result<Outcome> {
        set_name(NAME).context("cannot tell the name of the process")?;
        // Open before the user is another; the lock keeps the image until the end, since nobody else sees the mount.
        let repository = repository.open()?;
        let image = repository.read_image(&self.erofs)?;
        let (mut tree, _) = erofs::read(&image).context("the image is refused")?;
        drop(image);
        let places = places::prepare(&mut tree);
        if self.network {
            match fs::read(RESOLV_CONF) {
                Ok(text) => places::put_file(&mut tree, RESOLV_CONF, text),
                Err(error) => tracing::debug!("{RESOLV_CONF}: {error}, ignoring"),
            }
        }
        explained(own_users(self.network)).context("cannot make a user namespace")?;
        let options = MountOptions { source: format!("composefs:{}", self.erofs), access: Access::OwnerReadsAll };
        let served = explained(mount(View::new(tree, repository), Path::new(ROOT), &options))?;
        *is_mounted = true;
        thread::spawn(|| {
            if let Err(error) = served.serve() {
                tracing::error!("{}", one_line(&error));
            }
        });
        let receiver = Receiver::start()?;
        unblock(&scratch::ENDING).context("cannot take signals")?;
        own_processes_of_children().context("cannot make a process namespace")?;
        let (messages, sender) = io::pipe().context("cannot make a pipe")?;
        fcntl_setfd(&sender, FdFlags::empty()).context("cannot pass on a pipe")?;
        let terminal = Terminal::in_foreground();
        let mut init = Command::new(PROGRAM);
        init.arg0(OsStr::from_bytes(NAME.to_bytes())).args(["image", "shell-init", "--quiet", "--messages"]);
        init.arg(sender.as_raw_fd().to_string()).args(places.iter().flat_map(|place| ["--place", place]));
        if terminal.is_some() {
            init.arg("--terminal");
        }
        let mut init = init.arg("--").args(self.command).process_group(0).spawn().context("cannot start a process")?;
        drop(sender);
        let group = Pid::from_child(&init);
        let mut terminal = terminal
            .map(|file| Terminal::give(file, group))
            .transpose()
            .context("cannot give the terminal to the command")?;
        // Until its end.
        for message in BufReader::new(messages).bytes() {
            match (message.context("cannot hear from the first process")?, &mut terminal) {
                (STARTED, _) => receiver.forward(move |signal| kill_process_group(group, signal)),
                (STOPPED, Some(terminal)) => terminal.stop().context("cannot stop")?,
                _ => {}
            }
        }
        let status = init.wait().context("cannot wait for the first process")?;
        if let Some(terminal) = terminal {
            terminal.take().context("cannot take back the terminal")?;
        }
        let code = status.code().or_else(|| Some(128 + status.signal()?));
        Ok(Outcome::Program(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
    }
}

/// Says which setting of the machine forbids user namespaces, if one does.
fn explained<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> anyhow::Result<T> {
    let found = || {
        FORBIDDEN.iter().find(|(name, value)| {
            let text = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")));
            text.is_ok_and(|text| text.trim() == *value)
        })
    };
    match result {
        Ok(done) => Ok(done),
        Err(error) => match found() {
            Some((name, value)) => {
                Err(error).hint(format!("this machine forbids it: {name} is {value}; root can change that with sysctl"))
            }
            None => Err(error.into()),
        },
    }
}
