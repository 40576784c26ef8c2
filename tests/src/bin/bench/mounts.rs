//! Reads from mounted images: served through FUSE by each program, and on the kernel's mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use osupdate_tests::tool;

use crate::compare::{Row, Side};
use crate::measure::{Series, measure};
use crate::say;

/// Names of the rows and what is run in the mount: with nothing in memory, then at once again. GNU tar reads no file if it writes
/// to /dev/null itself.
const WORK: [(&str, &str, &str); 5] = [
    ("find in a mount, cold", "find in a mount, warm", "find . -printf '%s %i\\n'"),
    ("ls -lR in a mount, cold", "ls -lR in a mount, warm", "ls -lR ."),
    ("tar of a mount, cold", "tar of a mount, warm", "tar --create --file - . | cat"),
    (
        "20000 files opened and read in a mount, cold",
        "20000 files opened and read in a mount, warm",
        "/usr/bin/python3 ../random.py ../random.txt close",
    ),
    (
        "20000 random reads in open files, cold",
        "20000 random reads in open files, warm",
        "ulimit -n 65536; /usr/bin/python3 ../random.py ../large.txt",
    ),
];
/// Reads what a file names, each line an offset and a path; each file is closed after a read, or stays open.
const RANDOM: &str = "\
import os, sys
files = {}
for line in open(sys.argv[1]):
    offset, path = line.rstrip('\\n').split(' ', 1)
    file = files.get(path)
    if file is None:
        file = os.open(path, os.O_RDONLY)
    os.pread(file, 4096, int(offset))
    if sys.argv[2:]:
        os.close(file)
    else:
        files[path] = file
";
/// Size of the files in which reads are far from each other.
const LARGE: u64 = 1 << 20;
/// Primes: steps through all files and blocks that look like no order.
const STEPS: (usize, u64) = (7919, 104_729);
const READS: usize = 20_000;
const BLOCK: u64 = 4096;

/// Two rows for each kind of work, on the image in the repositories; `tree` has the same files.
pub(crate) fn rows(sides: &[Side<'_>], tree: &Path, work: &Path, runs: usize) -> Result<Vec<Row>> {
    let place = work.join("mounted");
    fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
    fs::write(work.join("random.py"), RANDOM).context("writing random.py")?;
    let mut files = Vec::new();
    collect(tree, Path::new("."), &mut files)?;
    files.sort();
    for (name, least) in [("random.txt", 1), ("large.txt", LARGE)] {
        let files: Vec<_> = files.iter().filter(|(_, size)| *size >= least).collect();
        ensure!(!files.is_empty(), "there is no file for {name} in {}", tree.display());
        fs::write(work.join(name), random_reads(&files)).with_context(|| format!("writing {name}"))?;
    }
    let mut mounts: Vec<_> = sides.iter().map(|side| (side.name, side.mount("--fuse", &place))).collect();
    mounts.extend(sides.first().map(|side| ("kernel mount", side.mount("--fuse=never", &place))));
    let mut rows = Vec::new();
    for (cold, warm, script) in WORK {
        say(cold);
        let mut command = Command::new("sh");
        command.args(["-c", "cd \"$0\" && eval \"$1\""]).arg(&place).arg(script);
        let new = |name| Row { name, figures: mounts.iter().map(|(column, _)| (*column, Series::default())).collect() };
        let mut both = [new(cold), new(warm)];
        for _ in 0..runs {
            for (column, (name, mount)) in mounts.iter_mut().enumerate() {
                rustix::fs::sync();
                fs::write("/proc/sys/vm/drop_caches", "3").context("emptying the caches")?;
                // A server that stays would keep a pipe open.
                let status = mount.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
                ensure!(status.success(), "{name} cannot mount: {status}");
                let measured: Result<Vec<_>> = both.iter().map(|_| measure(&command, work)).collect();
                tool::run(Command::new("umount").arg(&place))?;
                for (row, run) in both.iter_mut().zip(measured?) {
                    row.figures[column].1.0.push(run);
                }
            }
        }
        rows.extend(both);
    }
    Ok(rows)
}

/// Places to read from, all over the files.
fn random_reads(files: &[&(PathBuf, u64)]) -> String {
    let read = |number: usize| {
        let (path, size) = files[number * STEPS.0 % files.len()];
        let offset = number as u64 * STEPS.1 % size.div_ceil(BLOCK) * BLOCK;
        format!("{offset} {}\n", path.display())
    };
    (0..READS).map(read).collect()
}

fn collect(tree: &Path, below: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in fs::read_dir(tree.join(below))? {
        let entry = entry?;
        let (path, metadata) = (below.join(entry.file_name()), entry.metadata()?);
        if path == Path::new("./run") {
            // Empty in every image.
        } else if metadata.is_dir() {
            collect(tree, &path, files)?;
        } else if metadata.is_file() && metadata.len() > 0 && path.to_str().is_some_and(|path| !path.contains('\n')) {
            files.push((path, metadata.len()));
        }
    }
    Ok(())
}
