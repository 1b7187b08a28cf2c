// SPDX-License-Identifier: Apache-2.0

//! What a leader knows of one peer, and what follows for the next message to it.
//!
//! A peer is *probed* with one append at a time until the place where its log meets the leader's is found; then entries are
//! *replicated* optimistically, message after message, up to a bound of bytes and messages on the way; a peer that needs
//! entries which the log no longer has is sent a *snapshot*. Whatever gets lost is found by the answers to heartbeats.

use std::collections::VecDeque;

use mraft_types::planted;
use mraft_types::{Entry, Index, LogPosition, ReplicaId};

use crate::config::Config;
use crate::log_view::LogView;

/// One peer, seen by the leader.
///
/// Invariants: in the snapshot state there is a shipment, whose end or deadline releases the peer; matched < next (a next index at or below match would send what is acknowledged already, and a reject of it
/// would move match: raft-rs#557); `in_flight` ascends, lies below next, and its bytes are their sum.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    /// Everything up to here is in the peer's log and durable there.
    pub(crate) matched: Index,
    /// The next entry to send.
    pub(crate) next: Index,
    pub(crate) state: State,
    /// Ticks since the peer last answered, up to one election timeout; a new peer has one election timeout to do so.
    pub(crate) silent_ticks: u32,
    /// It answered in this term.
    has_answered: bool,
    /// The newest read round that the peer confirmed.
    pub(crate) confirmed_round: u64,
    /// The commit index that the peer was told last.
    pub(crate) told_commit: Index,
    /// A snapshot is on its way, or was and is not acknowledged yet.
    shipment: Option<Shipment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Probe(Probe),
    Replicate(Pipeline),
    /// Nothing is sent until the snapshot has arrived, or its deadline has passed (rule N2).
    Snapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Probe {
    /// An append may go out.
    Ready,
    /// The last one is not answered yet.
    Waiting,
    /// It is late: ask again, without entries.
    Again,
}

/// Appends on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Pipeline {
    in_flight: VecDeque<(Index, usize)>,
    in_flight_bytes: usize,
    /// Entries that are needed back from the log.
    pub(crate) reading: Option<Reading>,
    /// What came back, to be sent at the next poll.
    pub(crate) fetched: Vec<Entry>,
    /// Something on the way may be lost: ask with an empty append.
    pub(crate) nudge: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reading {
    /// Asked for.
    Ordered { order: u64, first: Index },
    /// They could not be read just now; asking again at once would only keep everybody busy.
    AtNextTick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shipment {
    at_least: Index,
    ticks_left: u32,
    /// Whether the caller was asked to send it.
    ordered: bool,
}

/// How a peer is being sent entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// The place where the logs meet is being looked for.
    Probe,
    /// Entries are sent as they come.
    Replicate,
    /// A snapshot is needed or on its way.
    Snapshot,
}

/// What a leader knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerStatus {
    /// The peer.
    pub id: ReplicaId,
    /// How it is being sent entries.
    pub state: PeerState,
    /// Everything up to here is durable there.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// Appends on the way.
    pub inflight_messages: usize,
    /// Their bytes.
    pub inflight_bytes: usize,
    /// Whether it answered anything within the last election timeout.
    pub is_active: bool,
}

impl Progress {
    /// A peer of which nothing is known yet.
    pub(crate) fn new(next: Index) -> Progress {
        Progress {
            matched: 0,
            next,
            state: State::Probe(Probe::Ready),
            silent_ticks: 0,
            has_answered: false,
            confirmed_round: 0,
            told_commit: 0,
            shipment: None,
        }
    }

    pub(crate) fn status(&self, id: ReplicaId, config: &Config) -> PeerStatus {
        let (state, inflight_messages, inflight_bytes) = match &self.state {
            State::Probe(_) => (PeerState::Probe, 0, 0),
            State::Replicate(pipeline) => {
                (PeerState::Replicate, pipeline.in_flight.len(), pipeline.in_flight_bytes)
            }
            State::Snapshot => (PeerState::Snapshot, 0, 0),
        };
        PeerStatus {
            id,
            state,
            matched: self.matched,
            next: self.next,
            inflight_messages,
            inflight_bytes,
            is_active: self.is_active(config),
        }
    }

    pub(crate) fn is_active(&self, config: &Config) -> bool {
        self.silent_ticks < config.election_ticks
    }

    /// The peer gave a sign of life.
    pub(crate) fn answered(&mut self) {
        self.silent_ticks = 0;
        self.has_answered = true;
    }

    /// Whether the peer is known to be there, and not only given time: what a change of members may count on.
    pub(crate) fn is_known_active(&self, config: &Config) -> bool {
        self.has_answered && self.is_active(config)
    }

    /// Whether the peer has everything up to `last`, was told that it is committed, and nothing is on its way.
    pub(crate) fn is_done(&self, last: Index) -> bool {
        let is_streaming = match &self.state {
            State::Replicate(pipeline) => pipeline.is_empty() && pipeline.reading.is_none(),
            _ => false,
        };
        is_streaming && self.matched == last && self.told_commit == last && self.shipment.is_none()
    }

    /// The peer has everything up to `matched`. Answers whether that is news.
    pub(crate) fn accepted(&mut self, matched: Index, log_start: Index) -> bool {
        let is_news = matched > self.matched;
        self.matched = self.matched.max(matched);
        let is_delivered = self.shipment.is_some_and(|shipment| self.matched >= shipment.at_least);
        match &mut self.state {
            State::Probe(_) => self.replicate_from_match(),
            State::Replicate(pipeline) => {
                pipeline.answered(matched);
                self.next = self.next.max(matched + 1);
            }
            // It may have what was asked for and still lack what the log has forgotten meanwhile: then the next message finds out.
            State::Snapshot if self.matched >= log_start || is_delivered => self.replicate_from_match(),
            State::Snapshot => self.next = self.next.max(matched + 1),
        }
        if is_delivered {
            self.shipment = None;
        }
        is_news
    }

    fn replicate_from_match(&mut self) {
        self.next = self.matched + 1;
        self.state = State::Replicate(Pipeline::default());
    }

    /// The peer's log does not meet the leader's at `prev`; it proposes to try `hint`. Answers whether that was news: a reject
    /// of something that was acknowledged since, or that is not what was asked last, is not.
    pub(crate) fn rejected(&mut self, prev: Index, hint: LogPosition, log: &LogView) -> bool {
        let is_stale = match &self.state {
            State::Probe(_) => prev != self.next - 1,
            State::Replicate(_) => prev <= self.matched || prev >= self.next,
            State::Snapshot => true,
        };
        if (is_stale || prev <= self.matched) && !planted!(NextBehindMatch) {
            return false;
        }
        // Entries of terms above the hint's are not in the peer's log; below the start only a snapshot helps.
        let meets = match log.position_at_most(hint.index, hint.term) {
            Some(position) => position.index,
            None => hint.index.min(log.start_index().saturating_sub(1)),
        };
        let least = if planted!(NextBehindMatch) { 1 } else { self.matched + 1 };
        self.next = meets.saturating_add(1).min(prev).max(least);
        if self.next - 1 == self.matched && self.matched > 0 {
            // Where the logs meet is known already; what came behind it was lost.
            self.replicate_from_match();
        } else {
            self.state = State::Probe(Probe::Ready);
        }
        true
    }

    /// The peer answered a heartbeat. What it did not acknowledge may have been lost on the way.
    pub(crate) fn heartbeat_answered(&mut self) {
        match &mut self.state {
            // There is nothing to be found out, and an append without entries at the match is a notice, never answered.
            State::Probe(Probe::Waiting) if self.next - 1 == self.matched && self.matched > 0 => {
                self.replicate_from_match();
            }
            State::Probe(probe @ Probe::Waiting) => *probe = Probe::Again,
            State::Replicate(pipeline) => pipeline.nudge = self.next - 1 > self.matched,
            _ => {}
        }
    }

    /// One tick passed. Answers `false` when the snapshot's deadline has passed.
    pub(crate) fn tick(&mut self, election_ticks: u32) {
        self.silent_ticks = (self.silent_ticks + 1).min(election_ticks);
        if let State::Replicate(pipeline) = &mut self.state {
            pipeline.reading.take_if(|reading| *reading == Reading::AtNextTick);
        }
        let Some(shipment) = self.shipment.as_mut().filter(|shipment| shipment.ordered) else { return };
        if planted!(SnapshotPeerStuck) {
            return;
        }
        shipment.ticks_left = shipment.ticks_left.saturating_sub(1);
        if shipment.ticks_left == 0 {
            self.shipment = None;
            if matches!(self.state, State::Snapshot) {
                self.probe_later();
            }
        }
    }

    /// An election timeout passed: whoever did not answer the last probe is asked again.
    pub(crate) fn ask_again(&mut self) {
        if let State::Probe(probe @ Probe::Waiting) = &mut self.state {
            *probe = Probe::Again;
        }
    }

    /// Messages to the peer may be lost: find out where it stands.
    pub(crate) fn lost(&mut self) {
        match &self.state {
            State::Replicate(_) => {
                self.next = self.matched + 1;
                self.state = State::Probe(Probe::Ready);
            }
            State::Probe(_) => self.state = State::Probe(Probe::Ready),
            State::Snapshot => {}
        }
    }

    /// The log no longer has what the peer needs.
    pub(crate) fn needs_snapshot(&mut self, at_least: Index, deadline_ticks: u32) {
        self.state = State::Snapshot;
        self.shipment = Some(Shipment { at_least, ticks_left: deadline_ticks.max(1), ordered: false });
    }

    /// The index that a snapshot must cover which is needed and not asked for yet, once one can be made.
    pub(crate) fn order_snapshot(&mut self, applied: Index) -> Option<Index> {
        let shipment = self.shipment.as_mut().filter(|shipment| !shipment.ordered)?;
        if !matches!(self.state, State::Snapshot) || applied < shipment.at_least {
            return None;
        }
        shipment.ordered = true;
        Some(shipment.at_least)
    }

    /// A part of the snapshot left. Answers whether one is on its way.
    pub(crate) fn snapshot_progress(&mut self, deadline_ticks: u32) -> bool {
        let Some(shipment) = self.shipment.as_mut().filter(|shipment| shipment.ordered) else { return false };
        shipment.ticks_left = deadline_ticks.max(1);
        true
    }

    /// Rule N2: sending ended. Answers whether the peer was waiting for that; it is released once.
    ///
    /// The log may have moved on to the snapshot's own index meanwhile. A peer that is still installing it must not look as if it needed
    /// another one, so it is asked about the log's start, at which it will be.
    pub(crate) fn snapshot_sent(&mut self, ok: bool, log_start: Index) -> bool {
        let Some(shipment) = self.shipment.filter(|shipment| shipment.ordered) else { return false };
        if !matches!(self.state, State::Snapshot) {
            return false;
        }
        if planted!(SnapshotPeerStuck) && !ok {
            return true;
        }
        if ok {
            self.next = self.matched.max(shipment.at_least).max(log_start) + 1;
            self.state = State::Probe(Probe::Waiting);
        } else {
            self.shipment = None;
            self.probe_later();
        }
        true
    }

    /// Goes back to probing, but not before the peer gives a sign of life: failing again at once would help nobody.
    fn probe_later(&mut self) {
        self.next = self.matched + 1;
        self.state = State::Probe(Probe::Waiting);
    }

    /// For [`crate::Raft::check`].
    pub(crate) fn check(&self, last: Index) -> Result<(), String> {
        let pipeline_fits = match &self.state {
            State::Replicate(pipeline) => pipeline.fits(self.matched, self.next),
            _ => true,
        };
        let is_released = !matches!(self.state, State::Snapshot) || self.shipment.is_some();
        if self.matched < self.next && self.matched <= last && pipeline_fits && is_released {
            Ok(())
        } else {
            Err(format!("progress does not fit a log that ends at {last}: {self:?}"))
        }
    }
}

impl Pipeline {
    /// How many bytes may be sent now; `None` when nothing may.
    pub(crate) fn room_bytes(&self, config: &Config) -> Option<usize> {
        let room = config.inflight_bytes_max.saturating_sub(self.in_flight_bytes);
        if self.in_flight.is_empty() {
            return Some(room);
        }
        (room > 0 && self.in_flight.len() < config.inflight_messages_max).then_some(room)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(crate) fn sent(&mut self, last: Index, bytes: usize) {
        self.in_flight.push_back((last, bytes));
        self.in_flight_bytes += bytes;
    }

    fn answered(&mut self, matched: Index) {
        while let Some((_, bytes)) = self.in_flight.pop_front_if(|(last, _)| *last <= matched) {
            self.in_flight_bytes -= bytes;
        }
    }

    fn fits(&self, matched: Index, next: Index) -> bool {
        let mut before = matched;
        let ascends = self.in_flight.iter().all(|(last, _)| {
            let fits = *last > before && *last < next;
            before = *last;
            fits
        });
        let bytes: usize = self.in_flight.iter().map(|(_, bytes)| *bytes).sum();
        ascends && bytes == self.in_flight_bytes
    }
}
