//! Who holds the lock, as far as the kernel tells: `/proc/locks`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{fstat, major, minor};

/// A process that has the repository open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockHolder {
    /// The one that asks, through another handle. It waits for itself unless another thread gives that up.
    ThisProcess,
    /// Another one.
    Process {
        /// Its number.
        id: u32,
        /// Its name, if it can be known.
        name: Option<String>,
    },
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThisProcess => f.write_str("another handle of this process"),
            Self::Process { id, name: Some(name) } => write!(f, "process {id} ({name})"),
            Self::Process { id, name: None } => write!(f, "process {id}"),
        }
    }
}

/// The processes with a lock on this directory, by number; none if the kernel does not tell.
pub(in crate::repository) fn holders(dir: BorrowedFd<'_>) -> Vec<LockHolder> {
    let (Ok(stat), Ok(locks)) = (fstat(dir), fs::read_to_string("/proc/locks")) else { return Vec::new() };
    let device = format!("{:02x}:{:02x}", major(stat.st_dev), minor(stat.st_dev));
    let ids: BTreeSet<u32> = locks
        .lines()
        .filter_map(|line| parse(line, stat.st_ino))
        // Btrfs shows another device here than in stat.
        .filter(|(id, shown)| *shown == device || has_open(*id, stat.st_dev, stat.st_ino))
        .map(|(id, _)| id)
        .collect();
    ids.into_iter().map(holder).collect()
}

/// Process and device of a line about a lock that is held on a file with this inode number:
/// `1: FLOCK  ADVISORY  READ 4711 fd:00:1234 0 EOF`.
fn parse(line: &str, inode: u64) -> Option<(u32, &str)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    // Lines of those who wait have an arrow here.
    words.next().filter(|word| *word == "FLOCK")?;
    let id = words.nth(2)?.parse().ok()?;
    let (device, shown_inode) = words.next()?.rsplit_once(':')?;
    (shown_inode.parse() == Ok(inode)).then_some((id, device))
}

fn has_open(id: u32, device: u64, inode: u64) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{id}/fd")) else { return false };
    let mut files = entries.filter_map(|entry| fs::metadata(entry.ok()?.path()).ok());
    files.any(|file| (file.dev(), file.ino()) == (device, inode))
}

fn holder(id: u32) -> LockHolder {
    if id == std::process::id() {
        return LockHolder::ThisProcess;
    }
    let name = fs::read_to_string(format!("/proc/{id}/comm")).ok().map(|name| name.trim_end().to_owned());
    LockHolder::Process { id, name: name.filter(|name| !name.is_empty() && !name.contains(char::is_control)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_other_locks_are_passed_over() {
        assert_eq!(parse("1: FLOCK  ADVISORY  READ 4711 fd:00:1234 0 EOF", 1234), Some((4711, "fd:00")));
        for other in [
            "1: FLOCK  ADVISORY  READ 4711 fd:00:12345 0 EOF",
            "1: -> FLOCK  ADVISORY  WRITE 4712 fd:00:1234 0 EOF",
            "2: POSIX  ADVISORY  WRITE 4711 fd:00:1234 0 EOF",
            "3: FLOCK",
            "",
        ] {
            assert_eq!(parse(other, 1234), None, "{other}");
        }
    }
}
