// SPDX-License-Identifier: Apache-2.0

//! Whether there is room on the disk (rule D10), for whoever has to be told, and so that leadership moves to where there is some.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::status::StateRoom;

/// Moments in microseconds since `started`; 0 stands for none.
#[derive(Debug)]
pub(super) struct Room {
    started: Instant,
    /// The log found no room.
    log_full_since: AtomicU64,
    applies: Vec<OfApplyThread>,
}

#[derive(Debug, Default)]
struct OfApplyThread {
    lacks: AtomicBool,
    refuses_since: AtomicU64,
}

impl Room {
    pub(super) fn new(started: Instant, apply_threads: usize) -> Room {
        let applies = (0..apply_threads).map(|_| OfApplyThread::default()).collect();
        Room { started, log_full_since: AtomicU64::new(0), applies }
    }

    /// The log finds no room, or some again.
    pub(super) fn log_is_full(&self, is_full: bool) {
        self.keep(&self.log_full_since, is_full);
    }

    /// Whether the log finds none.
    pub(super) fn is_log_full(&self) -> bool {
        self.log_full_since.load(Ordering::Relaxed) != 0
    }

    /// What an apply thread found.
    pub(super) fn apply_finds(&self, thread: usize, room: StateRoom) {
        if let Some(of_thread) = self.applies.get(thread) {
            of_thread.lacks.store(room >= StateRoom::Lacking, Ordering::Relaxed);
            self.keep(&of_thread.refuses_since, room == StateRoom::Refusing);
        }
    }

    /// What the apply thread says that has least.
    pub(super) fn of_states(&self) -> StateRoom {
        let of_thread = |thread: &OfApplyThread| match thread.refuses_since.load(Ordering::Relaxed) {
            0 if thread.lacks.load(Ordering::Relaxed) => StateRoom::Lacking,
            0 => StateRoom::Enough,
            _ => StateRoom::Refusing,
        };
        self.applies.iter().map(of_thread).max().unwrap_or_default()
    }

    /// For how long writes have been refused for want of room.
    pub(super) fn refuses_for(&self) -> Duration {
        let moments = self.applies.iter().map(|thread| &thread.refuses_since).chain([&self.log_full_since]);
        let ages = moments.filter_map(|since| match since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(self.started.elapsed().saturating_sub(Duration::from_micros(since))),
        });
        ages.max().unwrap_or_default()
    }

    fn keep(&self, since: &AtomicU64, holds: bool) {
        if !holds {
            since.store(0, Ordering::Relaxed);
        } else if since.load(Ordering::Relaxed) == 0 {
            since.store(super::micros(self.started.elapsed()).max(1), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d10_refusals_count_from_the_first_one_until_there_is_room_for_everything() {
        let room = Room::new(Instant::now() - Duration::from_secs(100), 2);
        assert_eq!((room.of_states(), room.refuses_for()), (StateRoom::Enough, Duration::ZERO));
        room.apply_finds(1, StateRoom::Lacking);
        assert_eq!((room.of_states(), room.refuses_for()), (StateRoom::Lacking, Duration::ZERO));
        room.apply_finds(0, StateRoom::Refusing);
        room.applies[0].refuses_since.store(10_000_000, Ordering::Relaxed);
        room.apply_finds(0, StateRoom::Refusing);
        assert_eq!(room.of_states(), StateRoom::Refusing);
        assert!(room.refuses_for() >= Duration::from_secs(90), "it goes on");
        room.apply_finds(0, StateRoom::Enough);
        assert_eq!((room.of_states(), room.refuses_for()), (StateRoom::Lacking, Duration::ZERO));
        room.log_full_since.store(1, Ordering::Relaxed);
        assert!(room.refuses_for() > Duration::from_secs(90));
        room.log_is_full(false);
        room.apply_finds(1, StateRoom::Enough);
        assert_eq!((room.of_states(), room.refuses_for()), (StateRoom::Enough, Duration::ZERO));
    }
}
