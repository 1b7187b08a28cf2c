// SPDX-License-Identifier: Apache-2.0

//! Limits of rate: a token bucket that is told the time, and the thread's side of it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time as pacing sees it.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
    /// Waits.
    fn sleep(&self, duration: Duration);
}

/// The system's monotonic clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl SystemClock {
    /// Starts at zero.
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// Lets `rate` bytes pass per second, and bursts of an eighth of a second. Whoever takes too much is told to wait; what is
/// taken meanwhile waits longer, so that no share is lost between several takers.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    bytes_per_second: u64,
    /// Bytes that may pass at once, times 10⁹; negative while a debt is being paid off.
    balance: i128,
    last: Duration,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(bytes_per_second: u64, now: Duration) -> TokenBucket {
        let bytes_per_second = bytes_per_second.max(1);
        TokenBucket { bytes_per_second, balance: burst(bytes_per_second), last: now }
    }

    /// Takes `bytes`; how long to wait before they are in keeping with the rate.
    pub fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let rate = i128::from(self.bytes_per_second);
        let elapsed_ns = now.saturating_sub(self.last).as_nanos().min(NANOS * 3600) as i128;
        self.last = self.last.max(now);
        self.balance = (self.balance + elapsed_ns * rate).min(burst(self.bytes_per_second));
        self.balance -= i128::from(bytes) * NANOS as i128;
        let wait_ns = if self.balance < 0 { (-self.balance + rate - 1) / rate } else { 0 };
        Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(u64::MAX))
    }
}

fn burst(bytes_per_second: u64) -> i128 {
    i128::from(bytes_per_second / 8) * NANOS as i128
}

const NANOS: u128 = 1_000_000_000;

/// A bucket that threads share and wait at.
pub(crate) struct Pacer {
    bucket: Option<Mutex<TokenBucket>>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Pacer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bucket.fmt(f)
    }
}

impl Pacer {
    /// 0 = no limit.
    pub(crate) fn new(bytes_per_second: u64, clock: Arc<dyn Clock>) -> Pacer {
        let bucket =
            (bytes_per_second > 0).then(|| Mutex::new(TokenBucket::new(bytes_per_second, clock.now())));
        Pacer { bucket, clock }
    }

    /// Waits until `bytes` are in keeping with the rate, or until `closing`; how long it was.
    pub(crate) fn pace(&self, bytes: u64, closing: &AtomicBool) -> Duration {
        /// How late a close may be noticed.
        const SLICE: Duration = Duration::from_millis(50);
        let Some(bucket) = &self.bucket else { return Duration::ZERO };
        let wait = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(self.clock.now(), bytes);
        let mut left = wait;
        while !left.is_zero() && !closing.load(Ordering::Acquire) {
            let slice = left.min(SLICE);
            self.clock.sleep(slice);
            left -= slice;
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_passes_keeps_to_the_rate_whatever_the_pieces() {
        for piece in [1_000u64, 30_000, 700_000] {
            let mut bucket = TokenBucket::new(1_000_000, Duration::ZERO);
            let (mut now, mut passed) = (Duration::ZERO, 0);
            while passed < 10_000_000 {
                now += bucket.take(now, piece);
                passed += piece;
            }
            let due = passed - 125_000;
            assert_eq!(now.as_micros(), u128::from(due), "pieces of {piece}");
        }
    }

    #[test]
    fn a_pause_saves_up_no_more_than_the_burst() {
        let mut bucket = TokenBucket::new(800, Duration::ZERO);
        assert_eq!(bucket.take(100 * SECOND, 100), Duration::ZERO);
        assert_eq!(bucket.take(100 * SECOND, 800), SECOND);
    }

    #[test]
    fn a_clock_that_stands_still_makes_everybody_wait_longer() {
        let mut bucket = TokenBucket::new(800, SECOND);
        bucket.take(SECOND, 100);
        assert_eq!(bucket.take(SECOND, 800), SECOND);
        assert_eq!(bucket.take(SECOND, 800), 2 * SECOND);
    }
}
