//! Runs in the test images: takes commands from the virtio serial port and answers with what they printed.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use osupdate_tests::protocol::{FromGuest, Hello, PORT_NAME, Reply, Request};

fn main() -> Result<()> {
    let path = format!("/dev/virtio-ports/{PORT_NAME}");
    let port = OpenOptions::new().read(true).write(true).open(&path).with_context(|| format!("opening {path}"))?;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the boot id")?;
    send(&port, &FromGuest::Hello(Hello { boot_id: boot_id.trim().to_owned() }))?;
    let mut reader = BufReader::new(&port);
    let mut line = Vec::new();
    loop {
        match reader.read_until(b'\n', &mut line) {
            // The host closed its end, or has not opened it yet.
            Ok(0) => std::thread::sleep(Duration::from_millis(100)),
            Ok(_) if !line.ends_with(b"\n") => {}
            Ok(_) => {
                // A line that is no request was cut by a reset of the machine.
                if let Ok(request) = serde_json::from_slice::<Request>(&line) {
                    send(&port, &FromGuest::Reply(run(&request)))?;
                }
                line.clear();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading from the port"),
        }
    }
}

fn send(mut port: &File, message: &FromGuest) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    port.write_all(&line).context("writing to the port")
}

fn run(request: &Request) -> Reply {
    let output = Command::new("/bin/sh").arg("-c").arg(&request.script).stdin(Stdio::null()).output();
    match output {
        Ok(output) => Reply {
            id: request.id,
            status: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Err(error) => {
            Reply { id: request.id, status: 127, stdout: String::new(), stderr: format!("starting /bin/sh: {error}") }
        }
    }
}
