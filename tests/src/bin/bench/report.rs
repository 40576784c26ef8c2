//! What is printed at the end.

use serde::Serialize;
use serde_json::{Value, json};

use crate::compare::Row;
use crate::input::Facts;
use crate::limits::Limits;
use crate::measure::Series;
use crate::programs::{Program, Programs};
use crate::scale::Line;

/// Growth of cost per object, from the smallest to the largest number, up to which it is in proportion.
const PROPORTIONAL: f64 = 1.5;

#[derive(Debug)]
pub(crate) struct Report {
    versions: Vec<(&'static str, String)>,
    limits: Limits,
    runs: usize,
    pub(crate) input: Option<Facts>,
    pub(crate) rows: Vec<Row>,
    pub(crate) scale: Vec<Line>,
}

/// What is compared with what, as the ratio of the first to the second.
#[derive(Debug, Serialize)]
struct Ratio {
    seconds: f64,
    peak: f64,
}

impl Ratio {
    fn of(ours: &Series, theirs: &Series) -> Self {
        Self { seconds: ours.ratio(theirs), peak: ours.peak_bytes() as f64 / theirs.peak_bytes() as f64 }
    }
}

impl Report {
    pub(crate) fn new(programs: &Programs, limits: Limits, runs: usize) -> Self {
        let named = |name, program: &Program| (name, format!("{} ({})", program.version, program.path.display()));
        let mut versions = vec![named("osupdate", &programs.osupdate)];
        versions.extend(programs.cfsctl.as_ref().map(|program| named("cfsctl", program)));
        versions.extend(programs.mkcomposefs.as_ref().map(|program| named("mkcomposefs", program)));
        Self { versions, limits, runs, input: None, rows: Vec::new(), scale: Vec::new() }
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let ours = row.figures.iter().find(|(name, _)| *name == "osupdate");
            let programs = row.figures.iter().map(|(name, series)| {
                let ratio = ours.filter(|_| *name != "osupdate").map(|(_, ours)| Ratio::of(ours, series));
                json!({
                    "program": name,
                    "median_seconds": series.median_seconds(),
                    "peak_bytes": series.peak_bytes(),
                    "runs": series,
                    "osupdate_to_this": ratio,
                })
            });
            json!({ "work": row.name, "programs": programs.collect::<Vec<_>>() })
        });
        let scale = self.scale.iter().map(|line| {
            let costs = line.costs.iter().map(|(objects, run)| json!({ "objects": objects, "run": run }));
            json!({
                "program": line.program,
                "work": line.work,
                "costs": costs.collect::<Vec<_>>(),
                "growth_of_cost_per_object": line.growth(),
            })
        });
        json!({
            "version": 1,
            "programs": self.versions.iter().map(|(name, version)| (*name, version)).collect::<Vec<_>>(),
            "machine": self.limits,
            "runs": self.runs,
            "input": self.input,
            "rows": rows.collect::<Vec<_>>(),
            "scale": scale.collect::<Vec<_>>(),
        })
    }

    pub(crate) fn print(&self) {
        let limits = &self.limits;
        println!("Machine: {}, {} cores, Linux {}", limits.processor, limits.cores, limits.kernel);
        println!(
            "Limits:  {} writes {:.2} GB/s to one file and {:.0} files of 4 KiB a second, synced; one core hashes {:.2} \
             GB/s SHA-256, {:.2} GB/s SHA-512",
            limits.file_system,
            limits.write_bytes_per_second / 1e9,
            limits.files_per_second,
            limits.sha256_bytes_per_second / 1e9,
            limits.sha512_bytes_per_second / 1e9,
        );
        for (_, version) in &self.versions {
            println!("Program: {version}");
        }
        if let Some(input) = &self.input {
            println!(
                "Image:   {} files, {:.2} GB, {} layers: {:.2} GB gzip, {:.2} GB zstd; {} files differ in the second \
                 version, which shares no layer with the first",
                input.files,
                input.bytes as f64 / 1e9,
                input.layers,
                input.gzip_bytes as f64 / 1e9,
                input.zstd_bytes as f64 / 1e9,
                input.changed_files,
            );
        }
        println!(
            "Setting: SHA-512 unless said otherwise, no fs-verity for any program, warm cache, disk idle at the start"
        );
        if !self.rows.is_empty() {
            self.print_rows();
        }
        if !self.scale.is_empty() {
            self.print_scale();
        }
    }

    fn print_rows(&self) {
        println!(
            "\nMedians; runs made in turns: {}; ratio of osupdate to the other: median of the pairs' ratios\n",
            self.runs
        );
        println!(
            "{:<36}{:<14}{:>9}{:>18}{:>11}{:>9}{:>9}",
            "", "", "seconds", "least to most", "peak MB", "time", "peak"
        );
        for row in &self.rows {
            let ours = row.figures.iter().find(|(name, _)| *name == "osupdate");
            for (place, (name, series)) in row.figures.iter().enumerate() {
                let title = if place == 0 { row.name } else { "" };
                let (least, most) = series.range_seconds();
                let ratio = ours.filter(|_| *name != "osupdate").map(|(_, ours)| Ratio::of(ours, series));
                let ratio = ratio.map_or(String::new(), |its| format!("{:>9.2}{:>9.2}", its.seconds, its.peak));
                println!(
                    "{title:<36}{name:<14}{:>9.2}{:>18}{:>11.1}{ratio}",
                    series.median_seconds(),
                    format!("{least:.2} to {most:.2}"),
                    series.peak_bytes() as f64 / 1e6,
                );
            }
        }
    }

    fn print_scale(&self) {
        println!("\nCost by number of objects: seconds, and microseconds per object; one run each\n");
        print!("{:<40}", "");
        for (objects, _) in self.scale.first().map(|line| line.costs.as_slice()).unwrap_or_default() {
            print!("{objects:>20}");
        }
        println!("{:>10}", "growth");
        for line in &self.scale {
            print!("{:<28}{:<12}", line.work, line.program);
            for (objects, run) in &line.costs {
                print!("{:>20}", format!("{:.2} {:>7.1}", run.seconds, run.seconds * 1e6 / *objects as f64));
            }
            let growth = line.growth();
            let verdict = if growth <= PROPORTIONAL { "in proportion" } else { "more than in proportion" };
            println!("{growth:>10.2}  {verdict}");
        }
    }
}
