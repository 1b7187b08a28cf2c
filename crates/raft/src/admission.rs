// SPDX-License-Identifier: Apache-2.0

//! What is let in. A message is checked for its shape here, once, so that the rest of the core may rely on it: whoever sent
//! it, no arithmetic on it overflows, and its entries are consecutive, legible and no newer than its term.

use mraft_types::limits::ENTRY_BYTES_MAX;
use mraft_types::planted;
use mraft_types::{Entry, EntryKind, Index, LogPosition, Term};

use crate::log_view::membership_of;
use crate::message::{AppendReply, Body, Message};
use crate::raft::{Raft, Standing};

/// Largest term and index: far above what a group can reach in its life, far below what could overflow.
pub(crate) const POSITION_MAX: u64 = 1 << 62;

/// Most entries of one append: the smallest ones, as they are counted, that fit a frame.
pub(crate) const APPEND_ENTRIES_MAX: usize = mraft_types::limits::FRAME_BYTES_MAX / 64;

/// Why something that came in changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Ignored {
    /// Addressed to another replica, or from this one itself.
    Misaddressed,
    /// Something that no replica sends: a term or index out of bounds, entries that are not consecutive, and the like.
    Malformed,
    /// An answer or order of a former term.
    Stale,
    /// A vote was asked for while the leader is alive.
    LeaderAlive,
    /// Another replica claims to lead in the term of the known leader.
    SecondLeader,
    /// For a leader, but this replica does not lead.
    NotLeading,
    /// For an election that is over, or from somebody who is no peer.
    Unasked,
    /// It contradicts what is committed here.
    ContradictsCommitted,
    /// This replica waits for the snapshot that makes it a member.
    Memberless,
    /// This replica is installing a snapshot.
    Installing,
    /// This replica is condemned.
    Condemned,
    /// The sender was removed and was told so.
    SenderRemoved,
    /// An event that does not fit the state: an unknown write, a truncation of what is not applied, and the like.
    OutOfPlace,
    /// Too many messages wait for the disk already.
    TooManyWaiting,
}

impl Raft {
    /// Whether a message may be looked at.
    pub(crate) fn admit(&self, message: &Message) -> Result<(), Ignored> {
        if message.to != self.config.id || message.from == self.config.id {
            return Err(Ignored::Misaddressed);
        }
        if !is_well_formed(message) {
            return Err(Ignored::Malformed);
        }
        match (&self.standing, &message.body) {
            (_, Body::Removed { .. }) => Ok(()),
            (Standing::Condemned(_), _) if !planted!(CondemnedTakesPart) => Err(Ignored::Condemned),
            (_, Body::Vote { .. } | Body::PreVote { .. })
                if self.is_memberless() && !planted!(MemberlessVotes) =>
            {
                Err(Ignored::Memberless)
            }
            _ => Ok(()),
        }
    }

    /// Counts something that changed nothing.
    pub(crate) fn ignore(&mut self, reason: Ignored) {
        let count = self.ignored.entry(reason).or_default();
        *count = count.saturating_add(1);
    }
}

fn is_well_formed(message: &Message) -> bool {
    let term = message.term;
    if term == 0 || term > POSITION_MAX {
        return false;
    }
    let bounded = |index: Index| index <= POSITION_MAX;
    match &message.body {
        Body::PreVote { last } | Body::Vote { last, .. } => is_position(*last) && last.term < term,
        Body::Append { prev, entries, commit, matched } => {
            is_position(*prev)
                && prev.term <= term
                && bounded(*commit)
                && bounded(*matched)
                && entries.len() <= APPEND_ENTRIES_MAX
                && are_consecutive(*prev, entries, term)
        }
        Body::AppendReply(AppendReply::Accepted { matched }) => bounded(*matched),
        Body::AppendReply(AppendReply::Rejected { prev, hint }) => bounded(*prev) && is_position(*hint),
        Body::Heartbeat { commit, matched, .. } => bounded(*commit) && bounded(*matched),
        Body::Quiesce { last, .. } => bounded(*last),
        Body::Removed { change_index } => bounded(*change_index),
        Body::PreVoteReply { .. }
        | Body::VoteReply { .. }
        | Body::HeartbeatReply { .. }
        | Body::QuiesceReply { .. }
        | Body::TimeoutNow => true,
    }
}

/// Only the place before the log has neither index nor term.
pub(crate) fn is_position(position: LogPosition) -> bool {
    position.index <= POSITION_MAX
        && position.term <= POSITION_MAX
        && (position.index == 0) == (position.term == 0)
}

fn are_consecutive(prev: LogPosition, entries: &[Entry], term: Term) -> bool {
    let mut before = prev;
    for entry in entries {
        let position = entry.position();
        if position.index != before.index + 1
            || position.index > POSITION_MAX
            || position.term < before.term.max(1)
            || position.term > term
            || !is_legible(entry)
        {
            return false;
        }
        before = position;
    }
    true
}

fn is_legible(entry: &Entry) -> bool {
    match entry.kind {
        EntryKind::Empty => entry.payload.is_empty(),
        EntryKind::Commands => entry.payload.len() <= ENTRY_BYTES_MAX,
        EntryKind::Membership => membership_of(entry).is_some(),
    }
}
