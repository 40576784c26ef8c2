//! A power cut in the middle of the operations on a medium, with what it may leave on FAT.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

use super::Medium;

/// What the operation that was under way leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tear {
    /// Nothing: it did not reach the medium.
    Nothing,
    /// Write: the beginning of the file. Rename: both names. Exchange: the second name has the first's contents, too.
    Half,
    /// Write: an empty file. Rename: the new name, of an empty file. Exchange: the first name has the second's contents, too.
    Empty,
    /// Write: a file of the right length with other contents. Rename: neither name. Exchange: it reached the medium.
    Lost,
}

impl Tear {
    pub(crate) const ALL: [Self; 4] = [Self::Nothing, Self::Half, Self::Empty, Self::Lost];
}

/// Counts operations down to the cut.
#[derive(Debug, Default)]
pub(crate) struct Power {
    left: Cell<Option<u32>>,
    tear: Cell<Option<Tear>>,
}

pub(crate) struct Cut {
    pub(crate) error: io::Error,
    pub(crate) tear: Tear,
}

impl Power {
    /// Lets so many operations through; the next one is torn, and those after it do nothing.
    pub(crate) fn cut_after(&self, operations: u32, tear: Tear) {
        self.left.set(Some(operations));
        self.tear.set(Some(tear));
    }

    /// Whether the cut has happened.
    pub(crate) fn is_off(&self) -> bool {
        self.left.get() == Some(0) && self.tear.get().is_none()
    }

    pub(super) fn step(&self) -> Result<(), Cut> {
        match self.left.get() {
            None => Ok(()),
            Some(0) => {
                Err(Cut { error: io::Error::other("power cut"), tear: self.tear.take().unwrap_or(Tear::Nothing) })
            }
            Some(left) => {
                self.left.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

pub(super) fn torn_write(medium: &Medium, path: &str, contents: &mut dyn Read, tear: Tear) {
    let mut bytes = Vec::new();
    contents.read_to_end(&mut bytes).unwrap();
    match tear {
        Tear::Nothing => return,
        Tear::Half => bytes.truncate(bytes.len() / 2),
        Tear::Empty => bytes.clear(),
        Tear::Lost => bytes.fill(0xe5),
    }
    let fd = rustix::fs::openat(&medium.root, path, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    fs::write(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)), bytes).unwrap();
}

pub(super) fn torn_rename(dir: &OwnedFd, from: &str, to: &str, tear: Tear) {
    match tear {
        Tear::Nothing => {}
        Tear::Half => rustix::fs::linkat(dir, from, dir, to, AtFlags::empty()).unwrap(),
        Tear::Empty => {
            rustix::fs::unlinkat(dir, from, AtFlags::empty()).unwrap();
            rustix::fs::openat(dir, to, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
        }
        Tear::Lost => rustix::fs::unlinkat(dir, from, AtFlags::empty()).unwrap(),
    }
}

pub(super) fn torn_exchange(dir: &OwnedFd, one: &str, other: &str, tear: Tear) {
    let link = |from: &str, to: &str| {
        rustix::fs::unlinkat(dir, to, AtFlags::empty()).unwrap();
        rustix::fs::linkat(dir, from, dir, to, AtFlags::empty()).unwrap();
    };
    match tear {
        Tear::Nothing => {}
        Tear::Half => link(one, other),
        Tear::Empty => link(other, one),
        Tear::Lost => rustix::fs::renameat_with(dir, one, dir, other, RenameFlags::EXCHANGE).unwrap(),
    }
}
