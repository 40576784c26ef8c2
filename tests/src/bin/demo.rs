//! The main job of osupdate from beginning to end, told on the terminal. Ends with an error where anything does not hold.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use osupdate_tests::disk;
use osupdate_tests::journey::{
    Status, expect_local_changes, expect_running, image_of, large_file, make_local_changes, object_of, osupdate,
};
use osupdate_tests::lab::{DISK_BYTES, Lab, empty_disk, install, install_command};
use osupdate_tests::machine::{Boot, Config, Disk, DiskFormat, Machine};
use tempfile::TempDir;

fn main() -> ExitCode {
    let mut story = Story { start: Instant::now(), step: 0 };
    match tell(&mut story) {
        Ok(()) => {
            println!("\nAll of it holds. ({})", story.time());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\nFAILED in step {}: {error:#}", story.step);
            ExitCode::FAILURE
        }
    }
}

struct Story {
    start: Instant,
    step: u32,
}

impl Story {
    fn time(&self) -> String {
        let seconds = self.start.elapsed().as_secs();
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }

    fn step(&mut self, title: &str) {
        self.step += 1;
        println!("\n=== {}. {title} ({})", self.step, self.time());
    }

    fn say(&self, text: &str) {
        println!("    {text}");
    }

    fn quote(&self, command: &str, text: &str) {
        println!("    # {command}");
        for line in text.lines() {
            println!("    | {line}");
        }
    }
}

/// Shows the console of a machine if a step with it fails.
fn with<T>(machine: &mut Machine, step: impl FnOnce(&mut Machine) -> Result<T>) -> Result<T> {
    step(machine).inspect_err(|_| machine.show_console())
}

fn tell(story: &mut Story) -> Result<()> {
    story.step("Two versions of a Debian 13 OS image, in a registry");
    let lab = Lab::open(&|text| println!("    {text} ..."))?;
    let registry = lab.registry(1)?;
    story.say("version 1 is os:latest in a docker-registry on this machine, signed; version 2 waits");

    story.step("Installing version 1 onto an empty disk");
    let directory = TempDir::new()?;
    let raw = directory.path().join("disk.raw");
    empty_disk(&raw, DISK_BYTES)?;
    let mut installer = lab.installer(&[&raw], &registry)?;
    let command = install_command("/dev/vdb", "");
    let account = with(&mut installer, |machine| install(machine, &command))?;
    story.quote(&command, &account);
    installer.power_off()?;

    story.step("Booting it: firmware, systemd-boot, verified root");
    let config = Config {
        name: "demo".to_owned(),
        boot: Boot::Firmware,
        disks: vec![Disk::new(&raw, DiskFormat::Raw)],
        network: Some(registry.network()),
        ..Config::default()
    };
    let mut machine = Machine::start(&config)?;
    with(&mut machine, Machine::wait_until_up)?;
    let id = with(&mut machine, |machine| life(story, &lab, &registry, machine))?;
    machine.power_off()?;

    story.step("Damaging an object on the raw disk, with the machine off");
    let object = object_of(&large_file(2));
    let place = disk::flip_byte(&raw, &object, 200_000)?;
    story.say(&format!("flipped the byte at {place} of the disk, in {object}"));
    let mut machine = Machine::start(&config)?;
    with(&mut machine, |machine| {
        machine.wait_until_up()?;
        expect_running(machine, "2")?;
        let reply = machine.run("cat /usr/share/versions/large > /tmp/copy")?;
        story.quote("cat /usr/share/versions/large", &reply.stderr);
        ensure!(reply.status != 0 && reply.stderr.contains("Input/output error"), "reading it should fail");
        ensure!(machine.output("tr -d 2 < /tmp/copy | wc -c")? == "0", "wrong data was read");
        Ok(())
    })?;
    story.say("an I/O error, and no wrong data");
    machine.power_off()?;

    story.step("Damaging the EROFS image on the raw disk, with the machine off");
    let place = disk::flip_byte(&raw, &image_of(&id), 70_000)?;
    story.say(&format!("flipped the byte at {place} of the disk, in {}", image_of(&id)));
    let mut machine = Machine::start(&config)?;
    with(&mut machine, |machine| machine.wait_for_console(&id, Duration::from_secs(180)))?;
    machine.wait_for_console("expected", Duration::from_secs(60))?;
    ensure!(machine.wait_until_up_for(Duration::from_secs(45)).is_err(), "the machine came up on a damaged image");
    let console = machine.console()?;
    let refusal: Vec<&str> = console.lines().filter(|line| line.contains("osupdate-setup-root")).collect();
    story.quote("the console", &refusal.join("\n"));
    story.say("the machine does not come up on a damaged image");
    machine.cut_power();
    Ok(())
}

/// Changes, upgrade, rollback and forward again; returns the id of the deployment that runs at the end.
fn life(
    story: &mut Story,
    lab: &Lab,
    registry: &osupdate_tests::registry::Registry,
    machine: &mut Machine,
) -> Result<String> {
    expect_running(machine, "1")?;
    let status = machine.output("osupdate status")?;
    story.quote("osupdate status", &status);

    story.step("Changing, adding and deleting a file in /etc; writing into /var; then upgrading to version 2");
    make_local_changes(machine)?;
    lab.publish(registry, 2)?;
    let account = osupdate(machine, "upgrade")?;
    story.quote("osupdate upgrade", &account);
    ensure!(Status::of(machine)?.staged_version() == Some("2"), "version 2 should be staged");
    let status = machine.output("osupdate status")?;
    story.quote("osupdate status", &status);

    story.step("Rebooting into version 2");
    machine.reboot()?;
    expect_running(machine, "2")?;
    expect_local_changes(machine, "2")?;
    story.say(
        "version 2 runs, verified; its new files are there; so are the three changes in /etc and the data in /var",
    );

    story.step("Rolling back to version 1");
    let account = osupdate(machine, "rollback")?;
    story.quote("osupdate rollback", &account);
    machine.reboot()?;
    expect_running(machine, "1")?;
    expect_local_changes(machine, "1")?;
    story.say("version 1 runs again, verified, with its /etc");

    story.step("And forward again");
    let account = osupdate(machine, "rollback")?;
    story.quote("osupdate rollback", &account);
    machine.reboot()?;
    let status = expect_running(machine, "2")?;
    expect_local_changes(machine, "2")?;
    story.say("version 2 runs, verified");
    Ok(status.booted.context("a deployment runs")?.id)
}
