//! Virtual machines: QEMU with OVMF, emulated, so that they work where there is no KVM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::guest::{BOOT_TIMEOUT, COMMAND_TIMEOUT, Guest};
use crate::protocol::{PORT_NAME, Reply};
use crate::tool;
use crate::tpm::Tpm;

/// Address and port under which guests reach the test's registry.
pub const REGISTRY_IN_GUEST: &str = "10.0.2.100:5000";
/// Address and port under which guests reach the signatures of the images in it.
pub const SIGNATURES_IN_GUEST: &str = "10.0.2.100:5001";
/// Lines of console that are shown when a test fails.
const CONSOLE_TAIL_LINES: usize = 120;
const FIRMWARE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// The build that enforces Secure Boot where the variables have keys.
const SECURE_BOOT_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
/// Variables of a new machine.
pub(crate) const FIRMWARE_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// A disk of a machine; the first one is `/dev/vda`.
#[derive(Clone, Debug)]
pub struct Disk {
    /// File that holds the disk.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Whether what the guest writes is kept in the file.
    pub keep_writes: bool,
}

impl Disk {
    /// A disk whose file is changed by the guest.
    pub fn new(path: impl Into<PathBuf>, format: DiskFormat) -> Self {
        Self { path: path.into(), format, keep_writes: true }
    }

    /// A disk whose file stays as it is: what the guest writes is lost when the machine ends.
    pub fn snapshot(path: impl Into<PathBuf>, format: DiskFormat) -> Self {
        Self { path: path.into(), format, keep_writes: false }
    }
}

/// Format of a disk file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// The bytes of the disk.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

/// What a machine boots.
#[derive(Clone, Debug, Default)]
pub enum Boot {
    /// The firmware finds a loader on the first disk, or on the next one if it cannot start that.
    #[default]
    Firmware,
    /// The same, by firmware that has Secure Boot.
    SecureBoot {
        /// The firmware's variables, changed by the machine; see [`crate::secure_boot`].
        variables: PathBuf,
    },
    /// A kernel given by the host.
    Kernel {
        /// Kernel image.
        kernel: PathBuf,
        /// Initramfs.
        initrd: PathBuf,
        /// Kernel command line.
        arguments: String,
    },
}

/// How to make a machine.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Name, for messages.
    pub name: String,
    /// What it boots.
    pub boot: Boot,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// What guests can reach.
    pub network: Option<Network>,
    /// Directory with the state of its TPM, if it has one.
    pub tpm: Option<PathBuf>,
}

/// Ports on the host's loopback that guests reach; nothing else can be reached.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Reached as [`REGISTRY_IN_GUEST`].
    pub registry_port: u16,
    /// Reached as [`SIGNATURES_IN_GUEST`].
    pub signatures_port: u16,
}

/// A running machine; its power is cut when it is dropped.
#[derive(Debug)]
pub struct Machine {
    name: String,
    child: Child,
    guest: Guest,
    directory: TempDir,
    boot_id: Option<String>,
    // Dropped after the machine has ended.
    _tpm: Option<Tpm>,
}

impl Machine {
    /// Starts a machine; does not wait for it to come up.
    pub fn start(config: &Config) -> Result<Self> {
        let directory = TempDir::new().context("making a directory for the machine")?;
        let socket = directory.path().join("agent");
        // QEMU makes it too, but later than the socket: it must be there when somebody looks at it.
        fs::File::create(directory.path().join("console")).context("making the console's file")?;
        let tpm = config.tpm.as_ref().map(|state| Tpm::start(state, directory.path())).transpose()?;
        let mut command = command(config, directory.path())?;
        if let Some(tpm) = &tpm {
            command.args(tpm.arguments());
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("qemu"))?)
            .spawn()
            .context("starting qemu-system-x86_64 (Debian package qemu-system-x86)")?;
        let mut machine = Starting { child: Some(child) };
        let start = Instant::now();
        let guest = loop {
            match Guest::connect(&socket) {
                Ok(guest) => break guest,
                Err(error) => {
                    if machine.ended()? || start.elapsed() > Duration::from_secs(30) {
                        let said = fs::read_to_string(directory.path().join("qemu"))?;
                        return Err(error.context(format!("machine {}: QEMU does not start: {said}", config.name)));
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        };
        let child = machine.child.take().context("the machine was started")?;
        Ok(Self { name: config.name.clone(), child, guest, directory, boot_id: None, _tpm: tpm })
    }

    /// Starts a machine and waits until its guest has come up.
    pub fn boot(config: &Config) -> Result<Self> {
        let mut machine = Self::start(config)?;
        machine.wait_until_up()?;
        Ok(machine)
    }

    /// Waits until the guest has come up (again).
    pub fn wait_until_up(&mut self) -> Result<()> {
        self.wait_until_up_for(BOOT_TIMEOUT)
    }

    /// Waits this long until the guest has come up (again).
    pub fn wait_until_up_for(&mut self, timeout: Duration) -> Result<()> {
        let child = &mut self.child;
        let mut alive = || match child.try_wait()? {
            Some(status) => bail!("the machine ended: {status}"),
            None => Ok(()),
        };
        let boot_id =
            self.guest.wait_for_hello(timeout, &mut alive).with_context(|| format!("booting machine {}", self.name))?;
        if self.boot_id.as_ref() == Some(&boot_id) {
            bail!("machine {} did not restart", self.name);
        }
        self.boot_id = Some(boot_id);
        Ok(())
    }

    /// Runs a script in the guest, whatever its exit status.
    pub fn run(&mut self, script: &str) -> Result<Reply> {
        self.run_for(script, COMMAND_TIMEOUT)
    }

    /// Runs a script in the guest that may take this long.
    pub fn run_for(&mut self, script: &str, timeout: Duration) -> Result<Reply> {
        self.guest.run(script, timeout).with_context(|| format!("in machine {}", self.name))
    }

    /// Runs a script in the guest that must succeed, and returns its standard output without the last newline.
    pub fn output(&mut self, script: &str) -> Result<String> {
        let reply = self.run(script)?;
        if reply.status != 0 {
            bail!(
                "machine {}: exit status {} of: {script}\n{}{}",
                self.name,
                reply.status,
                reply.stdout,
                reply.stderr.trim_end()
            );
        }
        Ok(reply.stdout.trim_end_matches('\n').to_owned())
    }

    /// Reboots the guest in an orderly way and waits until it is up again.
    pub fn reboot(&mut self) -> Result<()> {
        self.guest.run_without_reply("systemctl reboot")?;
        self.wait_until_up()
    }

    /// Starts an orderly reboot; does not wait.
    pub fn start_reboot(&mut self) -> Result<()> {
        self.guest.run_without_reply("systemctl reboot")
    }

    /// Shuts the guest down in an orderly way and waits until the machine is off.
    pub fn power_off(mut self) -> Result<()> {
        self.guest.run_without_reply("systemctl poweroff")?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > Duration::from_secs(120) {
                bail!("machine {} does not shut down", self.name);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Cuts the power.
    pub fn cut_power(mut self) {
        end(&mut self.child);
    }

    /// What the guest printed on its console.
    pub fn console(&self) -> Result<String> {
        let bytes = fs::read(self.directory.path().join("console")).context("reading the console")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until the console shows a text.
    pub fn wait_for_console(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            // The console wraps nothing but may colour: the text is looked for with escape sequences taken out.
            if plain(&self.console()?).contains(text) {
                return Ok(());
            }
            if start.elapsed() > timeout {
                bail!("machine {}: {text:?} did not appear on the console within {timeout:?}", self.name);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("machine {} ended ({status}) before {text:?} appeared on its console", self.name);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_console();
        }
        end(&mut self.child);
    }
}

impl Machine {
    /// Prints the end of the console to standard error.
    pub fn show_console(&self) {
        match self.console() {
            Ok(console) => {
                let console = plain(&console);
                let lines: Vec<&str> = console.lines().collect();
                eprintln!("--- console of machine {} (its end) ---", self.name);
                for line in &lines[lines.len().saturating_sub(CONSOLE_TAIL_LINES)..] {
                    eprintln!("{line}");
                }
                eprintln!("--- end of console ---");
            }
            Err(error) => eprintln!("the console of machine {} cannot be shown: {error:#}", self.name),
        }
    }
}

/// Ends a process that the harness started and waits for it.
pub(crate) fn end(child: &mut Child) {
    // An error means that it has ended by itself.
    if child.kill().is_ok() {
        child.wait().ok();
    }
}

/// Ends the process if starting does not get as far as a [`Machine`].
struct Starting {
    child: Option<Child>,
}

impl Starting {
    fn ended(&mut self) -> Result<bool> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?.is_some(),
            None => true,
        })
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
        }
    }
}

fn command(config: &Config, directory: &Path) -> Result<Command> {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"])
        .args(["-machine", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048"])
        .args(["-device", "virtio-rng-pci"])
        .arg("-serial")
        .arg(format!("file:{}", directory.join("console").display()))
        .args(["-device", "virtio-serial-pci", "-device"])
        .arg(format!("virtserialport,chardev=agent,name={PORT_NAME}"))
        .arg("-chardev")
        .arg(format!("socket,id=agent,path={},server=on,wait=off", directory.join("agent").display()));
    match &config.boot {
        Boot::Firmware => {
            let variables = directory.join("variables");
            fs::copy(FIRMWARE_VARIABLES, &variables)
                .with_context(|| format!("copying {FIRMWARE_VARIABLES} (Debian package ovmf)"))?;
            command.args(flash(FIRMWARE_CODE, &variables));
        }
        Boot::SecureBoot { variables } => {
            command
                .args(flash(SECURE_BOOT_CODE, variables))
                // Only code in system management mode may write to the variables.
                .args(["-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"])
                .args(["-global", "ICH9-LPC.disable_s3=1"]);
        }
        Boot::Kernel { kernel, initrd, arguments } => {
            command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).arg("-append").arg(arguments);
        }
    }
    for (number, disk) in config.disks.iter().enumerate() {
        let format = match disk.format {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        };
        let snapshot = if disk.keep_writes { "off" } else { "on" };
        // Writes are not flushed to the host's disk: a machine whose power is cut keeps what the emulator has, and that
        // is all that a test here can see.
        command
            .arg("-drive")
            .arg(format!(
                "if=none,id=disk{number},format={format},snapshot={snapshot},cache=unsafe,discard=unmap,file={}",
                disk.path.display()
            ))
            .arg("-device")
            // A kernel given by the host has 0.
            .arg(format!("virtio-blk-pci,drive=disk{number},bootindex={}", number + 1));
    }
    // A machine has a card at any rate: its boot would wait for the network in vain.
    let mut network = "user,id=net,restrict=on".to_owned();
    if let Some(ports) = config.network {
        // `cmd:` starts one relay a connection; a plain `tcp:` target would serve a single one.
        let forward = |guest, port| format!(",guestfwd=tcp:{guest}-cmd:socat STDIO TCP:127.0.0.1:{port}");
        network.push_str(&forward(REGISTRY_IN_GUEST, ports.registry_port));
        network.push_str(&forward(SIGNATURES_IN_GUEST, ports.signatures_port));
    }
    command.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net"]);
    Ok(command)
}

/// The options for firmware.
fn flash(code: &str, variables: &Path) -> [String; 4] {
    let drive = |options: String| format!("if=pflash,format=raw,{options}");
    [
        "-drive".to_owned(),
        drive(format!("unit=0,readonly=on,file={code}")),
        "-drive".to_owned(),
        drive(format!("unit=1,file={}", variables.display())),
    ]
}

/// Makes a copy-on-write disk over a finished one, which must not change while the copy is in use.
pub fn overlay(base: &Path, format: DiskFormat, path: &Path) -> Result<Disk> {
    let base_format = match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let base = base.canonicalize().with_context(|| format!("finding {}", base.display()))?;
    tool::run(
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", base_format, "-b"]).arg(base).arg(path),
    )?;
    Ok(Disk::new(path, DiskFormat::Qcow2))
}

/// A text without terminal escape sequences and carriage returns.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().filter(|c| *c != '\r').peekable();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            plain.push(c);
        } else if chars.next_if_eq(&'[').is_some() {
            while chars.next_if(|c| !c.is_ascii_alphabetic()).is_some() {}
            chars.next();
        } else {
            chars.next();
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_taken_out_of_the_console() {
        assert_eq!(plain("\u{1b}[0;1;31mexpected\u{1b}[0m digest\r\nnext\u{1b}Mline"), "expected digest\nnextline");
    }
}
