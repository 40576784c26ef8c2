//! What the machine can do at best.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use osupdate_tests::tool;
use serde::Serialize;
use sha2::{Sha256, Sha512};

use crate::compare::park;
use crate::measure::median;

const WRITE_BYTES: usize = 1 << 30;
const HASH_BYTES: usize = 256 << 20;
const FILES: usize = 5_000;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Limits {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    /// Of the directory that repositories are made in.
    pub(crate) file_system: String,
    /// One file written in large pieces, with fsync.
    pub(crate) write_bytes_per_second: f64,
    /// Files of 4 KiB made, one after the other, with one syncfs at the end.
    pub(crate) files_per_second: f64,
    /// On one core, with the implementation that osupdate has.
    pub(crate) sha256_bytes_per_second: f64,
    /// On one core, with the implementation that osupdate has.
    pub(crate) sha512_bytes_per_second: f64,
}

impl Limits {
    pub(crate) fn measure(work: &Path) -> Result<Self> {
        let mut kind = Command::new("findmnt");
        kind.args(["--noheadings", "--output", "FSTYPE", "--target"]).arg(work);
        let processors = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let name = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: name.map_or("unknown", |(_, name)| name).to_owned(),
            cores: thread::available_parallelism()?.get(),
            file_system: tool::run(&mut kind)?.trim().to_owned(),
            write_bytes_per_second: middle(|| write_speed(work))?,
            files_per_second: middle(|| file_speed(work))?,
            sha256_bytes_per_second: middle(|| Ok(hash_speed::<Sha256>()))?,
            sha512_bytes_per_second: middle(|| Ok(hash_speed::<Sha512>()))?,
        })
    }
}

fn middle(measure: impl Fn() -> Result<f64>) -> Result<f64> {
    let values = (0..3).map(|_| measure()).collect::<Result<Vec<_>>>()?;
    Ok(median(values.into_iter()))
}

fn write_speed(work: &Path) -> Result<f64> {
    // Nothing that a disk could compress or leave out.
    let mut piece = vec![0_u8; 1 << 20];
    let mut state = 1_u64;
    for word in piece.chunks_exact_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        word.copy_from_slice(&state.to_le_bytes());
    }
    rustix::fs::sync();
    let path = work.join("write-speed");
    let start = Instant::now();
    let mut file = File::create(&path)?;
    for _ in 0..WRITE_BYTES / piece.len() {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let seconds = start.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    Ok(WRITE_BYTES as f64 / seconds)
}

fn file_speed(work: &Path) -> Result<f64> {
    rustix::fs::sync();
    let directory = work.join("file-speed");
    fs::create_dir(&directory)?;
    let contents = [1_u8; 4096];
    let start = Instant::now();
    for number in 0..FILES {
        fs::write(directory.join(number.to_string()), contents)?;
    }
    rustix::fs::syncfs(File::open(&directory)?)?;
    let seconds = start.elapsed().as_secs_f64();
    park(&directory)?;
    Ok(FILES as f64 / seconds)
}

fn hash_speed<H: sha2::Digest>() -> f64 {
    let block = vec![7_u8; 1 << 20];
    let start = Instant::now();
    let mut hash = H::new();
    for _ in 0..HASH_BYTES / block.len() {
        hash.update(&block);
    }
    let digest = hash.finalize();
    let seconds = start.elapsed().as_secs_f64();
    std::hint::black_box(digest);
    HASH_BYTES as f64 / seconds
}
