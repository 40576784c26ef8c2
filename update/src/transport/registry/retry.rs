//! How often and how patiently requests are tried again.

use std::thread;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Longest wait that a registry can ask us for; one that asks for more is not asked again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Longest wait of our own between two attempts.
const DELAY_MAX: Duration = Duration::from_secs(30);

/// How often and how patiently a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts for one answer, the first included; for a blob also the times it may break and be continued.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles for each further one. Up to half of it is left out at random.
    pub first_delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, first_delay: Duration::from_millis(500) }
    }
}

impl Retry {
    /// Waits before attempt `next` (2 is the second), or as long as the server asked for. A random part keeps many
    /// machines that failed together from coming back together.
    pub(super) fn wait(&self, next: u32, asked: Option<Duration>) {
        thread::sleep(self.delay(next, asked, fastrand::f64()));
    }

    /// `random` is between 0 and 1.
    fn delay(&self, next: u32, asked: Option<Duration>, random: f64) -> Duration {
        match asked {
            // Not earlier than asked for.
            Some(asked) => asked.min(RETRY_AFTER_MAX).mul_f64(1.0 + random / 10.0),
            None => {
                let doubled = self.first_delay.saturating_mul(1 << next.saturating_sub(2).min(16));
                doubled.min(DELAY_MAX).mul_f64(1.0 - random / 2.0)
            }
        }
    }
}

/// Whether another attempt may be answered differently.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The wait that a server asks for with `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryAfter {
    /// It asks for none.
    Unsaid,
    /// Worth waiting for.
    Wait(Duration),
    /// Longer than anybody wants to wait for.
    TooLong(Duration),
}

impl RetryAfter {
    /// Reads the header: seconds, or a date (RFC 9110 section 10.2.3). What is neither asks for nothing.
    pub(super) fn of(headers: &HeaderMap, now: SystemTime) -> Self {
        let value = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
        let wait = match value.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => match httpdate::parse_http_date(value) {
                Ok(date) => date.duration_since(now).unwrap_or_default(),
                Err(_) => return Self::Unsaid,
            },
        };
        if wait > RETRY_AFTER_MAX { Self::TooLong(wait) } else { Self::Wait(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_after(value: &str) -> RetryAfter {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        // Sun, 06 Nov 1994 08:49:37 GMT
        RetryAfter::of(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
    }

    #[test]
    fn seconds_and_dates_are_understood() {
        let wait = |seconds| RetryAfter::Wait(Duration::from_secs(seconds));
        assert_eq!(retry_after("7"), wait(7));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:07 GMT"), wait(30));
        assert_eq!(retry_after("Sunday, 06-Nov-94 08:50:07 GMT"), wait(30));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT"), wait(0));
        assert_eq!(retry_after("Mon, 07 Nov 1994 08:49:37 GMT"), RetryAfter::TooLong(Duration::from_secs(86400)));
        assert_eq!(retry_after("99999999999999999999"), RetryAfter::Unsaid);
        assert_eq!(retry_after("-1"), RetryAfter::Unsaid);
        assert_eq!(retry_after("soon"), RetryAfter::Unsaid);
        assert_eq!(RetryAfter::of(&HeaderMap::new(), SystemTime::now()), RetryAfter::Unsaid);
    }

    #[test]
    fn waits_double_vary_and_end() {
        let retry = Retry::default();
        let delay = |next, random| retry.delay(next, None, random).as_millis();
        assert_eq!([delay(2, 0.0), delay(3, 0.0), delay(4, 0.0), delay(100, 0.0)], [500, 1000, 2000, 30_000]);
        assert_eq!([delay(2, 1.0), delay(3, 1.0), delay(100, 1.0)], [250, 500, 15_000]);
        let asked = Some(Duration::from_secs(10));
        assert!(retry.delay(2, asked, 0.0) >= Duration::from_secs(10));
        assert!(retry.delay(2, asked, 1.0) <= Duration::from_secs(11));
    }
}
