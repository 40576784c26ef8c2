//! Fuzz targets: every parser of bytes that others wrote.
//!
//! A target takes any bytes. It fails, by a panic, if the parser panics, if it takes more memory or time than the input is
//! worth, or if what was read, written and read again is not the same. `make fuzz` runs libFuzzer on each for a
//! while; `cargo test` runs each on the kept corpus and on the seeds, without libFuzzer.
//!
//! A finding becomes a file in `corpus/<target>/`, named after what it shows.

pub mod seeds;
mod targets;

use std::alloc::System;
use std::time::{Duration, Instant};

use cap::Cap;

/// Counts what is allocated, and ends the process where a target goes beyond its limit.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// A parser to be fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line and in the corpus.
    pub name: &'static str,
    /// Longest input in bytes.
    pub max_len: usize,
    /// Most memory that an input may take, in bytes: fixed limits of the parser, and what the longest input is worth.
    pub memory_max: usize,
    run: fn(&[u8]),
}

/// Longest time that one input may take, in a debug build on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(20);

/// All targets.
pub const TARGETS: [Target; 13] = [
    Target { name: "erofs", max_len: 64 << 10, memory_max: 64 << 20, run: targets::erofs::run },
    Target { name: "dumpfile", max_len: 16 << 10, memory_max: 64 << 20, run: targets::dumpfile::run },
    // zstd makes a hundred megabytes of a few kilobytes; named refs may have 16 MiB.
    Target { name: "splitstream", max_len: 16 << 10, memory_max: 256 << 20, run: targets::splitstream::run },
    Target { name: "tar", max_len: 64 << 10, memory_max: 64 << 20, run: targets::tar::run },
    Target { name: "meta_json", max_len: 4 << 10, memory_max: 16 << 20, run: targets::json::meta },
    Target { name: "oci_json", max_len: 16 << 10, memory_max: 32 << 20, run: targets::json::oci },
    Target { name: "pe", max_len: 64 << 10, memory_max: 32 << 20, run: targets::pe::run },
    Target { name: "signature", max_len: 16 << 10, memory_max: 16 << 20, run: targets::signature::run },
    Target { name: "signature_list", max_len: 16 << 10, memory_max: 16 << 20, run: targets::signature::list },
    Target { name: "chunk", max_len: 16 << 10, memory_max: 32 << 20, run: targets::published::chunk },
    // zstd makes 64 MiB of a few kilobytes, and text of these is held twice.
    Target { name: "index", max_len: 16 << 10, memory_max: 320 << 20, run: targets::published::index },
    Target { name: "summary", max_len: 16 << 10, memory_max: 16 << 20, run: targets::published::summary },
    // The automaton's size and cache have limits of their own.
    Target { name: "file_contexts", max_len: 4 << 10, memory_max: 384 << 20, run: targets::file_contexts::run },
];

/// Lets what is said of a panic take the memory that it needs: a backtrace of a large program takes more than some targets may.
/// Without it the process would hang in place of telling what it found.
pub fn report_panics_without_limit() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if ALLOCATOR.set_limit(usize::MAX).is_err() {
            eprintln!("the limit of memory stays: what follows may be cut short");
        }
        usual(panic);
    }));
}

impl Target {
    /// The target with this name.
    pub fn find(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Runs the target on an input; inputs that are too long are passed over. Not for several threads at once.
    ///
    /// # Panics
    /// When something is wrong with the parser. Ends the process where it takes too much memory.
    pub fn run(&self, input: &[u8]) {
        if input.len() > self.max_len {
            return;
        }
        let limit = ALLOCATOR.set_limit(ALLOCATOR.allocated() + self.memory_max);
        assert!(limit.is_ok(), "the limit is above what is allocated");
        let started = Instant::now();
        (self.run)(input);
        let elapsed = started.elapsed();
        assert!(elapsed < TIME_MAX, "an input of {} bytes took {elapsed:?}", input.len());
        let limit = ALLOCATOR.set_limit(usize::MAX);
        assert!(limit.is_ok(), "there is always room below the largest limit");
    }
}
