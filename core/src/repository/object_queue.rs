//! Objects on their way into the repository, stored by threads of their own.
//!
//! Who reads an archive hands over whole objects and reads on, while workers hash, write and name them. So one layer keeps
//! several processors busy, and where the kernel seals objects, which takes a wait for the disk or two for each,
//! several are under way. What waits is bounded by [`QUEUE_BYTES`].

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
    /// A worker has panicked: nothing is stored any more.
    broken: bool,
}

#[derive(Debug)]
struct Job {
    data: Vec<u8>,
    result: SyncSender<Result<Digest, ObjectError>>,
}

/// Held by a worker: lets nobody wait for ever for one that panics. The panic itself is passed on when the scope of the
/// workers ends.
struct Working<'a>(&'a ObjectQueue<'a>);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut state = self.0.lock();
            state.broken = true;
            // Whoever waits for one of them is told by the end of its channel.
            state.jobs.clear();
            self.0.room.notify_all();
        }
    }
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
        self.with_queue_that(|data| self.put_object(data).map(|stored| stored.digest), f)
    }

    fn with_queue_that<T>(
        &self,
        store: impl Fn(&[u8]) -> Result<Digest, ObjectError> + Sync,
        f: impl FnOnce(&ObjectQueue<'_>) -> T,
    ) -> T {
        let (state, work, room) = Default::default();
        let queue = ObjectQueue { repository: self, state, work, room };
        let processors = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let workers = match self.verity() {
                Verity::Required => SEALING_WORKERS_MIN.max(processors),
                Verity::Unverified => processors,
            };
            for _ in 0..workers {
                scope.spawn(|| queue.work(&store));
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

    /// Hands over an object. Waits until there is room. The receiver is told nothing if a worker has panicked.
    pub(crate) fn put(&self, data: Vec<u8>) -> PendingObject {
        let (result, stored) = sync_channel(1);
        let mut state = self.lock();
        // A larger one than fits goes alone.
        while !state.broken && state.queued_bytes > 0 && state.queued_bytes + data.len() > QUEUE_BYTES {
            state = wait(&self.room, state);
        }
        if state.broken {
            return stored;
        }
        state.queued_bytes += data.len();
        state.jobs.push_back(Job { data, result });
        drop(state);
        self.work.notify_one();
        stored
    }

    fn work(&self, store: impl Fn(&[u8]) -> Result<Digest, ObjectError>) {
        let _working = Working(self);
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
            let stored = store(&job.data);
            drop(job.data);
            // Who handed it over may have given up.
            if job.result.send(stored).is_err() {
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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::digest::Algorithm;
    use crate::fsverity;

    fn repository() -> (tempfile::TempDir, Repository) {
        let directory = tempfile::tempdir().unwrap();
        Repository::init(directory.path(), Algorithm::Sha512, Verity::Unverified).unwrap();
        let repository = Repository::open(directory.path()).unwrap();
        (directory, repository)
    }

    #[test]
    fn what_waits_is_bounded_and_all_of_it_is_stored() {
        let (_directory, repository) = repository();
        let (waiting, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let store = |data: &[u8]| {
            // Slower than they are handed over.
            thread::sleep(Duration::from_millis(10));
            waiting.fetch_sub(data.len(), Ordering::SeqCst);
            Ok(repository.put_object(data)?.digest)
        };
        let size = QUEUE_BYTES / 3;
        repository.with_queue_that(store, |queue| {
            let pending: Vec<_> = (0..12_u8)
                .map(|number| {
                    let now = waiting.fetch_add(size, Ordering::SeqCst) + size;
                    most.fetch_max(now, Ordering::SeqCst);
                    (number, queue.put(vec![number; size]))
                })
                .collect();
            for (number, stored) in pending {
                let expected = fsverity::digest(repository.algorithm(), &vec![number; size]);
                assert_eq!(stored.recv().unwrap().unwrap(), expected);
            }
        });
        // The one that is about to be handed over is counted here as well.
        assert!(most.into_inner() <= QUEUE_BYTES + size);
    }

    #[test]
    fn an_object_larger_than_the_queue_goes_alone() {
        let (_directory, repository) = repository();
        let data = vec![7; QUEUE_BYTES + 1];
        let expected = fsverity::digest(repository.algorithm(), &data);
        repository.with_queue(|queue| {
            let small = queue.put(vec![1]);
            assert_eq!(queue.put(data).recv().unwrap().unwrap(), expected);
            assert!(small.recv().unwrap().is_ok());
        });
    }

    #[test]
    fn nobody_waits_for_a_worker_that_panicked() {
        let (_directory, repository) = repository();
        let store = |_: &[u8]| -> Result<Digest, ObjectError> { panic!("a defect") };
        let result = catch_unwind(AssertUnwindSafe(|| {
            repository.with_queue_that(store, |queue| {
                let pending: Vec<_> = (0..64).map(|_| queue.put(vec![0; QUEUE_BYTES / 2])).collect();
                assert!(pending.iter().all(|stored| stored.recv().is_err()));
            });
        }));
        result.expect_err("the panic is passed on");
    }
}
