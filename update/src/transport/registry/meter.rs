//! The meter that all connections of a pull go through: how fast, and how much.

use std::num::NonZeroU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::super::limits::TransferLimits;

/// What was not used of the rate for so long may be used later: waits end late, and reading takes time.
const CREDIT: Duration = Duration::from_millis(200);
/// Pieces in a second that the rate is divided into.
const PIECES_PER_SECOND: u64 = 20;
/// Smaller pieces would only cost time.
const PIECE_MIN_BYTES: u64 = 1 << 10;

/// Fetching ended because as much was fetched as is allowed. What has arrived is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{max_bytes} bytes were fetched, and no more are allowed")]
pub struct LimitReached {
    /// [`TransferLimits::max_bytes`].
    pub max_bytes: u64,
}

/// What bytes are fetched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To know what there is to be fetched: without it there would be no progress, so only the rate counts.
    Document,
    /// A layer.
    Layer,
}

/// Shared by all connections.
#[derive(Debug)]
pub(super) struct Meter {
    limits: TransferLimits,
    state: Mutex<State>,
    /// Something that was reserved was settled.
    settled: Condvar,
}

#[derive(Debug)]
struct State {
    /// When, by the rate, the next byte may come.
    due: Instant,
    /// Bytes of layers that may still be fetched.
    left_bytes: u64,
    /// Bytes that are reserved: some of them may not be needed.
    reserved_bytes: u64,
}

impl Meter {
    pub(super) fn new(limits: TransferLimits) -> Self {
        let left_bytes = limits.max_bytes.map_or(u64::MAX, NonZeroU64::get);
        let state = State { due: Instant::now(), left_bytes, reserved_bytes: 0 };
        Self { limits, state: Mutex::new(state), settled: Condvar::new() }
    }

    /// Whether fetching ends after some bytes of layers.
    pub(super) fn is_limited(&self) -> bool {
        self.limits.max_bytes.is_some()
    }

    /// Fails if so many bytes are as many as may still be fetched, or more, so that nothing would come after them.
    pub(super) fn check(&self, bytes: u64, purpose: Purpose) -> Result<(), LimitReached> {
        match (purpose, self.limits.max_bytes) {
            (Purpose::Layer, Some(max_bytes)) if bytes > 0 && bytes >= self.lock().left_bytes => {
                Err(LimitReached { max_bytes: max_bytes.get() })
            }
            _ => Ok(()),
        }
    }

    /// How many of the bytes that are wanted may be read now; at least one. Waits for other connections if they have reserved
    /// all that is left: they need not get it.
    pub(super) fn reserve(&self, wanted: usize, purpose: Purpose) -> Result<usize, LimitReached> {
        let mut granted = wanted as u64;
        if let Some(rate) = self.limits.bytes_per_second {
            granted = granted.min((rate.get() / PIECES_PER_SECOND).max(PIECE_MIN_BYTES));
        }
        if let (Purpose::Layer, Some(max_bytes)) = (purpose, self.limits.max_bytes) {
            let mut state = self.lock();
            while state.left_bytes == 0 && state.reserved_bytes > 0 {
                state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            granted = granted.min(state.left_bytes);
            if granted == 0 {
                return Err(LimitReached { max_bytes: max_bytes.get() });
            }
            state.left_bytes -= granted;
            state.reserved_bytes += granted;
        }
        // Not more than what was wanted.
        Ok(usize::try_from(granted).unwrap_or(wanted))
    }

    /// Tells how many of the reserved bytes were read; waits as long as the rate demands.
    pub(super) fn settle(&self, reserved: usize, read: usize, purpose: Purpose) {
        let mut wait = Duration::ZERO;
        {
            let mut state = self.lock();
            if purpose == Purpose::Layer && self.limits.max_bytes.is_some() {
                state.left_bytes += (reserved - read) as u64;
                state.reserved_bytes -= reserved as u64;
                self.settled.notify_all();
            }
            if let Some(rate) = self.limits.bytes_per_second {
                let now = Instant::now();
                let earliest = now.checked_sub(CREDIT).unwrap_or(now);
                let takes = Duration::from_secs_f64(read as f64 / rate.get() as f64);
                state.due = state.due.max(earliest) + takes;
                wait = state.due.saturating_duration_since(now);
            }
        }
        if !wait.is_zero() {
            sleep(wait);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(rate: u64, max_bytes: u64) -> Meter {
        let [bytes_per_second, max_bytes] = [rate, max_bytes].map(NonZeroU64::new);
        Meter::new(TransferLimits { bytes_per_second, max_bytes, connections: None })
    }

    #[test]
    fn without_limits_all_is_granted_at_once() {
        let meter = meter(0, 0);
        assert_eq!(meter.reserve(1 << 20, Purpose::Layer), Ok(1 << 20));
        let start = Instant::now();
        meter.settle(1 << 20, 1 << 20, Purpose::Layer);
        assert!(start.elapsed() < CREDIT);
    }

    #[test]
    fn connections_share_one_rate() {
        let (rate, each) = (4 << 20, 1 << 20);
        let meter = meter(rate, 0);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut left = each;
                    while left > 0 {
                        let granted = meter.reserve(left, Purpose::Layer).unwrap();
                        meter.settle(granted, granted, Purpose::Layer);
                        left -= granted;
                    }
                });
            }
        });
        let expected = 3.0 * each as f64 / rate as f64;
        let took = start.elapsed().as_secs_f64();
        // Never faster; how much slower is up to whoever else uses the machine.
        assert!((expected..expected * 1.5).contains(&took), "{took} seconds, expected {expected}");
    }

    #[test]
    fn no_more_than_the_limit_is_granted_and_documents_are_free() {
        let meter = meter(0, 100);
        assert_eq!(meter.reserve(60, Purpose::Layer), Ok(60));
        assert_eq!(meter.reserve(60, Purpose::Layer), Ok(40));
        meter.settle(60, 60, Purpose::Layer);
        meter.settle(40, 10, Purpose::Layer);
        assert_eq!(meter.check(29, Purpose::Layer), Ok(()));
        assert_eq!(meter.check(30, Purpose::Layer), Err(LimitReached { max_bytes: 100 }));
        assert_eq!(meter.reserve(60, Purpose::Layer), Ok(30));
        meter.settle(30, 30, Purpose::Layer);
        assert_eq!(meter.reserve(1, Purpose::Layer), Err(LimitReached { max_bytes: 100 }));
        assert_eq!(meter.reserve(60, Purpose::Document), Ok(60));
        meter.settle(60, 0, Purpose::Document);
        assert_eq!(meter.reserve(1, Purpose::Layer), Err(LimitReached { max_bytes: 100 }));
    }

    #[test]
    fn what_another_connection_has_reserved_and_does_not_get_is_granted() {
        let meter = meter(0, 100);
        assert_eq!(meter.reserve(100, Purpose::Layer), Ok(100));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| meter.reserve(50, Purpose::Layer));
            sleep(Duration::from_millis(50));
            meter.settle(100, 60, Purpose::Layer);
            assert_eq!(waiting.join().unwrap(), Ok(40));
            let waiting = scope.spawn(|| meter.reserve(50, Purpose::Layer));
            sleep(Duration::from_millis(50));
            meter.settle(40, 40, Purpose::Layer);
            assert_eq!(waiting.join().unwrap(), Err(LimitReached { max_bytes: 100 }));
        });
    }
}
