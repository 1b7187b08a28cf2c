// SPDX-License-Identifier: Apache-2.0

//! Answers on their way back to the callers.
//!
//! A ticket is the number of a sink (24 bits) and the caller's own tag (40 bits). Sinks are never given out twice, so that a late
//! answer to a queue that is gone cannot reach another one. Callers with much traffic own a
//! [`CompletionQueue`] and get answers in batches; everybody else leaves a function behind, which is called once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use mraft_engine::effect::Answer;
use mraft_engine::error::Unknown;
use mraft_engine::event::Ticket;

use crate::mailbox::Mailbox;

const TAG_BITS: u32 = 40;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
/// Sink 0 calls functions; the last number is never given out, so that no ticket equals `NOBODY`.
const CALLS_SINK: u64 = 0;
const SINKS_MAX: u64 = (1 << (64 - TAG_BITS)) - 1;
/// Shards of the table of waiting functions, so that doors on many threads do not share one lock.
const CALL_SHARDS: usize = 16;

/// One caller's answers, each with its tag.
type Sink = Arc<Mailbox<(u64, Answer)>>;

/// A function that waits for its answer.
struct Call {
    answered: Box<dyn FnOnce(Answer) + Send>,
    /// The tick after which [`Completions::expire`] answers it.
    expires_tick: u64,
}

/// Where answers go.
pub(crate) struct Completions {
    sinks: RwLock<HashMap<u64, Sink>>,
    next_sink: AtomicU64,
    calls: Vec<Mutex<HashMap<u64, Call>>>,
    next_call: AtomicU64,
}

/// A caller's own queue of answers, each with the tag that the caller gave.
pub struct CompletionQueue {
    sink: u64,
    mailbox: Sink,
    completions: Arc<Completions>,
}

impl CompletionQueue {
    /// Waits at most `timeout` for answers and swaps them for `taken`.
    pub fn wait(&self, taken: &mut Vec<(u64, Answer)>, timeout: Duration) {
        taken.clear();
        self.mailbox.receive(taken, Some(timeout));
    }

    /// Takes the answers that are there.
    pub fn take(&self, taken: &mut Vec<(u64, Answer)>) {
        taken.clear();
        self.mailbox.take(taken);
    }

    /// The ticket for a tag; only the lowest 40 bits of the tag count.
    pub fn ticket(&self, tag: u64) -> Ticket {
        Ticket(self.sink << TAG_BITS | (tag & TAG_MASK))
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.mailbox.close();
        self.completions.sinks.write().unwrap_or_else(PoisonError::into_inner).remove(&self.sink);
    }
}

impl Completions {
    pub(crate) fn new() -> Arc<Completions> {
        Arc::new(Completions {
            sinks: RwLock::new(HashMap::new()),
            next_sink: AtomicU64::new(CALLS_SINK + 1),
            calls: (0..CALL_SHARDS).map(|_| Mutex::new(HashMap::new())).collect(),
            next_call: AtomicU64::new(1),
        })
    }

    /// A new queue; `None` when 16 million were given out already.
    pub(crate) fn queue(self: &Arc<Completions>) -> Option<CompletionQueue> {
        let sink = self.next_sink.fetch_add(1, Ordering::Relaxed);
        if sink >= SINKS_MAX {
            return None;
        }
        let mailbox = Arc::new(Mailbox::new());
        self.sinks.write().unwrap_or_else(PoisonError::into_inner).insert(sink, Arc::clone(&mailbox));
        Some(CompletionQueue { sink, mailbox, completions: Arc::clone(self) })
    }

    /// A ticket whose answer is given to `answered`, on the thread that has the answer: it must not block.
    pub(crate) fn call(&self, answered: impl FnOnce(Answer) + Send + 'static) -> Ticket {
        self.call_until(u64::MAX, answered)
    }

    /// The same; when no answer is there after this tick, it is that nobody knows.
    pub(crate) fn call_until(
        &self,
        expires_tick: u64,
        answered: impl FnOnce(Answer) + Send + 'static,
    ) -> Ticket {
        let tag = self.next_call.fetch_add(1, Ordering::Relaxed) & TAG_MASK;
        let call = Call { answered: Box::new(answered), expires_tick };
        self.shard(tag).lock().unwrap_or_else(PoisonError::into_inner).insert(tag, call);
        Ticket(CALLS_SINK << TAG_BITS | tag)
    }

    /// Answers the functions whose time is up: their tickets lie where nothing looks at deadlines, with a state machine that does not come
    /// back. The answer that comes in the end finds nobody.
    pub(crate) fn expire(&self, tick: u64) {
        for shard in &self.calls {
            let late: Vec<(u64, Call)> = {
                let mut calls = shard.lock().unwrap_or_else(PoisonError::into_inner);
                calls.extract_if(|_, call| call.expires_tick < tick).collect()
            };
            late.into_iter().for_each(|(_, call)| (call.answered)(Answer::Unknown(Unknown::Deadline)));
        }
    }

    /// Delivers answers.
    pub(crate) fn deliver(&self, answers: Vec<(Ticket, Answer)>) {
        let Some(first) = answers.first().map(|(ticket, _)| ticket.0 >> TAG_BITS) else { return };
        // One caller with much traffic gets a batch as it is.
        if first != CALLS_SINK && answers.iter().all(|(ticket, _)| ticket.0 >> TAG_BITS == first) {
            if let Some(mailbox) = self.sinks.read().unwrap_or_else(PoisonError::into_inner).get(&first) {
                mailbox.send_all(answers.into_iter().map(|(ticket, answer)| (ticket.0 & TAG_MASK, answer)));
            }
            return;
        }
        let mut by_sink: Vec<(u64, Vec<(u64, Answer)>)> = Vec::new();
        for (ticket, answer) in answers {
            if ticket == mraft_engine::NOBODY {
                continue;
            }
            let (sink, tag) = (ticket.0 >> TAG_BITS, ticket.0 & TAG_MASK);
            if sink == CALLS_SINK {
                let call = self.shard(tag).lock().unwrap_or_else(PoisonError::into_inner).remove(&tag);
                if let Some(call) = call {
                    (call.answered)(answer);
                }
                continue;
            }
            match by_sink.iter_mut().find(|(known, _)| *known == sink) {
                Some((_, batch)) => batch.push((tag, answer)),
                None => by_sink.push((sink, vec![(tag, answer)])),
            }
        }
        if by_sink.is_empty() {
            return;
        }
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        for (sink, batch) in by_sink {
            if let Some(mailbox) = sinks.get(&sink) {
                mailbox.send_all(batch);
            }
        }
    }

    fn shard(&self, tag: u64) -> &Mutex<HashMap<u64, Call>> {
        &self.calls[tag as usize % CALL_SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use mraft_types::Index;

    use super::*;

    fn ready(index: Index) -> Answer {
        Answer::ReadReady { index }
    }

    #[test]
    fn answers_reach_the_queue_they_are_for_and_functions_once() {
        let completions = Completions::new();
        let (first, second) = (completions.queue().expect("room"), completions.queue().expect("room"));
        let called = Arc::new(Mutex::new(Vec::new()));
        let call = {
            let called = Arc::clone(&called);
            completions.call(move |answer| called.lock().expect("no panic").push(answer))
        };
        let answers = vec![
            (first.ticket(7), ready(1)),
            (second.ticket(7), ready(2)),
            (call, ready(3)),
            (call, ready(4)),
        ];
        completions.deliver(answers);
        let mut taken = Vec::new();
        first.take(&mut taken);
        assert_eq!(taken, [(7, ready(1))]);
        second.take(&mut taken);
        assert_eq!(taken, [(7, ready(2))]);
        assert_eq!(*called.lock().expect("no panic"), [ready(3)]);
    }

    #[test]
    fn e4_a_function_whose_time_is_up_is_told_that_nobody_knows_and_nothing_more() {
        let completions = Completions::new();
        let called = Arc::new(Mutex::new(Vec::new()));
        let until = |tick: u64| {
            let called = Arc::clone(&called);
            completions.call_until(tick, move |answer| called.lock().expect("no panic").push((tick, answer)))
        };
        let (early, late) = (until(4), until(5));
        completions.expire(4);
        assert_eq!(*called.lock().expect("no panic"), []);
        completions.expire(5);
        completions.deliver(vec![(early, ready(1)), (late, ready(2))]);
        let unknown = Answer::Unknown(Unknown::Deadline);
        assert_eq!(*called.lock().expect("no panic"), [(4, unknown), (5, ready(2))]);
    }

    #[test]
    fn late_answers_to_a_dropped_queue_reach_nobody_else() {
        let completions = Completions::new();
        let first = completions.queue().expect("room");
        let late = first.ticket(1);
        drop(first);
        let next = completions.queue().expect("room");
        completions.deliver(vec![(late, ready(1)), (mraft_engine::NOBODY, ready(2))]);
        let mut taken = Vec::new();
        next.take(&mut taken);
        assert_eq!(taken, []);
    }
}
