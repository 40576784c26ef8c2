//! The lock: `flock` on the repository directory, shared by all users, exclusive for garbage collection.

use std::fmt;
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

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        })
    }
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
