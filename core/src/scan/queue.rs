//! Work that is left, for several threads.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::ScanError;
use super::entry::Identity;

/// A directory to be read.
#[derive(Debug)]
pub(super) struct DirectoryJob {
    /// Where its result goes.
    pub(super) number: usize,
    /// Path below the scanned directory; empty for that itself.
    pub(super) path: Vec<u8>,
    pub(super) depth: usize,
    /// What its parent saw.
    pub(super) identity: Identity,
}

/// A large file, whose contents are taken by whoever has time.
#[derive(Debug)]
pub(super) struct FileJob {
    /// Where its digest goes.
    pub(super) number: usize,
    pub(super) path: Vec<u8>,
    pub(super) identity: Identity,
}

/// The larger file is the greater one.
impl Ord for FileJob {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.identity.size, other.number).cmp(&(other.identity.size, self.number))
    }
}

impl PartialOrd for FileJob {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for FileJob {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for FileJob {}

#[derive(Debug)]
pub(super) enum Job {
    Directory(DirectoryJob),
    File(FileJob),
}

#[derive(Debug, Default)]
struct State {
    directories: Vec<DirectoryJob>,
    files: BinaryHeap<FileJob>,
    directories_made: usize,
    files_made: usize,
    /// Jobs that were handed out and may make others.
    running: usize,
    error: Option<ScanError>,
}

/// Directories come first, the last one found before the others, so that few are waiting. Large files come when there is
/// no directory left, the largest one first, so that no thread begins with one when all others are done.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what a directory led to; `number` hands out the numbers.
    pub(super) fn add(
        &self,
        directories: impl ExactSizeIterator<Item = (Vec<u8>, usize, Identity)>,
        files: impl ExactSizeIterator<Item = (Vec<u8>, Identity)>,
    ) -> (usize, usize) {
        let mut state = self.lock();
        let first = (state.directories_made, state.files_made);
        state.directories_made += directories.len();
        state.files_made += files.len();
        let numbered = directories.enumerate();
        state.directories.extend(numbered.map(|(index, (path, depth, identity))| DirectoryJob {
            number: first.0 + index,
            path,
            depth,
            identity,
        }));
        let numbered = files.enumerate();
        state.files.extend(numbered.map(|(index, (path, identity))| FileJob {
            number: first.1 + index,
            path,
            identity,
        }));
        drop(state);
        self.changed.notify_all();
        first
    }

    /// The next job; waits while others may make some. `None`: there will be no more. Every job is to be [`Queue::done`].
    pub(super) fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.error.is_some() {
                return None;
            }
            let job = match state.directories.pop() {
                Some(directory) => Some(Job::Directory(directory)),
                None => state.files.pop().map(Job::File),
            };
            if job.is_some() {
                state.running += 1;
                return job;
            }
            if state.running == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a job. The first error ends all.
    pub(super) fn done(&self, result: Result<(), ScanError>) {
        let mut state = self.lock();
        state.running -= 1;
        if let Err(error) = result {
            state.error.get_or_insert(error);
        }
        let wake = state.running == 0 || state.error.is_some();
        drop(state);
        if wake {
            self.changed.notify_all();
        }
    }

    pub(super) fn into_result(self) -> Result<(), ScanError> {
        match self.state.into_inner().unwrap_or_else(PoisonError::into_inner).error {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
