//! The steps of a machine's life that tests and demonstration share.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use osupdate_core::Algorithm;
use serde::Deserialize;

use crate::guest::COMMAND_TIMEOUT;
use crate::machine::Machine;

/// How long pulling and staging an image may take in an emulated machine.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(900);

/// What `osupdate status --json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The deployment that runs.
    pub booted: Option<Deployment>,
    /// The one that will be booted first at the next boot.
    pub staged: Option<Deployment>,
    /// The one to go back to.
    pub rollback: Option<Deployment>,
    /// Any others.
    pub others: Vec<Deployment>,
    /// Id of the deployment that the loader will choose.
    pub next: Option<String>,
    /// The running deployment boots next with something else than it was started with.
    pub change_pending: bool,
}

/// One deployment in [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub struct Deployment {
    /// Digest of its boot image.
    pub id: String,
    /// Its image.
    pub image: Image,
    /// Whether the kernel verifies the root; known of the booted one.
    pub verified: Option<bool>,
    /// File name of its boot entry.
    pub boot_entry: Option<String>,
}

/// The image of a [`Deployment`].
#[derive(Clone, Debug, Deserialize)]
pub struct Image {
    /// Reference that is followed.
    pub reference: String,
    /// `sha256:…`.
    pub manifest_digest: String,
    /// Version label.
    pub version: Option<String>,
}

impl Status {
    /// Asks a machine.
    pub fn of(machine: &mut Machine) -> Result<Self> {
        let text = machine.output("osupdate status --json")?;
        serde_json::from_str(&text).with_context(|| format!("status --json printed: {text}"))
    }

    /// Version of the deployment that runs.
    pub fn booted_version(&self) -> Option<&str> {
        version(self.booted.as_ref())
    }

    /// Version of the staged deployment.
    pub fn staged_version(&self) -> Option<&str> {
        version(self.staged.as_ref())
    }

    /// Version of the rollback deployment.
    pub fn rollback_version(&self) -> Option<&str> {
        version(self.rollback.as_ref())
    }
}

fn version(deployment: Option<&Deployment>) -> Option<&str> {
    deployment?.image.version.as_deref()
}

/// Makes sure that a machine runs this version, verified by the kernel from the root down, as its own files tell.
pub fn expect_running(machine: &mut Machine, wanted: &str) -> Result<Status> {
    let status = Status::of(machine)?;
    ensure!(status.booted_version() == Some(wanted), "version {wanted} should run: {status:?}");
    let booted = status.booted.as_ref().context("a deployment runs")?;
    ensure!(booted.verified == Some(true), "the root should be verified: {status:?}");
    let root = machine.output("findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS --mountpoint /")?;
    let source = format!("composefs:{}", booted.id);
    for part in [source.as_str(), "overlay", "verity=require"] {
        ensure!(root.contains(part), "the root should show {part}: {root}");
    }
    let cmdline = machine.output("cat /proc/cmdline")?;
    let argument = format!("composefs.digest=v1-sha512-12:{}", booted.id);
    ensure!(cmdline.contains(&argument), "the kernel command line should have {argument}: {cmdline}");
    let own = machine.output(&format!("cat /usr/share/versions/changed /usr/share/versions/only-in-{wanted}"))?;
    ensure!(own == format!("content of version {wanted}\nonly in version {wanted}"), "files of another version: {own}");
    let other = if wanted == "1" { "2" } else { "1" };
    machine.output(&format!("test ! -e /usr/share/versions/only-in-{other}"))?;
    let denied = machine.run("touch /usr/bin/intruder")?;
    ensure!(denied.status != 0, "/usr should be read-only");
    Ok(status)
}

/// Waits until the boot of a machine was found good: its entry is not counted any more. Returns the name of the entry.
pub fn wait_until_blessed(machine: &mut Machine) -> Result<String> {
    let start = Instant::now();
    loop {
        let entry = Status::of(machine)?.booted.and_then(|booted| booted.boot_entry);
        let entry = entry.context("what runs has no entry")?;
        if !entry.contains('+') {
            return Ok(entry);
        }
        ensure!(start.elapsed() < COMMAND_TIMEOUT, "the loader still counts {entry}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Changes a file in /etc, adds one, deletes one, and writes something into /var.
pub fn make_local_changes(machine: &mut Machine) -> Result<()> {
    machine.output(
        "echo 'changed here' > /etc/changed-by-tests.conf
         mkdir -p /etc/added.d
         echo 'added here' > /etc/added.d/local.conf
         chmod 0640 /etc/added.d/local.conf
         rm /etc/deleted-by-tests.conf
         mkdir -p /var/lib/journey
         echo 'data of this machine' > /var/lib/journey/data
         sync",
    )?;
    Ok(())
}

/// Makes sure that [`make_local_changes`] can still be seen, and that the rest of /etc is that of the running image.
pub fn expect_local_changes(machine: &mut Machine, running: &str) -> Result<()> {
    let seen = machine.output(
        "cat /etc/changed-by-tests.conf /etc/added.d/local.conf /var/lib/journey/data /etc/from-image.conf
         stat --format %a /etc/added.d/local.conf
         test -e /etc/deleted-by-tests.conf && echo 'the deleted file is back' || true",
    )?;
    let wanted = format!("changed here\nadded here\ndata of this machine\ndefault of version {running}\n640");
    ensure!(seen == wanted, "local changes: {seen:?}, wanted {wanted:?}");
    Ok(())
}

/// Runs a command of osupdate that may take long and returns what it printed on both outputs.
pub fn osupdate(machine: &mut Machine, arguments: &str) -> Result<String> {
    let command = format!("osupdate {arguments} 2>&1");
    let reply = machine.run_for(&command, UPGRADE_TIMEOUT)?;
    if reply.status != 0 {
        bail!("exit status {} of {command}:\n{}", reply.status, reply.stdout);
    }
    Ok(reply.stdout)
}

/// Contents of `/usr/share/versions/large` in this version of the image.
pub fn large_file(version: u8) -> Vec<u8> {
    vec![b'0' + version; 300_000]
}

/// Path below the physical root of the object with these contents.
pub fn object_of(contents: &[u8]) -> String {
    format!("/composefs/objects/{}", osupdate_core::fsverity::digest(Algorithm::Sha512, contents).object_path())
}

/// Path of a deployment's EROFS image below the physical root.
pub fn image_of(id: &str) -> String {
    format!("/composefs/objects/{}/{}", &id[..2], &id[2..])
}
