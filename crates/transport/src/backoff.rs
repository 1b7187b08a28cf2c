// SPDX-License-Identifier: Apache-2.0

//! Pauses between failed dials: doubling, capped, spread by jitter so that peers of a node that comes back do not all knock at
//! the same moment.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max, failures: 0 }
    }

    /// The pause after one more failure: between half of the doubled pause and all of it.
    pub(crate) fn next(&mut self, jitter: u64) -> Duration {
        let full = self.min.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let half_ns = u64::try_from(full.as_nanos() / 2).unwrap_or(u64::MAX / 2);
        full - Duration::from_nanos(half_ns) + Duration::from_nanos(jitter % (half_ns + 1))
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_their_cap_and_spread_over_their_upper_half() {
        let (min, max) = (Duration::from_millis(20), Duration::from_millis(100));
        let (mut least, mut most) = (Backoff::new(min, max), Backoff::new(min, max));
        for full in [20, 40, 80, 100, 100] {
            let full = Duration::from_millis(full);
            assert_eq!(least.next(0), full / 2);
            assert_eq!(most.next(u64::try_from((full / 2).as_nanos()).expect("short")), full);
        }
        least.reset();
        assert_eq!(least.next(0), min / 2);
        for _ in 0..100 {
            assert!(most.next(u64::MAX) <= max);
        }
    }
}
