// SPDX-License-Identifier: Apache-2.0

//! How long acknowledged writes took: a figure that is told and never judged.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Of so many writes the time is kept; more would say nothing new.
const WRITES_MAX: usize = 1 << 20;

/// Times of writes, kept from [`Latencies::begin`] on only: a run may last for hours.
#[derive(Debug, Default)]
pub struct Latencies(Mutex<Option<Vec<Duration>>>);

impl Latencies {
    /// Times count from now on.
    pub fn begin(&self) {
        *self.lock() = Some(Vec::new());
    }

    /// A write was acknowledged after so long.
    pub(crate) fn add(&self, took: Duration) {
        if let Some(times) = self.lock().as_mut().filter(|times| times.len() < WRITES_MAX) {
            times.push(took);
        }
    }

    /// Of how many writes since then the time is known, and their 99th percentile. No more times are kept.
    pub fn end(&self) -> (usize, Duration) {
        let mut times = self.lock().take().unwrap_or_default();
        times.sort_unstable();
        let place = (times.len() * 99 / 100).min(times.len().saturating_sub(1));
        (times.len(), times.get(place).copied().unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Duration>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_write_of_a_hundred_takes_longer_than_the_percentile() {
        let latencies = Latencies::default();
        latencies.add(Duration::from_secs(7));
        latencies.begin();
        (1..=200).rev().map(Duration::from_millis).for_each(|took| latencies.add(took));
        assert_eq!(latencies.end(), (200, Duration::from_millis(199)));
        assert_eq!(latencies.end(), (0, Duration::ZERO));
    }
}
