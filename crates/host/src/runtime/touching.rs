// SPDX-License-Identifier: Apache-2.0

//! Since when somebody waits for the disk (rule T1).
//!
//! Two kinds of threads answer callers and touch it: the log thread, and the apply threads, whose state machines read and flush. What
//! counts of the log is its oldest write that is not durable, also while it waits behind others; of an apply thread the one thing that it is
//! at. Background threads do not count: their work may take long, and an apply thread waits when it needs them. Nor does the time during
//! which the whole process stood still.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Who keeps callers waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// The log, for a write.
    Log,
    /// A state machine, for whatever it does.
    Machine,
}

/// Moments in microseconds since `started`; 0 stands for none.
#[derive(Debug)]
pub(super) struct Touching {
    started: Instant,
    /// The oldest write that the log thread has not taken yet was handed in.
    log_waits_since: AtomicU64,
    /// The oldest write that the log thread is at was handed in, or what it is at otherwise began.
    log_busy_since: AtomicU64,
    /// By apply thread, what it is at began.
    applies_busy_since: Vec<AtomicU64>,
    /// The process went on after it had stood still.
    went_on_at: AtomicU64,
}

impl Touching {
    pub(super) fn new(started: Instant, apply_threads: usize) -> Touching {
        let none = || AtomicU64::new(0);
        let applies_busy_since = (0..apply_threads).map(|_| none()).collect();
        Touching {
            started,
            log_waits_since: none(),
            log_busy_since: none(),
            applies_busy_since,
            went_on_at: none(),
        }
    }

    /// A write is about to be handed in. Said before it is: a moment that nobody takes away again would count for ever.
    pub(super) fn log_gets_write(&self) {
        // It fails while an older one waits.
        let _ = self.log_waits_since.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The log thread makes durable what it has taken.
    pub(super) fn log_writes<T>(&self, write: impl FnOnce() -> T) -> T {
        let since = match self.log_waits_since.swap(0, Ordering::Relaxed) {
            0 => self.now(),
            since => since,
        };
        during(&self.log_busy_since, since, write)
    }

    /// The log thread does something else with the disk.
    pub(super) fn log_touches<T>(&self, touch: impl FnOnce() -> T) -> T {
        during(&self.log_busy_since, self.now(), touch)
    }

    /// An apply thread does one thing.
    pub(super) fn apply_does<T>(&self, thread: usize, act: impl FnOnce() -> T) -> T {
        match self.applies_busy_since.get(thread) {
            Some(since) => during(since, self.now(), act),
            None => act(),
        }
    }

    /// The process stood still, and goes on: what is under way counts from now.
    pub(super) fn goes_on(&self) {
        self.went_on_at.store(self.now(), Ordering::Relaxed);
    }

    /// Who keeps callers waiting for longest, and for how long.
    pub(super) fn oldest(&self) -> (Waits, Duration) {
        let went_on_at = self.went_on_at.load(Ordering::Relaxed);
        let age = |since: &AtomicU64| match since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.started.elapsed().saturating_sub(Duration::from_micros(since.max(went_on_at))),
        };
        let log = age(&self.log_busy_since).max(age(&self.log_waits_since));
        let machine = self.applies_busy_since.iter().map(age).max().unwrap_or_default();
        if log >= machine { (Waits::Log, log) } else { (Waits::Machine, machine) }
    }

    fn now(&self) -> u64 {
        super::micros(self.started.elapsed()).max(1)
    }
}

fn during<T>(since: &AtomicU64, moment: u64, act: impl FnOnce() -> T) -> T {
    since.store(moment, Ordering::Relaxed);
    let result = act();
    since.store(0, Ordering::Relaxed);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t1_a_write_counts_from_when_it_was_handed_in_until_it_is_durable() {
        let started = Instant::now() - Duration::from_secs(100);
        let touching = Touching::new(started, 1);
        let handed_in = |seconds: u64| touching.log_waits_since.store(seconds * 1_000_000, Ordering::Relaxed);
        assert_eq!(touching.oldest(), (Waits::Log, Duration::ZERO));
        handed_in(40);
        assert!(touching.oldest().1 >= Duration::from_secs(60), "it waits");
        touching.log_writes(|| {
            assert!(touching.oldest().1 >= Duration::from_secs(60), "it is being written");
            touching.log_gets_write();
            assert!(touching.oldest().1 >= Duration::from_secs(60), "a later one waits behind it");
        });
        assert!(touching.oldest().1 < Duration::from_secs(60), "it is durable, the later one is not");
        touching.log_writes(|| ());
        assert_eq!(touching.oldest(), (Waits::Log, Duration::ZERO));
    }

    #[test]
    fn t1_the_time_during_which_the_process_stood_still_is_not_the_disks() {
        let touching = Touching::new(Instant::now() - Duration::from_secs(100), 1);
        touching.log_waits_since.store(1, Ordering::Relaxed);
        assert!(touching.oldest().1 >= Duration::from_secs(90));
        touching.goes_on();
        assert!(touching.oldest().1 < Duration::from_secs(60), "it waits since the process went on");
    }

    #[test]
    fn t1_a_state_machine_counts_while_it_is_at_something() {
        let touching = Touching::new(Instant::now() - Duration::from_secs(100), 2);
        touching.apply_does(1, || {
            touching.applies_busy_since[1].store(1, Ordering::Relaxed);
            assert!(matches!(touching.oldest(), (Waits::Machine, age) if age > Duration::from_secs(90)));
        });
        assert_eq!(touching.oldest(), (Waits::Log, Duration::ZERO));
    }
}
