//! Talks to the agent in a running machine.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::protocol::{FromGuest, Reply, Request};

/// How long a command may take by default.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a boot may take until the agent answers. Emulated machines boot in 15 s, and in a minute on a busy host.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(300);

/// The line to the agent of one machine.
#[derive(Debug)]
pub struct Guest {
    reader: BufReader<UnixStream>,
    partial: Vec<u8>,
    next_id: u64,
}

impl Guest {
    /// Connects to the socket of the machine's serial port.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        Ok(Self { reader: BufReader::new(stream), partial: Vec::new(), next_id: 1 })
    }

    /// Waits for the greeting of a guest that comes up and returns its boot id. `alive` is asked now and then whether
    /// waiting makes sense.
    pub(crate) fn wait_for_hello(
        &mut self,
        timeout: Duration,
        alive: &mut dyn FnMut() -> Result<()>,
    ) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            alive()?;
            let step = deadline.min(Instant::now() + Duration::from_secs(1));
            match self.receive(step)? {
                Some(FromGuest::Hello(hello)) => return Ok(hello.boot_id),
                Some(FromGuest::Reply(_)) => {}
                None if Instant::now() >= deadline => bail!("the guest did not come up within {timeout:?}"),
                None => {}
            }
        }
    }

    /// Runs a script and waits for its end.
    pub(crate) fn run(&mut self, script: &str, timeout: Duration) -> Result<Reply> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&Request { id, script: script.to_owned() })?;
        let deadline = Instant::now() + timeout;
        loop {
            match self.receive(deadline)? {
                Some(FromGuest::Reply(reply)) if reply.id == id => return Ok(reply),
                Some(FromGuest::Reply(_)) => {}
                Some(FromGuest::Hello(_)) => bail!("the guest restarted while it ran: {script}"),
                None => bail!("no end after {timeout:?}: {script}"),
            }
        }
    }

    /// Sends a script whose end nobody waits for: one that ends the guest.
    pub(crate) fn run_without_reply(&mut self, script: &str) -> Result<()> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&Request { id, script: script.to_owned() })
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.reader.get_mut().write_all(&line).context("sending to the guest")
    }

    /// The next line from the guest, `None` if there is none before the deadline.
    fn receive(&mut self, deadline: Instant) -> Result<Option<FromGuest>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.reader.get_ref().set_read_timeout(Some(left))?;
            match self.reader.read_until(b'\n', &mut self.partial) {
                Ok(0) => bail!("the machine ended"),
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let message = serde_json::from_slice(&self.partial).ok();
                    self.partial.clear();
                    // A line that cannot be read was cut by a reset.
                    if message.is_some() {
                        return Ok(message);
                    }
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Ok(None);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("reading from the guest"),
            }
        }
    }
}
