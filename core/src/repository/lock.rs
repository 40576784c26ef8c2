//! The lock: `flock` on the repository directory, shared by all users, exclusive for garbage collection.

mod holders;

pub use holders::LockHolder;
pub(super) use holders::holders;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long an operation waits for others unless told otherwise. A collection takes seconds, a pull minutes.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two attempts. There is no way to wait for a `flock` with a limit but to ask again.
const PAUSE: Duration = Duration::from_millis(50);

/// Why the lock was not taken.
#[derive(Debug)]
pub(super) enum LockFailure {
    /// Others kept it for all the time.
    Busy(LockHolders),
    /// The file system refused.
    Errno(Errno),
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// The processes that kept a lock, for messages: "process 12 (osupdate), this process itself".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolders(pub Vec<LockHolder>);

impl fmt::Display for LockHolders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, others)) = self.0.split_first() else { return f.write_str("another process") };
        write!(f, "{first}")?;
        others.iter().try_for_each(|holder| write!(f, ", {holder}"))
    }
}

/// Takes the lock; calls `waiting` once if it is not free at once.
///
/// The kernel gives up the lock that is held before it tries for one of another mode, so after a failure none is held.
pub(super) fn acquire(
    dir: BorrowedFd<'_>,
    mode: Mode,
    patience: Duration,
    waiting: impl FnOnce(LockHolders),
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
            return Err(LockFailure::Busy(LockHolders(holders(dir))));
        }
        if let Some(waiting) = waiting.take() {
            waiting(LockHolders(holders(dir)));
        }
        sleep(PAUSE.min(patience.saturating_sub(start.elapsed())));
    }
}

/// Gives up the lock.
pub(super) fn release(dir: BorrowedFd<'_>) -> rustix::io::Result<()> {
    flock(dir, FlockOperation::Unlock)
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
        acquire(first.as_fd(), Mode::Shared, SHORT, |_| panic!("the lock is free")).unwrap();
        acquire(second.as_fd(), Mode::Shared, SHORT, |_| panic!("the lock is shared")).unwrap();
        let waited = AtomicU32::new(0);
        let count = |_| {
            waited.fetch_add(1, Ordering::Relaxed);
        };
        let busy = acquire(collector.as_fd(), Mode::Exclusive, SHORT, count);
        // Both handles are of this process, which is one holder.
        assert!(
            matches!(busy, Err(LockFailure::Busy(holders)) if holders.to_string() == "another handle of this process")
        );
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
        assert!(matches!(acquire(late.as_fd(), Mode::Shared, SHORT, |_| ()), Err(LockFailure::Busy(_))));
    }

    #[test]
    fn a_failed_conversion_loses_the_lock_that_was_held() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = [(); 2].map(|()| File::open(dir.path()).unwrap());
        acquire(first.as_fd(), Mode::Shared, SHORT, |_| ()).unwrap();
        acquire(second.as_fd(), Mode::Shared, SHORT, |_| ()).unwrap();
        assert!(matches!(acquire(first.as_fd(), Mode::Exclusive, SHORT, |_| ()), Err(LockFailure::Busy(_))));
        acquire(second.as_fd(), Mode::Exclusive, SHORT, |_| ()).unwrap();
    }
}
