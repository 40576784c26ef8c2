//! The lock: `flock` on the repository directory, shared by all users, exclusive for garbage collection.

use std::os::fd::BorrowedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long an operation waits for others. A collection takes seconds, a pull minutes.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two attempts. There is no way to wait for a `flock` with a limit but to ask again.
const PAUSE: Duration = Duration::from_millis(50);

/// Why the lock was not taken.
#[derive(Debug)]
pub(super) enum LockFailure {
    /// Somebody else kept it for all the time.
    Busy,
    /// The file system refused.
    Errno(Errno),
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// Takes the lock; calls `waiting` once if it is not free at once.
///
/// The kernel gives up the lock that is held before it tries for one of another mode, so after a failure none is held.
pub(super) fn acquire(
    dir: BorrowedFd<'_>,
    mode: Mode,
    patience: Duration,
    waiting: impl FnOnce(),
) -> Result<(), LockFailure> {
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    let start = Instant::now();
    let mut waiting = Some(waiting);
    loop {
        match flock(dir, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(errno) => return Err(LockFailure::Errno(errno)),
        }
        if start.elapsed() >= patience {
            return Err(LockFailure::Busy);
        }
        if let Some(waiting) = waiting.take() {
            waiting();
        }
        sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    const SHORT: Duration = Duration::from_millis(120);

    #[test]
    fn users_share_and_a_collector_waits_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second, collector] = [(); 3].map(|()| File::open(dir.path()).unwrap());
        acquire(first.as_fd(), Mode::Shared, SHORT, || panic!("the lock is free")).unwrap();
        acquire(second.as_fd(), Mode::Shared, SHORT, || panic!("the lock is shared")).unwrap();
        let waited = AtomicU32::new(0);
        let count = || {
            waited.fetch_add(1, Ordering::Relaxed);
        };
        let busy = acquire(collector.as_fd(), Mode::Exclusive, SHORT, count);
        assert!(matches!(busy, Err(LockFailure::Busy)));
        assert_eq!(waited.load(Ordering::Relaxed), 1);

        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(SHORT);
                drop((first, second));
            });
            acquire(collector.as_fd(), Mode::Exclusive, Duration::from_secs(60), count).unwrap();
        });
        assert_eq!(waited.load(Ordering::Relaxed), 2);
        let late = File::open(dir.path()).unwrap();
        assert!(matches!(acquire(late.as_fd(), Mode::Shared, SHORT, || ()), Err(LockFailure::Busy)));
    }

    #[test]
    fn a_failed_conversion_loses_the_lock_that_was_held() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = [(); 2].map(|()| File::open(dir.path()).unwrap());
        acquire(first.as_fd(), Mode::Shared, SHORT, || ()).unwrap();
        acquire(second.as_fd(), Mode::Shared, SHORT, || ()).unwrap();
        assert!(matches!(acquire(first.as_fd(), Mode::Exclusive, SHORT, || ()), Err(LockFailure::Busy)));
        acquire(second.as_fd(), Mode::Exclusive, SHORT, || ()).unwrap();
    }
}
