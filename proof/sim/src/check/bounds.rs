// SPDX-License-Identifier: Apache-2.0

//! Queues and memory stay within their bounds (rule T2).

use mraft_raft::Raft;
use mraft_types::{Entry, GroupId};

use super::Broken;

/// See the module.
pub const PROMISE: &str = "queues and memory stay within their bounds";

/// Jobs that wait for a log: a replica writes once per turn, and a log that is held up lets nobody propose for long.
pub const LOG_JOBS_MAX: usize = 4_096;
/// Mail that waits for state machines.
pub const MAIL_MAX: usize = 4_096;

/// What one replica holds in memory between two steps: what is durable it can let go of.
pub fn replica(group: GroupId, replica: &Raft) -> Result<(), Broken> {
    let config = replica.config();
    let (durable, last) = (replica.durable_index(), replica.last_index());
    let undurable = if durable < last { replica.entries(durable + 1, last, usize::MAX) } else { None };
    let undurable_bytes: usize = undurable.iter().flatten().map(Entry::cost_bytes).sum();
    let most =
        config.cache_bytes_max.saturating_add(config.unapplied_bytes_max).saturating_add(undurable_bytes);
    let held = replica.cached_bytes();
    if held <= most {
        return Ok(());
    }
    let how = format!("{} of group {group} holds {held} bytes of entries, {most} at most", replica.id());
    Err(Broken::new(PROMISE, how))
}

/// A queue of a node.
pub fn queue(what: &str, len: usize, most: usize) -> Result<(), Broken> {
    if len <= most {
        return Ok(());
    }
    Err(Broken::new(PROMISE, format!("{len} {what} wait, {most} at most")))
}

#[cfg(test)]
mod tests {
    use mraft_raft::{Effect, Event};

    use super::*;
    use crate::check::tests::{GROUP, voter_of};

    #[test]
    fn entries_that_stay_in_memory_for_ever_are_seen() {
        let mut raft = voter_of(1, &[(1, 1)], 1);
        let mut written = 0;
        let mut turn = |raft: &mut Raft, is_durable: bool| {
            let mut effects = Vec::new();
            raft.poll(&mut effects);
            written = effects.iter().fold(written, |number, effect| match effect {
                Effect::Write(write) => write.number,
                _ => number,
            });
            if is_durable {
                raft.step(Event::Persisted { write: written });
            }
        };
        for number in 1..40 {
            raft.step(Event::Tick { number, random: 0 });
            turn(&mut raft, true);
        }
        raft.propose(vec![1; 4096].into()).expect("the only voter leads");
        turn(&mut raft, false);
        assert!(replica(GROUP, &raft).is_ok(), "what is not durable has to stay");
        turn(&mut raft, true);
        assert!(replica(GROUP, &raft).is_err_and(|broken| broken.promise == PROMISE));
        turn(&mut raft, false);
        assert!(replica(GROUP, &raft).is_ok(), "it let go of it");
    }

    #[test]
    fn a_queue_that_is_too_long_is_seen() {
        assert!(queue("jobs", 3, 3).is_ok() && queue("jobs", 4, 3).is_err());
    }
}
