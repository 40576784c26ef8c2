//! How cost grows with the number of objects.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use osupdate_core::erofs::{self, Format};

use crate::compare::{Side, park, remove_parked, sides};
use crate::input::TAG;
use crate::measure::{Run, measure};
use crate::programs::Programs;
use crate::{say, synthetic};

/// One kind of work of one program.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) program: &'static str,
    pub(crate) work: &'static str,
    /// Number of objects and its cost.
    pub(crate) costs: Vec<(u64, Run)>,
}

impl Line {
    /// Cost per object at the largest number, as a multiple of that at the smallest.
    pub(crate) fn growth(&self) -> f64 {
        let per_object = |cost: Option<&(u64, Run)>| cost.map_or(f64::NAN, |(files, run)| run.seconds / *files as f64);
        per_object(self.costs.last()) / per_object(self.costs.first())
    }
}

/// Times images of these numbers of files, once each.
pub(crate) fn table(programs: &Programs, work: &Path, sizes: &[u64]) -> Result<Vec<Line>> {
    let sides = sides(programs, work);
    let mut lines: Vec<Line> = Vec::new();
    for &files in sizes {
        say(&format!("{files} objects"));
        remove_parked(work)?;
        let layout = work.join("generated");
        synthetic::image(&layout, files, TAG)?;
        for side in &sides {
            side.init()?;
            let commands =
                [("import", side.import(&layout)), ("fsck", side.fsck()), ("gc, dry run", side.gc_dry_run())];
            for (name, command) in commands {
                add(&mut lines, side.name, name, files, measure(&command, work)?);
            }
            if let Side { name: name @ "osupdate", .. } = side {
                add(&mut lines, name, "EROFS image from the tree", files, write_image(&side.repository)?);
            }
            park(&side.repository)?;
        }
        fs::remove_dir_all(&layout)?;
    }
    remove_parked(work)?;
    lines.sort_by_key(|line| std::cmp::Reverse(line.program));
    Ok(lines)
}

fn add(lines: &mut Vec<Line>, program: &'static str, work: &'static str, files: u64, run: Run) {
    match lines.iter_mut().find(|line| line.program == program && line.work == work) {
        Some(line) => line.costs.push((files, run)),
        None => lines.push(Line { program, work, costs: vec![(files, run)] }),
    }
}

/// Times the writing of the image that is in a repository, in this process.
fn write_image(repository: &Path) -> Result<Run> {
    let images = fs::read_dir(repository.join("images"))?.collect::<std::io::Result<Vec<_>>>()?;
    let image = images.iter().find(|entry| entry.file_name() != "refs").context("the repository has no image")?;
    let (tree, _) = erofs::read(&fs::read(image.path())?)?;
    let start = Instant::now();
    let bytes = erofs::write(&tree, Format::V1)?;
    let seconds = start.elapsed().as_secs_f64();
    std::hint::black_box(bytes);
    Ok(Run { seconds, peak_bytes: None })
}
