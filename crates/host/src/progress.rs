// SPDX-License-Identifier: Apache-2.0

//! How far a start is. Each of thousands of groups has files to be opened or made, and a node that says nothing meanwhile looks like one
//! that hangs. One that is soon through says nothing.

use std::time::{Duration, Instant};

/// Short for somebody who waits, long for a log.
const SAID_EVERY: Duration = Duration::from_secs(2);

/// Counts what is done of something and says so from time to time.
#[derive(Debug)]
pub(crate) struct Progress {
    total: usize,
    done: usize,
    said: Instant,
}

impl Progress {
    /// Nothing of it is done yet.
    pub(crate) fn new(total: usize, now: Instant) -> Progress {
        Progress { total, done: 0, said: now }
    }

    /// One more is done; says how many are, in front of what they are, when it is time.
    pub(crate) fn one_more(&mut self, now: Instant, what: &str) {
        if self.count(now) {
            tracing::info!(done = self.done, of = self.total, "{what}");
        }
    }

    /// Whether it is time. Of the last one whoever waits hears anyway.
    fn count(&mut self, now: Instant) -> bool {
        self.done += 1;
        let is_due = self.done < self.total && now.saturating_duration_since(self.said) >= SAID_EVERY;
        if is_due {
            self.said = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often something is said of a hundred groups that take so long each.
    fn said(each: Duration) -> usize {
        let begun = Instant::now();
        let mut progress = Progress::new(100, begun);
        (1..=100).filter(|done| progress.count(begun + each * *done)).count()
    }

    #[test]
    fn a_long_start_says_now_and_then_how_far_it_is() {
        assert_eq!(said(Duration::from_millis(100)), 4, "after 2, 4, 6 and 8 of 10 seconds");
    }

    #[test]
    fn a_short_start_says_nothing_of_it() {
        assert_eq!(said(Duration::from_millis(10)), 0);
    }
}
