//! The first process of the namespace that a command is run in.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use osupdate_sys::forged_input;
use osupdate_sys::inheritance::standard_streams_only;
use osupdate_sys::keyring;
use osupdate_sys::namespace::private_mounts;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, chdir, getpgid, getpgrp, kill_process, pivot_root,
    set_dumpable_behavior, set_parent_process_death_signal, wait,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities, set_name, set_no_new_privs,
};

use super::NAME;
use super::program::{NotRun, PATH};
use super::server::{ROOT, STARTED, STOPPED};
use super::signals::Receiver;
use super::{places, terminal};
use crate::exit::Outcome;

/// Root's shell is in the first file that has it; the second is for images without users.
const USERS: &str = "/etc/passwd";
const SHELL: &str = "/bin/sh";
const USERS_MAX_BYTES: u64 = 1 << 20;
/// Whether programs may put input into their terminal; kernels before 6.2 do not ask.
const FORGED_INPUT: &str = "/proc/sys/dev/tty/legacy_tiocsti";
/// What the kernel says of this process: its terminal is the seventh field.
const OWN_STAT: &str = "/proc/self/stat";
/// Major device number of virtual consoles, whose minor ones are 1 to 63.
const CONSOLES: u32 = 4;
/// What the command knows of the user's environment.
const KEPT: [&str; 3] = ["TERM", "COLORTERM", "LANG"];

/// Make the image the root and run a command
#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[arg(long = "place")]
    places: Vec<String>,

    /// Descriptor on which the server is told what happens.
    #[arg(long)]
    messages: u32,

    /// Wait for the terminal before the command is started.
    #[arg(long)]
    terminal: bool,

    command: Vec<OsString>,
}

impl Args {
    pub(in super::super) fn run(self) -> anyhow::Result<Outcome> {
        set_name(NAME).context("cannot tell the name of the process")?;
        // Should the server be gone already, the image cannot be reached.
        set_parent_process_death_signal(Some(Signal::KILL)).context("cannot tie the process to its server")?;
        let messages = File::options().write(true).open(format!("/proc/self/fd/{}", self.messages));
        let mut messages = messages.context("cannot reach the server")?;
        private_mounts().context("cannot get mounts of its own")?;
        if self.terminal {
            terminal::wait_for().context("cannot wait for the terminal")?;
        }
        for place in &self.places {
            places::fill(Path::new(ROOT), place)?;
        }
        enter(ROOT).context("cannot make the image the root")?;
        give_up_keys().context("cannot give up keys")?;
        give_up_privileges().context("cannot give up privileges")?;
        standard_streams_only().context("cannot close descriptors")?;
        if may_forge_input() {
            forged_input::forbid().context("cannot keep the command from typing")?;
        }
        let receiver = Receiver::start()?;
        let mut command = match self.command.split_first() {
            Some((program, arguments)) => command(program, arguments),
            None => command(&shell(), &["-l".into()]),
        };
        let child = command.spawn().map_err(|error| NotRun::new(command.get_program(), &error))?;
        let pid = Pid::from_child(&child);
        // Who is in our group has got what was sent to it.
        receiver.forward(move |signal| match getpgid(Some(pid))? == getpgrp() {
            true => Ok(()),
            false => kill_process(pid, signal),
        });
        let mut tell = |message| messages.write_all(&[message]).context("cannot reach the server");
        tell(STARTED)?;
        loop {
            // Orphans of the namespace are ours, too. All that is left ends with us.
            let (ended, status) = match wait(WaitOptions::UNTRACED) {
                Ok(Some(event)) => event,
                Ok(None) | Err(Errno::INTR) => continue,
                Err(errno) => return Err(io::Error::from(errno)).context("cannot wait for the command"),
            };
            if ended != pid {
                continue;
            }
            if status.stopped() {
                tell(STOPPED)?;
                continue;
            }
            let code = status.exit_status().or_else(|| Some(128 + status.terminating_signal()?));
            return Ok(Outcome::Program(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)));
        }
    }
}

/// Whether the kernel takes input from programs as if it was typed: the user's shell would read it when the command has ended.
fn may_forge_input() -> bool {
    let is_off = fs::read_to_string(FORGED_INPUT).is_ok_and(|text| text.trim() == "0");
    // A virtual console has a way of its own: it pastes.
    let is_other = fs::read_to_string(OWN_STAT).is_ok_and(|stat| !is_on_console(&stat));
    !is_off || !is_other
}

/// Whether the terminal of a process is a virtual console; if in doubt, it is.
fn is_on_console(stat: &str) -> bool {
    // The name of the program, in parentheses, may have blanks in it.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let terminal = fields.and_then(|fields| fields.split_whitespace().nth(4)?.parse::<u32>().ok());
    terminal.is_none_or(|number| number >> 8 == CONSOLES && (1..64).contains(&(number & 0xff)))
}

/// Keys of the user's session are nothing for the command.
fn give_up_keys() -> io::Result<()> {
    match keyring::own_session() {
        // Whatever forbids that forbids the command to ask for keys.
        Err(error) if [Errno::NOSYS, Errno::PERM].contains(&Errno::from_io_error(&error).unwrap_or(Errno::IO)) => {
            Ok(())
        }
        result => result,
    }
}

fn enter(root: &str) -> rustix::io::Result<()> {
    chdir(root)?;
    // The old root is then above the new one.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

/// This process and what it starts from now on have no capabilities and get none.
fn give_up_privileges() -> rustix::io::Result<()> {
    let none = CapabilitySet::empty();
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The kernel knows no more.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    set_no_new_privs(true)?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // With root's rights on the machine, the command could otherwise write to the program that this process runs.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

fn command(program: &OsStr, arguments: &[OsString]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("USER", "root")
        .env("LANG", "C.UTF-8");
    command.envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// Root's login shell.
fn shell() -> OsString {
    let mut users = Vec::new();
    if let Err(error) = File::open(USERS).and_then(|file| file.take(USERS_MAX_BYTES).read_to_end(&mut users)) {
        tracing::debug!("{USERS}: {error}, ignoring");
    }
    let root = users.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"root:"));
    let shell = root.and_then(|line| line.split(|byte| *byte == b':').nth(6));
    match shell.filter(|shell| !shell.is_empty() && !shell.ends_with(b"/nologin") && !shell.ends_with(b"/false")) {
        Some(shell) => OsStr::from_bytes(shell).to_owned(),
        None => SHELL.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::is_on_console;

    #[test]
    fn consoles_are_told_from_other_terminals() {
        for (number, is_console) in [("0", false), ("1025", true), ("1087", true), ("1088", false), ("34816", false)] {
            assert_eq!(is_on_console(&format!("1 (a ) b) S 0 1 1 {number} 1 4194560")), is_console, "{number}");
        }
        assert!(is_on_console("") && is_on_console("1 (a) S 0"));
    }
}
