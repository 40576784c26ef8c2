//! The terminal: given to the command while it runs, and taken back.
//!
//! The command's processes are a process group of their own, since one of the machine means nothing to a shell in another process
//! namespace. So what a terminal and the user's shell do about a job (interrupt it, stop it, continue it) is done for two groups.

use std::fs::File;
use std::io;
use std::thread;
use std::time::Duration;

use osupdate_sys::inheritance;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpgrp, kill_current_process_group, kill_process_group, test_kill_process_group};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

const TERMINAL: &str = "/dev/tty";
/// Enough for a process to be stopped that has sent the signal for it to itself: another thread may have got it.
const STOPPING: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(1);
/// How often the first process looks whether it has the terminal.
const LOOKS: u32 = 1000;

/// The terminal that this process was started from, in the foreground.
pub(super) struct Terminal {
    file: File,
    /// Which group of the command had it last.
    group: Pid,
}

impl Terminal {
    /// Opens the terminal, if there is one and this process is in its foreground.
    pub(super) fn in_foreground() -> Option<File> {
        let file = File::options().read(true).write(true).open(TERMINAL).ok()?;
        tcgetpgrp(&file).is_ok_and(|group| group == getpgrp()).then_some(file)
    }

    /// Gives it to a group.
    pub(super) fn give(file: File, group: Pid) -> io::Result<Self> {
        tcsetpgrp(&file, group)?;
        // From now on this process is in the background, from where it must be able to change that.
        inheritance::ignore(Signal::TTOU)?;
        Ok(Self { file, group })
    }

    /// The command has been stopped. Unless it only lacked the terminal, our own group is stopped, too, so that the user's shell
    /// sees it, and the command goes on when we do.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        let (holder, ours) = (tcgetpgrp(&self.file)?, getpgrp());
        if holder != ours {
            if self.is_of_command(holder) {
                self.group = holder;
                tcsetpgrp(&self.file, ours)?;
            }
            kill_current_process_group(Signal::TSTP)?;
            thread::sleep(STOPPING);
        }
        if tcgetpgrp(&self.file)? == ours {
            tcsetpgrp(&self.file, self.group)?;
        }
        Ok(kill_process_group(self.group, Signal::CONT)?)
    }

    /// Takes it back from a command that has ended. Not from others: the user's shell may have continued us in the background.
    pub(super) fn take(&self) -> io::Result<()> {
        let result = tcgetpgrp(&self.file).and_then(|holder| match self.is_of_command(holder) {
            true => tcsetpgrp(&self.file, getpgrp()),
            false => Ok(()),
        });
        match result {
            // It has been hung up.
            Err(Errno::IO | Errno::NOTTY) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Whether a group is the command's, or one within it that has ended.
    fn is_of_command(&self, group: Pid) -> bool {
        group == self.group || test_kill_process_group(group) == Err(Errno::SRCH)
    }
}

/// Waits until this process has the terminal.
pub(super) fn wait_for() -> io::Result<()> {
    let file = File::options().read(true).write(true).open(TERMINAL)?;
    for _ in 0..LOOKS {
        match tcgetpgrp(&file) {
            Ok(group) if group == getpgrp() => break,
            // A group of another process namespace has no number here.
            Ok(_) | Err(Errno::OPNOTSUPP) => thread::sleep(PAUSE),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
