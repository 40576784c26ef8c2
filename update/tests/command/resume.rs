//! Pulls that are cut, killed and lied to, again and again, end in the same repository, and fetch next to nothing twice.
//!
//! `OSUPDATE_FAULTS=1000` makes so many kills and cuts instead of some dozens; better with `cargo test --release`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use osupdate_core::oci::Platform;

use crate::docker_registry::{DockerRegistry, have_registry};
use crate::faulty_proxy::{FaultyProxy, HONEST, LIES, Plan, Random};
use crate::layout::Layout;
use crate::place::{Place, Run};

/// Most that is fetched twice for each connection that is lost: what was under way in the buffers of the kernel and of the HTTP
/// client when the process was killed. On a busy machine more than 1 MiB waits there.
const PIECE_BYTES: u64 = 2 << 20;
/// Layers that are fetched at once.
const CONNECTIONS: u64 = 2;
/// So many pulls in a row that do not come to an end, without having been killed, are too many.
const FAILURES_MAX: u32 = 20;

/// How much is done: kills and cuts, and the size of the image before compression.
fn scale() -> (u64, u64) {
    match std::env::var("OSUPDATE_FAULTS") {
        Ok(faults) => (faults.parse().expect("OSUPDATE_FAULTS is a number"), 40 << 20),
        Err(_) => (36, 8 << 20),
    }
}

/// A registry with an image of files of this machine, as `os:gzip` and `os:zstd`, behind a faulty proxy.
struct Line {
    proxy: FaultyProxy,
    /// Ends with the value.
    _registry: DockerRegistry,
}

impl Line {
    fn new(image_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::create(dir.path());
        let files = files_of_this_machine(image_bytes);
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(path, contents)| (path.as_str(), contents.as_slice())).collect();
        let layers: Vec<_> = files.chunks(files.len().div_ceil(6)).collect();
        let image = layout.image(&Platform::host().architecture, &layers);
        layout.tag("1", &image);
        let registry = DockerRegistry::start();
        let source = format!("oci:{}:1", dir.path().display());
        registry.push(&source, "os:gzip", &[]);
        registry.push(&source, "os:zstd", &["--dest-compress-format=zstd"]);
        let proxy = FaultyProxy::start(&registry.address);
        Self { proxy, _registry: registry }
    }

    fn reference(&self, tag: &str) -> String {
        format!("docker://{}/os:{tag}", self.proxy.address)
    }

    fn pull(&self, place: &Place, tag: &str, arguments: &[&str]) -> Run {
        let reference = self.reference(tag);
        let all = [&["image", "pull", &reference, "--plain-http", "--tag", "os"][..], arguments].concat();
        place.run(&all)
    }
}

/// Regular files below `/usr`, in order, with their paths: so many bytes of them.
fn files_of_this_machine(bytes: u64) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut left = bytes;
    let mut pending: Vec<PathBuf> = ["/usr/share", "/usr/lib", "/usr/bin"].map(PathBuf::from).into();
    while let Some(path) = pending.pop() {
        let kind = fs::symlink_metadata(&path).unwrap();
        if kind.is_dir() {
            let mut below: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            below.sort();
            // Not all from one directory.
            below.truncate(if path.components().count() > 3 { 12 } else { usize::MAX });
            pending.extend(below);
        } else if kind.is_file() && kind.len() > 0 && kind.len() < 4 << 20 {
            files.push((path.to_str().unwrap()[1..].to_owned(), fs::read(&path).unwrap()));
            left = left.saturating_sub(kind.len());
            if left == 0 {
                break;
            }
        }
    }
    assert!(files.len() >= 6, "this machine has no files");
    files
}

/// Everything in a repository: what symlinks point at, sizes of files. Contents are for the check.
fn contents(repository: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![repository.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(repository).unwrap().to_owned();
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_symlink() {
                found.insert(name, fs::read_link(&path).unwrap().display().to_string());
            } else {
                found.insert(name, kind.len().to_string());
            }
        }
    }
    found
}

fn repository(place: &Place) -> PathBuf {
    place.path().join("repo")
}

/// What has arrived and is kept: names of the files and their sizes.
fn kept(place: &Place) -> Vec<(PathBuf, u64)> {
    let found = contents(&repository(place));
    let kept = found.into_iter().filter(|(name, _)| name.to_str().unwrap().starts_with(".blob-"));
    kept.map(|(name, size)| (repository(place).join(name), size.parse().unwrap())).collect()
}

#[derive(Debug, Default)]
struct Figures {
    pulls: u64,
    kills: u64,
    failures: u64,
    sent_bytes: u64,
    sent_again_bytes: u64,
    /// Most that was fetched again in one run of the program for each connection that had been lost.
    worst_bytes: u64,
}

/// Pulls into a new repository, killing the program at most `kills` times, until it is done.
fn pull_and_kill(line: &Line, tag: &str, kills: u64, random: &mut Random, figures: &mut Figures) -> Place {
    let place = Place::with_repository();
    line.proxy.forget();
    let reference = line.reference(tag);
    let arguments =
        ["image", "pull", &reference, "--plain-http", "--tag", "os", "--repo", "repo", "--parallel", "2", "--quiet"];
    let (mut killed, mut failed) = (0, 0);
    let mut lost_connections = 0;
    loop {
        let (before, again_before) = (line.proxy.sent_bytes(), line.proxy.sent_again_bytes());
        let faults_before: u64 = line.proxy.faults().values().sum();
        let stderr = fs::File::create(place.path().join("stderr")).unwrap();
        let mut child = place.command(&arguments).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        // After some bytes, or after some time: then it may be busy with what was kept, or with names.
        let (bytes, mut pauses) = match random.below(3) {
            0 => (u64::MAX, random.below(2_000)),
            _ => (1 + random.below(1 << 20), u64::MAX),
        };
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if killed < kills && (line.proxy.sent_bytes() - before >= bytes || pauses == 0) {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            pauses = pauses.saturating_sub(1);
            sleep(Duration::from_micros(200));
        };
        let faults: u64 = line.proxy.faults().values().sum::<u64>() - faults_before;
        let again = line.proxy.sent_again_bytes() - again_before;
        figures.worst_bytes = figures.worst_bytes.max(again / (lost_connections + faults).max(1));
        if status.success() {
            break;
        }
        lost_connections = CONNECTIONS;
        if status.signal().is_some() {
            killed += 1;
            continue;
        }
        failed += 1;
        let said = fs::read_to_string(place.path().join("stderr")).unwrap();
        assert!(said.contains("error: cannot pull") && !said.contains("panicked"), "{said}");
        assert!(failed < FAILURES_MAX, "it does not come to an end: {said}");
    }
    figures.pulls += 1;
    figures.kills += killed;
    figures.failures += u64::from(failed);
    figures.sent_bytes += line.proxy.sent_bytes();
    figures.sent_again_bytes += line.proxy.sent_again_bytes();
    place
}

/// What a pull leaves that nothing happens to.
fn undisturbed(line: &Line, tag: &str) -> BTreeMap<PathBuf, String> {
    line.proxy.set_plan(Plan::none());
    let place = Place::with_repository();
    line.pull(&place, tag, &[]).done();
    contents(&repository(&place))
}

fn assert_clean(place: &Place) {
    let check = place.run(&["repo", "fsck"]).done();
    assert!(check.contains("nothing is wrong"), "{check}");
}

#[test]
fn kills_and_cuts_end_in_the_same_repository_and_cost_a_piece_each() {
    if !have_registry() {
        return;
    }
    let (faults, image_bytes) = scale();
    let line = Line::new(image_bytes);
    let expected = ["gzip", "zstd"].map(|tag| (tag, undisturbed(&line, tag)));
    let mut random = Random::new(1);
    let mut figures = Figures::default();
    let happened = |figures: &Figures| figures.kills + line.proxy.faults().values().sum::<u64>();
    for (tag, expected) in expected.iter().cycle() {
        line.proxy.set_plan(Plan { faults: HONEST, percent: 30, random: random.clone() });
        let place = pull_and_kill(&line, tag, 12, &mut random, &mut figures);
        assert_eq!(contents(&repository(&place)), *expected);
        assert_clean(&place);
        println!("{figures:?}, {:?}", line.proxy.faults());
        if happened(&figures) >= faults {
            break;
        }
    }
    assert!(figures.worst_bytes <= PIECE_BYTES, "{figures:?}");
}

#[test]
fn lies_and_damage_end_in_the_same_repository() {
    if !have_registry() {
        return;
    }
    let (faults, image_bytes) = scale();
    let line = Line::new(image_bytes / 2);
    let mut expected = undisturbed(&line, "gzip");
    expected.retain(|name, _| !name.starts_with("objects"));
    let mut random = Random::new(2);
    let mut figures = Figures::default();
    while line.proxy.faults().values().sum::<u64>() < faults / 3 {
        line.proxy.set_plan(Plan { faults: LIES, percent: 40, random: random.clone() });
        let place = pull_and_kill(&line, "gzip", 3, &mut random, &mut figures);
        assert_clean(&place);
        let mut found = contents(&repository(&place));
        // What was made of wrong bytes has no name.
        found.retain(|name, _| !name.starts_with("objects"));
        assert_eq!(found, expected);
    }
    println!("{figures:?}, {:?}", line.proxy.faults());
}

#[test]
fn what_has_arrived_is_kept_checked_and_collected() {
    if !have_registry() {
        return;
    }
    let line = Line::new(6 << 20);
    let place = Place::with_repository();

    // A limit that ends it, and a collection.
    let stopped = line.pull(&place, "gzip", &["--max-bytes", "300K"]).failed(3);
    assert!(stopped.contains("\nstopped: 300.00 KiB were fetched"), "{stopped}");
    assert!(stopped.contains("hint: run the command again"), "{stopped}");
    assert_eq!(kept(&place).iter().map(|(_, size)| size).sum::<u64>(), 300 << 10);
    let check = place.run(&["repo", "fsck"]).done();
    assert!(check.contains("temporary files: ") && check.contains("nothing is wrong"), "{check}");
    assert!(place.run(&["repo", "gc"]).done().contains("temporary files"));
    assert_eq!(kept(&place), []);

    // Damage while nobody looked: as a power cut may leave it.
    drop(line.pull(&place, "gzip", &["--max-bytes", "300K"]).failed(3));
    let (damaged, size) = kept(&place).into_iter().max_by_key(|(_, size)| *size).unwrap();
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[size as usize / 2..].fill(0);
    fs::write(&damaged, bytes).unwrap();
    line.proxy.forget();
    let run = line.pull(&place, "gzip", &[]);
    assert_eq!(run.stderr.matches("is damaged, fetching it again").count(), 1, "{}", run.stderr);
    run.done();
    assert_eq!(kept(&place), []);
    assert_clean(&place);
}

#[test]
fn limits_on_bytes_are_kept_and_the_next_run_goes_on() {
    if !have_registry() {
        return;
    }
    let line = Line::new(6 << 20);
    let expected = undisturbed(&line, "zstd");
    let image_bytes = line.proxy.sent_bytes();
    line.proxy.forget();
    let place = Place::with_repository();
    let limit = 400 << 10;
    let mut runs = 1;
    loop {
        let run = line.pull(&place, "zstd", &["--max-bytes", "400K", "--parallel", "3", "--progress", "json"]);
        if run.status == 0 {
            break;
        }
        assert_eq!(run.status, 3, "{}", run.stderr);
        runs += 1;
        assert!(runs < 100, "{}", run.stderr);
    }
    assert_eq!(contents(&repository(&place)), expected);
    // The configuration does not count.
    assert_eq!(runs, image_bytes.div_ceil(limit));
}

#[test]
fn a_server_without_parts_is_named_and_read_from_the_beginning() {
    if !have_registry() {
        return;
    }
    let line = Line::new(6 << 20);
    let expected = undisturbed(&line, "gzip");
    let place = Place::with_repository();
    drop(line.pull(&place, "gzip", &["--max-bytes", "300K"]).failed(3));
    line.proxy.set_plan(Plan { faults: &[crate::faulty_proxy::Fault::NoParts], percent: 100, random: Random::new(3) });
    let run = line.pull(&place, "gzip", &["--progress", "plain"]);
    let warning = format!("warning: server {} sends no parts of blobs", line.proxy.address);
    assert!(run.stderr.contains(&warning), "{}", run.stderr);
    assert!(run.stderr.contains("of it already here"), "{}", run.stderr);
    run.done();
    assert_eq!(contents(&repository(&place)), expected);
}

#[test]
fn a_limit_that_a_server_without_parts_cannot_keep_is_an_error() {
    if !have_registry() {
        return;
    }
    let line = Line::new(6 << 20);
    let place = Place::with_repository();
    let limited = ["--max-bytes", "64K", "--parallel", "1"];
    drop(line.pull(&place, "gzip", &limited).failed(3));
    line.proxy.set_plan(Plan { faults: &[crate::faulty_proxy::Fault::NoParts], percent: 100, random: Random::new(3) });
    line.proxy.forget();
    let said = line.pull(&place, "gzip", &limited).failed(1);
    assert!(said.contains(&format!("server {} sends no parts of blobs", line.proxy.address)), "{said}");
    assert!(said.contains("only 65536 are allowed") && said.contains("hint: allow more: --max-bytes "), "{said}");
    let needed = said.split("--max-bytes ").nth(1).unwrap().trim().to_owned();
    line.pull(&place, "gzip", &["--max-bytes", &needed, "--parallel", "1"]).failed(3);
    assert_eq!(kept(&place).iter().map(|(_, size)| size).sum::<u64>(), 0, "the layer is complete");
}

#[test]
fn two_pulls_at_once_do_not_disturb_each_other() {
    if !have_registry() {
        return;
    }
    let line = Line::new(6 << 20);
    let expected = undisturbed(&line, "gzip");
    let place = Place::with_repository();
    let reference = line.reference("gzip");
    let arguments = ["image", "pull", &reference, "--plain-http", "--tag", "os", "--repo", "repo", "--quiet"];
    // With a rate, so that they meet.
    let slow = [&arguments[..], &["--limit-rate", "1M"]].concat();
    let mut first = place.command(&slow).stdout(Stdio::null()).spawn().unwrap();
    sleep(Duration::from_millis(700));
    let second = Run::of(&mut place.command(&arguments));
    second.done();
    first.kill().unwrap();
    first.wait().unwrap();
    assert_clean(&place);
    // What the first one left goes with the next pull.
    line.pull(&place, "gzip", &[]).done();
    assert_eq!(contents(&repository(&place)), expected);
}

#[test]
fn the_rate_is_kept() {
    if !have_registry() {
        return;
    }
    let line = Line::new(6 << 20);
    drop(undisturbed(&line, "gzip"));
    let image_bytes = line.proxy.sent_bytes() as f64;
    let place = Place::with_repository();
    let start = std::time::Instant::now();
    line.pull(&place, "gzip", &["--limit-rate", "1M", "--parallel", "3"]).done();
    let took = start.elapsed().as_secs_f64();
    let expected = image_bytes / f64::from(1 << 20);
    // Never faster; the start and the end of the program take time, too, more of it on a busy machine.
    assert!((expected * 0.95..expected * 1.3 + 3.0).contains(&took), "{took} seconds, expected {expected}");
}
