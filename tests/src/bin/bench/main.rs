//! Times osupdate beside the other implementations of composefs, in pairs, on a real Debian tree, and shows how cost grows
//! with the number of objects. `make bench` runs it; it is no part of the tests, for a figure is not right or wrong.
#![forbid(unsafe_code)]

mod compare;
mod debian;
mod input;
mod layers;
mod limits;
mod measure;
mod mounts;
mod network;
mod programs;
mod report;
mod scale;
mod synthetic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use osupdate_tests::images::target;

use crate::input::Input;
use crate::limits::Limits;
use crate::programs::Programs;
use crate::report::Report;

/// Times osupdate beside cfsctl 0.9 and mkcomposefs, where these are installed
///
/// The Debian image is made once, from the packages that this machine's apt knows, and kept below the target directory.
/// Run it as root and leave the machine alone meanwhile.
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    after_help = "\
Environment:
  BENCH_RUNS   runs of each figure, if --runs is not given
  OSUPDATE     the osupdate to time; default: release/osupdate in the target directory
  CFSCTL, MKCOMPOSEFS
               the other programs; default: those on PATH"
)]
struct Args {
    /// A small generated tree, one run, small tables: to see whether everything works, not for figures
    #[arg(long)]
    quick: bool,

    /// Runs of each figure, of which the median is shown [default: 5]
    #[arg(long, value_name = "NUMBER")]
    runs: Option<usize>,

    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,

    /// Leave out the table of cost by number of objects
    #[arg(long)]
    no_scale: bool,

    /// Leave out everything but the table of cost by number of objects
    #[arg(long, conflicts_with = "no_scale")]
    only_scale: bool,

    /// Where repositories are made, on the disk to be timed [default: bench in the target directory]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "run it as root: owners of files are part of an image");
    let runs = match (args.runs, env::var("BENCH_RUNS")) {
        (Some(runs), _) => runs,
        (None, Ok(runs)) => runs.parse().with_context(|| format!("BENCH_RUNS is {runs:?}, which is not a number"))?,
        (None, Err(_)) if args.quick => 1,
        (None, Err(_)) => 5,
    };
    ensure!(runs > 0, "at least one run is needed");
    let cache = target().join("bench");
    let work = args.work.clone().unwrap_or_else(|| cache.clone()).join(format!("run-{}", std::process::id()));
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    let _cleanup = Cleanup(&work);
    let programs = Programs::find(&work)?;
    let sizes: &[u64] = if args.quick { &[3_000, 30_000] } else { &[30_000, 300_000, 1_000_000] };

    say("the machine's limits");
    let mut report = Report::new(&programs, Limits::measure(&work)?, runs);
    if !args.only_scale {
        let input = if args.quick { synthetic::input(&cache)? } else { debian::input(&cache)? };
        say(&duration(args, runs, &programs));
        report.rows = compare::all(&programs, &input, &work, runs)?;
        report.input = Some(Input::facts(&input)?);
    }
    if !args.no_scale {
        report.scale = scale::table(&programs, &work, sizes)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.json())?);
    } else {
        report.print();
    }
    Ok(())
}

/// What to expect, from runs on a machine with two cores.
fn duration(args: &Args, runs: usize, programs: &Programs) -> String {
    if args.quick {
        return "this takes about a minute".to_owned();
    }
    let seconds_per_run = if programs.cfsctl.is_some() { 75 } else { 30 };
    let scale_seconds = match (args.no_scale, programs.cfsctl.is_some()) {
        (true, _) => 0,
        (false, true) => 900,
        (false, false) => 300,
    };
    let minutes = (runs * seconds_per_run + scale_seconds).div_ceil(60);
    format!("this takes about {minutes} minutes")
}

/// Says on standard error what goes on.
fn say(text: &str) {
    eprintln!("bench: {text} ...");
}

/// Removes the work directory at the end, however it comes.
struct Cleanup<'a>(&'a Path);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.0) {
            eprintln!("bench: cannot remove {}: {error}", self.0.display());
        }
    }
}
