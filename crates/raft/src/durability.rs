// SPDX-License-Identifier: Apache-2.0

//! What waits for the disk (rules D1 to D5).
//!
//! Writes are numbered and become durable in order. Three things wait for their numbers:
//! - every message waits for the write that holds the current term and vote (D1);
//! - a message that claims durability, a granted vote or an acknowledgement, waits for *every* write issued before it (D2);
//! - an entry is durable when the write that last put it there is, however often its index was written (D4).
//!
//! The numbers belong to this life of the value: after a restart everything that was read back is durable.

use std::collections::VecDeque;

use mraft_types::planted;
use mraft_types::{CondemnedReason, HardState, Index, LogStart, ReplicaId, Term};

use crate::admission::Ignored;
use crate::effect::{Effect, Write};
use crate::log_view::LogView;
use crate::message::{AppendReply, Body, Message};
use crate::raft::{Raft, Standing};

/// Most bytes of entries in one write, so that it fits a batch of the log with room for other groups.
const WRITE_BYTES_MAX: usize = mraft_types::limits::BATCH_BYTES_MAX / 2;

/// Most messages that wait for the disk. They are answers, one for each message received; a peer repeats what was lost.
const WAITING_MESSAGES_MAX: usize = 256;

/// Most acknowledgements that wait separately; further ones are joined to the last.
const WAITING_ACKS_MAX: usize = 64;

/// What a message must not overtake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum After {
    /// The write that holds the current term and vote (rule D1).
    Term,
    /// Every write up to now, that of this turn included (rule D2).
    Everything,
    /// This write.
    Write(u64),
}

/// The state of all writes.
///
/// Invariants: durable ≤ issued; `in_flight` holds exactly the numbers between them, ascending; entries up to `durable_index`
/// are durable, those from `unwritten_from` on are in no write yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Durability {
    issued: u64,
    durable: u64,
    /// The write that holds the current term and vote.
    term_write: u64,
    /// Term and vote of the last write issued.
    written: (Term, Option<ReplicaId>),
    /// Writes that are not durable yet, each with the last index that is durable once it is (as far as nothing overwrote it).
    in_flight: VecDeque<(u64, Index)>,
    durable_index: Index,
    unwritten_from: Index,
    truncate: Option<LogStart>,
    condemned: Option<CondemnedReason>,
    waiting: Vec<(After, Message)>,
    /// What this turn's appends of the current leader amount to.
    ack: Option<Index>,
    /// Acknowledgements of earlier turns, each with the write that it waits for.
    waiting_acks: VecDeque<(u64, Index)>,
}

impl Durability {
    /// Everything read back is durable.
    pub(crate) fn new(hard_state: HardState, last: Index) -> Durability {
        Durability {
            issued: 0,
            durable: 0,
            term_write: 0,
            written: (hard_state.term, hard_state.vote),
            in_flight: VecDeque::new(),
            durable_index: last,
            unwritten_from: last + 1,
            truncate: None,
            condemned: None,
            waiting: Vec::new(),
            ack: None,
            waiting_acks: VecDeque::new(),
        }
    }

    pub(crate) fn durable_index(&self) -> Index {
        self.durable_index
    }

    /// Rule D1: whether the current term and vote are durable.
    pub(crate) fn holds_term(&self, term: Term, vote: Option<ReplicaId>) -> bool {
        self.written == (term, vote) && self.durable >= self.term_write
    }

    /// Rule D4: entries from `first` on were replaced; what earlier writes hold of them counts no more.
    pub(crate) fn overwritten_from(&mut self, first: Index) {
        self.durable_index = self.durable_index.min(first - 1);
        self.unwritten_from = self.unwritten_from.min(first);
        for (_, last) in &mut self.in_flight {
            if !planted!(OverwrittenCounts) {
                *last = (*last).min(first - 1);
            }
        }
    }

    /// An installed snapshot took the place of the whole log, behind every write so far.
    pub(crate) fn restarted_behind(&mut self, start: Index) {
        self.durable_index = start;
        self.unwritten_from = start + 1;
        for (_, last) in &mut self.in_flight {
            *last = start;
        }
        self.truncate = None;
    }

    /// The log forgets entries up to this start with the next write.
    pub(crate) fn truncate(&mut self, start: LogStart) {
        self.truncate = Some(start);
    }

    /// The next write says so.
    pub(crate) fn condemn(&mut self, reason: CondemnedReason) {
        self.condemned = Some(reason);
        self.forget_messages();
    }

    /// Acknowledges the current leader's entries up to `matched` once this turn's write is durable.
    pub(crate) fn acknowledge(&mut self, matched: Index) {
        self.ack = Some(self.ack.map_or(matched, |before| before.max(matched)));
    }

    /// Acknowledgements are for one leader of one term.
    pub(crate) fn forget_acks(&mut self) {
        self.ack = None;
        self.waiting_acks.clear();
    }

    /// What was said in a former term is of no use any more.
    pub(crate) fn forget_messages(&mut self) {
        self.waiting.clear();
        self.forget_acks();
    }

    /// Rule D5: writes up to `number` are durable. Answers whether that is news.
    pub(crate) fn persisted(&mut self, number: u64) -> bool {
        if number <= self.durable || number > self.issued {
            return false;
        }
        while let Some((_, last)) = self.in_flight.pop_front_if(|(write, _)| *write <= number) {
            self.durable_index = self.durable_index.max(last);
        }
        self.durable = number;
        true
    }

    fn hold(&mut self, after: After, message: Message) -> Result<(), Ignored> {
        if self.waiting.len() >= WAITING_MESSAGES_MAX {
            return Err(Ignored::TooManyWaiting);
        }
        self.waiting.push((after, message));
        Ok(())
    }

    /// The next write, if one is needed. A new commit index alone needs none: it is not lost, only learned again (rule D8).
    fn next_write(&mut self, term: Term, vote: Option<ReplicaId>, log: &LogView) -> Option<Write> {
        let entries = log.entries(self.unwritten_from, log.last(), WRITE_BYTES_MAX).unwrap_or_default();
        if entries.is_empty()
            && self.written == (term, vote)
            && self.truncate.is_none()
            && self.condemned.is_none()
        {
            return None;
        }
        self.issued += 1;
        if self.written != (term, vote) {
            self.written = (term, vote);
            self.term_write = self.issued;
        }
        if let Some(last) = entries.last() {
            self.unwritten_from = last.index + 1;
        }
        let last = self.unwritten_from - 1;
        self.in_flight.push_back((self.issued, last));
        Some(Write {
            number: self.issued,
            hard_state: HardState {
                term,
                vote: vote.filter(|_| !planted!(ForgottenVote)),
                commit: log.commit().min(last),
            },
            entries,
            truncate: self.truncate.take(),
            condemned: self.condemned.take(),
        })
    }

    /// The highest acknowledgement that nothing holds back any more.
    fn released_ack(&mut self) -> Option<Index> {
        if let Some(matched) = self.ack.take() {
            if self.waiting_acks.len() >= WAITING_ACKS_MAX {
                self.waiting_acks.pop_back();
            }
            self.waiting_acks.push_back((self.issued, matched));
        }
        let durable = if planted!(AckBeforeDurable) { self.issued } else { self.durable };
        let mut released = None;
        while let Some((_, matched)) = self.waiting_acks.pop_front_if(|(write, _)| *write <= durable) {
            released = released.max(Some(matched));
        }
        released
    }

    /// Numbers begin anew behind the last durable write; answers its former number.
    pub(crate) fn count_anew(&mut self) -> u64 {
        let by = std::mem::take(&mut self.durable);
        self.issued -= by;
        self.term_write = self.term_write.saturating_sub(by);
        self.in_flight.iter_mut().for_each(|(number, _)| *number -= by);
        self.waiting_acks.iter_mut().for_each(|(number, _)| *number = number.saturating_sub(by));
        for (after, _) in &mut self.waiting {
            if let After::Write(number) = after {
                *number = number.saturating_sub(by);
            }
        }
        by
    }

    /// The invariants above, and that nothing was left for a poll to do.
    pub(crate) fn check(&self, log: &LogView) -> Result<(), String> {
        let numbers = self.in_flight.iter().map(|(number, _)| *number);
        if !numbers.eq(self.durable + 1..=self.issued) {
            return Err(format!(
                "writes {:?} are not {}..={}",
                self.in_flight,
                self.durable + 1,
                self.issued
            ));
        }
        if self.durable_index >= self.unwritten_from || self.unwritten_from > log.last() + 1 {
            return Err(format!(
                "durable up to {}, unwritten from {}, but the log ends at {}",
                self.durable_index,
                self.unwritten_from,
                log.last()
            ));
        }
        if log.cached_first() > self.durable_index + 1 {
            return Err(format!("entries from {} are neither durable nor in memory", self.durable_index + 1));
        }
        Ok(())
    }
}

impl Raft {
    /// Says something to a peer, once what it must not overtake is durable.
    pub(crate) fn send(&mut self, after: After, to: ReplicaId, body: Body) {
        self.send_in_term(after, to, self.term, body);
    }

    /// As [`Raft::send`], naming another term (a pre-vote does).
    pub(crate) fn send_in_term(&mut self, after: After, to: ReplicaId, term: Term, body: Body) {
        let message = Message { from: self.config.id, to, term, body };
        if let Err(reason) = self.durability.hold(after, message) {
            self.ignore(reason);
        }
    }

    /// Writes became durable.
    pub(crate) fn handle_persisted(&mut self, number: u64) {
        if !self.durability.persisted(number) {
            return self.ignore(Ignored::OutOfPlace);
        }
        self.commit_what_a_majority_has();
    }

    /// Hands out this turn's write; several only when its entries are too many bytes for one.
    pub(crate) fn poll_write(&mut self, out: &mut Vec<Effect>) {
        while let Some(write) = self.durability.next_write(self.term, self.vote, &self.log) {
            out.push(Effect::Write(write));
        }
    }

    /// Hands out the messages that nothing holds back any more.
    pub(crate) fn poll_messages(&mut self, out: &mut Vec<Effect>) {
        let durability = &mut self.durability;
        let (issued, durable) = (durability.issued, durability.durable);
        let term_held = durability.holds_term(self.term, self.vote);
        for (after, _) in &mut durability.waiting {
            if *after == After::Everything {
                *after = After::Write(issued);
            }
        }
        let ready = |(after, _): &mut (After, Message)| {
            term_held && !matches!(after, After::Write(number) if *number > durable)
        };
        out.extend(durability.waiting.extract_if(.., ready).map(|(_, message)| Effect::Send(message)));
        let takes_part = matches!(
            self.standing,
            Standing::Follower | Standing::PreCandidate(_) | Standing::Candidate(_) | Standing::Leader(_)
        );
        if !takes_part || !term_held {
            return;
        }
        let released = self.durability.released_ack();
        if let (Some(matched), Some(leader)) = (released, self.leader)
            && leader != self.config.id
        {
            let body = Body::AppendReply(AppendReply::Accepted { matched });
            out.push(Effect::Send(Message { from: self.config.id, to: leader, term: self.term, body }));
        }
    }
}
