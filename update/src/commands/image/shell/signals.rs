//! Signals on their way to the command.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

/// Passes a signal on.
type Forward = Box<dyn Fn(Signal) -> rustix::io::Result<()> + Send>;

/// Takes signals from now on, and passes them on as soon as it is told how.
pub(super) struct Receiver(Sender<Forward>);

impl Receiver {
    pub(super) fn start() -> anyhow::Result<Self> {
        let mut signals =
            Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2]).context("cannot wait for signals")?;
        let (sender, receiver) = channel::<Forward>();
        thread::spawn(move || {
            let Ok(forward) = receiver.recv() else { return };
            for signal in signals.forever().filter_map(Signal::from_named_raw) {
                match forward(signal) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => tracing::warn!("cannot pass on a signal: {errno}"),
                }
            }
        });
        Ok(Self(sender))
    }

    pub(super) fn forward(&self, forward: impl Fn(Signal) -> rustix::io::Result<()> + Send + 'static) {
        if self.0.send(Box::new(forward)).is_err() {
            tracing::warn!("signals are not passed on");
        }
    }
}
