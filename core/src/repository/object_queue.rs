//! Objects on their way into the repository, stored by threads of their own.
//!
//! Who reads an archive hands over whole objects and reads on, while workers hash, write and name them. So one layer keeps
//! several processors busy, and where the kernel seals objects, which takes a wait for the disk or two for each,
//! several are under way. What waits is bounded by [`QUEUE_BYTES`].
//!
//! *Not done*: to write data out early by further syncs. In three imports of 2.4 GB each, in turns on a busy machine, that gained
//! nothing and took 20 MB more.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{ObjectError, Repository, Verity};
use crate::digest::Digest;

/// Most bytes of objects that wait or are being stored.
const QUEUE_BYTES: usize = 8 << 20;
/// Sealing waits for the disk most of the time.
const SEALING_WORKERS_MIN: usize = 8;

/// What becomes of an object that was handed over.
pub(crate) type PendingObject = Receiver<Result<Digest, ObjectError>>;

/// Stores objects; see [`Repository::with_queue`].
#[derive(Debug)]
pub(crate) struct ObjectQueue<'a> {
    repository: &'a Repository,
    state: Mutex<State>,
    /// There is a job, or there will be no more.
    work: Condvar,
    /// There is room for a job.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Bytes of jobs, those being stored included.
    queued_bytes: usize,
    closed: bool,
}

#[derive(Debug)]
struct Job {
    data: Vec<u8>,
    result: SyncSender<Result<Digest, ObjectError>>,
}

/// Ends the workers when it is dropped, also by a panic.
struct Closing<'a>(&'a ObjectQueue<'a>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_all();
    }
}

impl Repository {
    /// Calls `f` with a queue whose workers run as long as that takes. All objects are stored on return.
    pub(crate) fn with_queue<T>(&self, f: impl FnOnce(&ObjectQueue<'_>) -> T) -> T {
        let (state, work, room) = Default::default();
        let queue = ObjectQueue { repository: self, state, work, room };
        let processors = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let workers = match self.verity() {
                Verity::Required => SEALING_WORKERS_MIN.max(processors),
                Verity::Unverified => processors,
            };
            for _ in 0..workers {
                scope.spawn(|| queue.work());
            }
            let _closing = Closing(&queue);
            f(&queue)
        })
    }
}

impl ObjectQueue<'_> {
    /// The repository that the objects go to.
    pub(crate) fn repository(&self) -> &Repository {
        self.repository
    }

    /// Hands over an object. Waits until there is room.
    pub(crate) fn put(&self, data: Vec<u8>) -> PendingObject {
        let (result, stored) = sync_channel(1);
        let mut state = self.lock();
        // A larger one than fits goes alone.
        while state.queued_bytes > 0 && state.queued_bytes + data.len() > QUEUE_BYTES {
            state = wait(&self.room, state);
        }
        state.queued_bytes += data.len();
        state.jobs.push_back(Job { data, result });
        drop(state);
        self.work.notify_one();
        stored
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            let Some(job) = state.jobs.pop_front() else {
                if state.closed {
                    return;
                }
                state = wait(&self.work, state);
                continue;
            };
            drop(state);
            let size_bytes = job.data.len();
            let stored = self.repository.put_object(&job.data);
            drop(job.data);
            // Who handed it over may have given up.
            if job.result.send(stored.map(|stored| stored.digest)).is_err() {
                tracing::debug!("nobody waits for an object that was stored");
            }
            state = self.lock();
            state.queued_bytes -= size_bytes;
            self.room.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}
