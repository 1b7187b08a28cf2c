// SPDX-License-Identifier: Apache-2.0

//! Who waits for what in one group (rule E3).
//!
//! Truncation and step-down answer nothing. A proposal's ticket lives until an entry is committed at its index: its own entry
//! takes the ticket along to the state machine, another one means `not_applied`. A snapshot over its index, its deadline or the
//! end of the replica mean `unknown`.

use std::collections::btree_map::OccupiedEntry;
use std::collections::{BTreeMap, VecDeque};

use mraft_types::planted;
use mraft_types::{Index, LogPosition};

use crate::effect::{Answer, EntryTickets};
use crate::error::{NotApplied, Unknown};
use crate::event::{Proposal, ReadKind, Ticket};

/// A read that waits, with the others that came with it.
#[derive(Clone, Debug)]
pub(crate) struct Readers {
    pub(crate) kind: ReadKind,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) deadline_tick: u64,
}

/// Who waits for the commands of one entry.
#[derive(Clone, Debug)]
struct Proposed {
    tickets: Vec<Ticket>,
    deadline_ticks: Vec<u64>,
    earliest_deadline_tick: u64,
}

/// The one membership change under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingChange {
    pub(crate) ticket: Ticket,
    pub(crate) position: LogPosition,
    pub(crate) deadline_tick: u64,
}

/// All waiting requests of one group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    pub(crate) pending: VecDeque<Proposal>,
    pub(crate) pending_bytes: usize,
    /// Who asked for a checkpoint; each is proposed, or refused, in the group's next turn. As many as `pending` may have.
    pub(crate) checkpoints: VecDeque<Ticket>,
    /// By the place in the log that decides them, not in the order of proposing: what an earlier office proposed may stand behind what
    /// this one does, since the log in between was overwritten.
    proposed: BTreeMap<LogPosition, Proposed>,
    /// Not yet part of a round.
    pub(crate) reads_waiting: Vec<Readers>,
    /// By round.
    reads_joined: BTreeMap<u64, Vec<Readers>>,
    /// Confirmed, until the index is applied.
    reads_confirmed: BTreeMap<Index, Vec<Readers>>,
    pub(crate) reads_count: usize,
    pub(crate) change: Option<PendingChange>,
    pub(crate) transfer: Option<Ticket>,
}

/// A ticket whose deadline never sweeps: the state machine answers it.
pub(crate) type Answers = Vec<(Ticket, Answer)>;

impl Requests {
    /// Whether confirmed reads wait for their index to be applied.
    pub(crate) fn waits_for_apply(&self) -> bool {
        !self.reads_confirmed.is_empty()
    }

    pub(crate) fn proposed(&mut self, position: LogPosition, proposals: impl Iterator<Item = (Ticket, u64)>) {
        let (tickets, deadline_ticks): (Vec<Ticket>, Vec<u64>) = proposals.unzip();
        if tickets.iter().all(|ticket| *ticket == NOBODY) {
            return;
        }
        let earliest_deadline_tick = deadline_ticks.iter().copied().min().unwrap_or(u64::MAX);
        self.proposed.insert(position, Proposed { tickets, deadline_ticks, earliest_deadline_tick });
    }

    /// The tickets of the entries up to `last`, which are committed; `term_at` knows which entry stands at an index.
    pub(crate) fn committed(
        &mut self,
        last: Index,
        term_at: impl Fn(Index) -> Option<u64>,
        answers: &mut Answers,
    ) -> Vec<EntryTickets> {
        let mut own = Vec::new();
        while let Some((position, Proposed { tickets, .. })) = self.pop_proposed(last) {
            match term_at(position.index) {
                Some(term) if term == position.term || planted!(TermIgnored) => {
                    own.push(EntryTickets { position, tickets });
                }
                Some(_) => answer_all(answers, tickets, &Answer::NotApplied(NotApplied::Overwritten)),
                None => answer_all(answers, tickets, &Answer::Unknown(Unknown::CoveredBySnapshot)),
            }
        }
        own
    }

    /// The first one whose entry's index is at most `last`.
    fn pop_proposed(&mut self, last: Index) -> Option<(LogPosition, Proposed)> {
        self.proposed.first_entry().filter(|first| first.key().index <= last).map(OccupiedEntry::remove_entry)
    }

    /// A snapshot covers everything up to here.
    pub(crate) fn covered(&mut self, through: Index, answers: &mut Answers) {
        while let Some((_, Proposed { tickets, .. })) = self.pop_proposed(through) {
            answer_all(answers, tickets, &Answer::Unknown(Unknown::CoveredBySnapshot));
        }
        if self.change.is_some_and(|change| change.position.index <= through)
            && let Some(change) = self.change.take()
        {
            answers.push((change.ticket, Answer::Unknown(Unknown::CoveredBySnapshot)));
        }
    }

    /// Everything that waits for its turn gets the same answer: nothing of it was proposed.
    pub(crate) fn refuse_pending(&mut self, reason: &NotApplied, answers: &mut Answers) {
        self.pending_bytes = 0;
        answers.extend(
            self.pending.drain(..).map(|proposal| (proposal.ticket, Answer::NotApplied(reason.clone()))),
        );
    }

    pub(crate) fn refuse_waiting_reads(&mut self, reason: &NotApplied, answers: &mut Answers) {
        for readers in std::mem::take(&mut self.reads_waiting) {
            self.reads_count = self.reads_count.saturating_sub(readers.tickets.len());
            answer_all(answers, readers.tickets, &Answer::NotApplied(reason.clone()));
        }
    }

    /// Refuses every read, whatever it waits for.
    pub(crate) fn refuse_reads(&mut self, reason: &NotApplied, answers: &mut Answers) {
        self.refuse_waiting_reads(reason, answers);
        self.rounds_void(u64::MAX, reason, answers);
        for readers in std::mem::take(&mut self.reads_confirmed).into_values().flatten() {
            answer_all(answers, readers.tickets, &Answer::NotApplied(reason.clone()));
        }
        self.reads_count = 0;
    }

    pub(crate) fn join_round(&mut self, round: u64) {
        let waiting = std::mem::take(&mut self.reads_waiting);
        self.reads_joined.entry(round).or_default().extend(waiting);
    }

    /// The round is confirmed; earlier ones are confirmed with it.
    pub(crate) fn round_ready(&mut self, round: u64, index: Index, applied: Index, answers: &mut Answers) {
        let later = self.reads_joined.split_off(&round.saturating_add(1));
        for readers in std::mem::replace(&mut self.reads_joined, later).into_values().flatten() {
            if readers.kind == ReadKind::IndexOnly || index <= applied || planted!(ReadUnapplied) {
                self.reads_count = self.reads_count.saturating_sub(readers.tickets.len());
                answer_all(answers, readers.tickets, &Answer::ReadReady { index });
            } else {
                self.reads_confirmed.entry(index).or_default().push(readers);
            }
        }
    }

    pub(crate) fn rounds_void(&mut self, round: u64, reason: &NotApplied, answers: &mut Answers) {
        let later = self.reads_joined.split_off(&round.saturating_add(1));
        for readers in std::mem::replace(&mut self.reads_joined, later).into_values().flatten() {
            self.reads_count = self.reads_count.saturating_sub(readers.tickets.len());
            answer_all(answers, readers.tickets, &Answer::NotApplied(reason.clone()));
        }
    }

    /// Readers of a confirmed index wait until it is applied (rule R2).
    pub(crate) fn wait_applied(
        &mut self,
        index: Index,
        applied: Index,
        readers: Readers,
        answers: &mut Answers,
    ) {
        if index <= applied || planted!(FollowerReadsAtOnce) {
            answer_all(answers, readers.tickets, &Answer::ReadReady { index });
        } else {
            self.reads_count += readers.tickets.len();
            self.reads_confirmed.entry(index).or_default().push(readers);
        }
    }

    pub(crate) fn applied(&mut self, applied: Index, answers: &mut Answers) {
        let later = self.reads_confirmed.split_off(&applied.saturating_add(1));
        for (index, readers) in std::mem::replace(&mut self.reads_confirmed, later) {
            for readers in readers {
                self.reads_count = self.reads_count.saturating_sub(readers.tickets.len());
                answer_all(answers, readers.tickets, &Answer::ReadReady { index });
            }
        }
    }

    /// Answers every request whose deadline has passed.
    pub(crate) fn expire(&mut self, tick: u64, answers: &mut Answers) {
        if self.pending.iter().any(|proposal| proposal.deadline_tick < tick) {
            let (late, waiting): (Vec<Proposal>, Vec<Proposal>) = std::mem::take(&mut self.pending)
                .into_iter()
                .partition(|proposal| proposal.deadline_tick < tick);
            self.pending = waiting.into();
            for proposal in late {
                self.pending_bytes = self.pending_bytes.saturating_sub(proposal.body.len());
                answers.push((proposal.ticket, Answer::NotApplied(NotApplied::Deadline)));
            }
        }
        self.proposed.retain(|_, proposed| proposed.expire(tick, answers));
        let expired = &mut Vec::new();
        for readers in std::iter::once(&mut self.reads_waiting)
            .chain(self.reads_joined.values_mut())
            .chain(self.reads_confirmed.values_mut())
        {
            readers.retain_mut(|readers| {
                let late = readers.deadline_tick < tick;
                if late {
                    expired.append(&mut readers.tickets);
                }
                !late
            });
        }
        self.reads_count = self.reads_count.saturating_sub(expired.len());
        answer_all(answers, std::mem::take(expired), &Answer::NotApplied(NotApplied::Deadline));
        self.reads_joined.retain(|_, readers| !readers.is_empty());
        self.reads_confirmed.retain(|_, readers| !readers.is_empty());
        if let Some(change) = self.change.take_if(|change| change.deadline_tick < tick) {
            answers.push((change.ticket, Answer::Unknown(Unknown::Deadline)));
        }
    }

    /// The replica stops: what was never proposed is `not_applied`, the rest is `unknown`.
    pub(crate) fn stop(&mut self, reason: &NotApplied, answers: &mut Answers) {
        self.refuse_pending(reason, answers);
        answers.extend(self.checkpoints.drain(..).map(|ticket| (ticket, Answer::NotApplied(reason.clone()))));
        self.refuse_reads(reason, answers);
        for proposed in std::mem::take(&mut self.proposed).into_values() {
            let answer = match planted!(StepDownRefuses) {
                true => Answer::NotApplied(reason.clone()),
                false => Answer::Unknown(Unknown::Stopped),
            };
            answer_all(answers, proposed.tickets, &answer);
        }
        if let Some(change) = self.change.take() {
            answers.push((change.ticket, Answer::Unknown(Unknown::Stopped)));
        }
        if let Some(ticket) = self.transfer.take() {
            answers.push((ticket, Answer::NotApplied(reason.clone())));
        }
    }
}

impl Proposed {
    /// Late tickets are answered and replaced by [`NOBODY`], so that results keep their places. Answers whether anybody still waits: what
    /// earlier offices proposed must not pile up in a group that never gets as far again.
    fn expire(&mut self, tick: u64, answers: &mut Answers) -> bool {
        if self.earliest_deadline_tick >= tick {
            return true;
        }
        self.earliest_deadline_tick = u64::MAX;
        for (ticket, deadline_tick) in self.tickets.iter_mut().zip(&mut self.deadline_ticks) {
            if *deadline_tick < tick {
                let answer = match planted!(LateIsNotApplied) {
                    true => Answer::NotApplied(NotApplied::Deadline),
                    false => Answer::Unknown(Unknown::Deadline),
                };
                answers.push((std::mem::replace(ticket, NOBODY), answer));
                *deadline_tick = u64::MAX;
            }
            self.earliest_deadline_tick = self.earliest_deadline_tick.min(*deadline_tick);
        }
        self.tickets.iter().any(|ticket| *ticket != NOBODY)
    }
}

/// Stands where a ticket was answered before its command; answers to it go nowhere.
pub const NOBODY: Ticket = Ticket(u64::MAX);

fn answer_all(answers: &mut Answers, tickets: Vec<Ticket>, answer: &Answer) {
    answers.extend(
        tickets.into_iter().filter(|ticket| *ticket != NOBODY).map(|ticket| (ticket, answer.clone())),
    );
}

#[cfg(test)]
mod tests {
    use mraft_types::Payload;

    use super::*;

    fn position(index: Index, term: u64) -> LogPosition {
        LogPosition { index, term }
    }

    #[test]
    fn e3_a_ticket_learns_its_fate_from_what_is_committed_at_its_index() {
        let mut requests = Requests::default();
        requests.proposed(position(5, 2), [(Ticket(1), 99)].into_iter());
        requests.proposed(position(6, 2), [(Ticket(2), 99)].into_iter());
        requests.proposed(position(7, 2), [(Ticket(3), 99)].into_iter());
        let mut answers = Vec::new();
        let own = requests.committed(6, |index| Some(if index == 5 { 2 } else { 3 }), &mut answers);
        assert_eq!(own, [EntryTickets { position: position(5, 2), tickets: vec![Ticket(1)] }]);
        assert_eq!(answers, [(Ticket(2), Answer::NotApplied(NotApplied::Overwritten))]);
        answers.clear();
        requests.covered(7, &mut answers);
        assert_eq!(answers, [(Ticket(3), Answer::Unknown(Unknown::CoveredBySnapshot))]);
    }

    #[test]
    fn e3_what_a_later_office_proposed_at_a_lower_index_is_decided_first() {
        let mut requests = Requests::default();
        for index in 10..=20 {
            requests.proposed(position(index, 1), [(Ticket(index), 99)].into_iter());
        }
        requests.proposed(position(12, 3), [(Ticket(112), 99)].into_iter());
        let term_at = |index| Some(if index < 12 { 2 } else { 3 });
        let mut answers = Vec::new();
        let own = requests.committed(12, term_at, &mut answers);
        assert_eq!(own, [EntryTickets { position: position(12, 3), tickets: vec![Ticket(112)] }]);
        let overwritten = |index| (Ticket(index), Answer::NotApplied(NotApplied::Overwritten));
        assert_eq!(answers, [10, 11, 12].map(overwritten));
        answers.clear();
        requests.proposed(position(13, 3), [(Ticket(113), 99)].into_iter());
        requests.covered(13, &mut answers);
        let covered = |index| (Ticket(index), Answer::Unknown(Unknown::CoveredBySnapshot));
        assert_eq!(answers, [13, 113].map(covered));
    }

    #[test]
    fn e3_a_change_is_unknown_only_once_a_snapshot_covers_its_place() {
        let mut requests = Requests::default();
        let change = PendingChange { ticket: Ticket(1), position: position(5, 2), deadline_tick: 99 };
        requests.change = Some(change);
        let mut answers = Vec::new();
        requests.covered(4, &mut answers);
        assert_eq!(answers, []);
        requests.covered(5, &mut answers);
        assert_eq!(answers, [(Ticket(1), Answer::Unknown(Unknown::CoveredBySnapshot))]);
        requests.covered(6, &mut answers);
        assert_eq!(answers.len(), 1, "answered once");
    }

    #[test]
    fn t2_proposals_that_nobody_waits_for_any_more_are_forgotten() {
        let mut requests = Requests::default();
        requests.proposed(position(5, 1), [(NOBODY, u64::MAX)].into_iter());
        requests.proposed(position(6, 1), [(Ticket(1), 3), (Ticket(2), 4)].into_iter());
        let mut answers = Vec::new();
        requests.expire(4, &mut answers);
        assert_eq!(requests.proposed.len(), 1);
        requests.expire(5, &mut answers);
        assert_eq!(requests.proposed.len(), 0);
        assert_eq!(answers.len(), 2);
    }

    #[test]
    fn e4_a_deadline_is_not_applied_before_and_unknown_after_it_was_proposed() {
        let mut requests = Requests::default();
        let body = Payload::copy_from(b"x");
        requests.pending.push_back(Proposal { ticket: Ticket(1), slot: 0, deadline_tick: 3, body });
        requests.proposed(position(1, 1), [(Ticket(2), 3), (Ticket(3), 9)].into_iter());
        let mut answers = Vec::new();
        requests.expire(3, &mut answers);
        assert_eq!(answers, []);
        requests.expire(4, &mut answers);
        assert_eq!(
            answers,
            [
                (Ticket(1), Answer::NotApplied(NotApplied::Deadline)),
                (Ticket(2), Answer::Unknown(Unknown::Deadline))
            ]
        );
        let own = requests.committed(1, |_| Some(1), &mut answers);
        assert_eq!(own[0].tickets, [NOBODY, Ticket(3)], "results keep their places");
    }

    #[test]
    fn r2_confirmed_reads_wait_until_their_index_is_applied() {
        let mut requests = Requests::default();
        let readers = |ticket, kind| Readers { kind, tickets: vec![Ticket(ticket)], deadline_tick: 9 };
        requests.reads_waiting = vec![readers(1, ReadKind::Linearizable), readers(2, ReadKind::IndexOnly)];
        requests.reads_count = 2;
        requests.join_round(4);
        let mut answers = Vec::new();
        requests.round_ready(4, 10, 8, &mut answers);
        assert_eq!(answers, [(Ticket(2), Answer::ReadReady { index: 10 })]);
        requests.applied(9, &mut answers);
        assert_eq!(answers.len(), 1);
        requests.applied(10, &mut answers);
        assert_eq!(answers[1], (Ticket(1), Answer::ReadReady { index: 10 }));
        assert_eq!(requests.reads_count, 0);
    }
}
