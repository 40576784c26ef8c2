//! Runs a program and measures it from outside.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

/// Measurements of one command.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Run {
    /// From start to end, by the clock.
    pub(crate) seconds: f64,
    /// The largest resident set of the process, if it was one of its own.
    pub(crate) peak_bytes: Option<u64>,
}

/// The same command several times.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Series(pub(crate) Vec<Run>);

impl Series {
    pub(crate) fn median_seconds(&self) -> f64 {
        median(self.0.iter().map(|run| run.seconds))
    }

    /// Shortest and longest run.
    pub(crate) fn range_seconds(&self) -> (f64, f64) {
        let seconds = self.0.iter().map(|run| run.seconds);
        (seconds.clone().fold(f64::INFINITY, f64::min), seconds.fold(0.0, f64::max))
    }

    pub(crate) fn peak_bytes(&self) -> u64 {
        self.0.iter().filter_map(|run| run.peak_bytes).max().unwrap_or_default()
    }

    /// Median of the ratios of the runs that were made one after the other.
    pub(crate) fn ratio(&self, other: &Self) -> f64 {
        median(self.0.iter().zip(&other.0).map(|(a, b)| a.seconds / b.seconds))
    }
}

/// The middle value, or the mean of the two in the middle; not a number if there is none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Runs a command with its output thrown away. What earlier commands left to be written is written first.
///
/// # Errors
/// When the command fails, with what it said.
pub(crate) fn measure(command: &Command, scratch: &Path) -> Result<Run> {
    rustix::fs::sync();
    let memory = scratch.join("peak-memory");
    // GNU time: the kernel tells the peak memory of a child to nobody but the parent that waits for it.
    let mut timed = Command::new("/usr/bin/time");
    timed.arg("--format=%M").arg("--output").arg(&memory).arg(command.get_program()).args(command.get_args());
    timed.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let output = timed.output().context("starting /usr/bin/time (is the package time installed?)")?;
    let seconds = start.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let kibibytes: u64 = fs::read_to_string(&memory)?.trim().parse().context("reading what /usr/bin/time wrote")?;
    Ok(Run { seconds, peak_bytes: Some(kibibytes * 1024) })
}
