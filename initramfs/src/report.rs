//! What the machine says, and what it does when it cannot boot this entry.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use osupdate_core::kernel_args;

/// Name of the program in the kernel log.
const NAME: &str = "osupdate-setup-root";
/// The loader sets this variable when it counts the attempts to boot the entry.
const BOOT_COUNT_VARIABLE: &str = "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Exists in an initramfs and nowhere else.
const INITRD_RELEASE: &str = "/etc/initrd-release";
/// Kernel argument that says what to do on failure. Its one value: `emergency`, never reboot.
const ON_FAILURE_KEY: &str = "osupdate.on-failure";
/// Longer texts than this are several records in the kernel log; it refuses records of more than 1024 bytes.
const RECORD_MAX: usize = 900;
/// How long the message can be read before the machine reboots.
const REBOOT_DELAY: Duration = Duration::from_secs(10);

/// Priorities of lines in the kernel log; error lines reach the console even with `quiet`.
#[derive(Clone, Copy)]
enum Priority {
    Error = 3,
    Warning = 4,
    Info = 6,
}

/// Says what was done.
pub(crate) fn info(message: &str) {
    say(Priority::Info, message);
}

/// Says what does not stop the boot, but somebody should know.
pub(crate) fn warning(message: &str) {
    say(Priority::Warning, &format!("warning: {message}"));
}

/// Says why the machine does not come up, and reboots it if the loader counts the attempts.
///
/// The reboot brings the loader to the next attempt, and after the last one to another deployment. Without counting
/// this returns, the unit fails, and systemd starts the emergency shell.
pub(crate) fn failure(error: &anyhow::Error, cmdline: &str) {
    let reboots = is_counted() && !stays_on_failure(cmdline);
    say(Priority::Error, &failure_text(error, reboots));
    if reboots {
        thread::sleep(REBOOT_DELAY);
        match Command::new("systemctl").args(["--no-block", "--force", "reboot"]).status() {
            Ok(status) if status.success() => {}
            Ok(status) => say(Priority::Error, &format!("error: the reboot failed, systemctl ended with {status}")),
            Err(err) => say(Priority::Error, &format!("error: cannot run systemctl to reboot: {err}")),
        }
    }
}

fn failure_text(error: &anyhow::Error, reboots: bool) -> String {
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1) {
        writeln!(text, "  caused by: {cause}").expect("writing to a String does not fail");
    }
    text.push_str("  hint: the root file system was not set up; the boot menu offers the other deployments\n");
    if reboots {
        let secs = REBOOT_DELAY.as_secs();
        writeln!(text, "  hint: rebooting in {secs} seconds for the next attempt, or another deployment; {ON_FAILURE_KEY}=emergency on the kernel command line prevents this")
            .expect("writing to a String does not fail");
    }
    text
}

/// The variable stays set in the running system, so it tells something about this boot in an initramfs only.
fn is_counted() -> bool {
    Path::new(INITRD_RELEASE).exists() && Path::new(BOOT_COUNT_VARIABLE).exists()
}

fn stays_on_failure(cmdline: &str) -> bool {
    kernel_args::values(cmdline, ON_FAILURE_KEY).last() == Some("emergency")
}

/// Writes a text to standard error, for the journal, and to the kernel log, for the console.
fn say(priority: Priority, text: &str) {
    eprintln!("{}", text.trim_end());
    // Outside an initramfs this is a test or a trial; the machine's log is not for those.
    if !Path::new(INITRD_RELEASE).exists() {
        return;
    }
    let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") else {
        eprintln!("cannot open /dev/kmsg, ignoring");
        return;
    };
    for part in text.lines().flat_map(|line| line.as_bytes().chunks(RECORD_MAX)) {
        // One write is one record.
        let record = format!("<{}>{NAME}: {}\n", priority as u8, String::from_utf8_lossy(part));
        if let Err(err) = log.write_all(record.as_bytes()) {
            eprintln!("cannot write to /dev/kmsg: {err}, ignoring");
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn failures_name_every_cause_once_and_the_next_step() {
        let error = anyhow!("No such file or directory").context("cannot open \"composefs\"").context("no root");
        let text = failure_text(&error, false);
        let expected =
            "error: no root\n  caused by: cannot open \"composefs\"\n  caused by: No such file or directory\n  hint: ";
        assert!(text.starts_with(expected), "{text}");
        assert!(!text.contains("rebooting"));
        assert!(failure_text(&error, true).contains("rebooting in 10 seconds"));
    }

    #[test]
    fn the_last_on_failure_argument_counts() {
        assert!(stays_on_failure("quiet osupdate.on-failure=emergency"));
        assert!(!stays_on_failure("osupdate.on-failure=emergency osupdate.on-failure="));
        assert!(!stays_on_failure("osupdate.on-failure osupdate.on-failures=emergency"));
    }
}
