// SPDX-License-Identifier: Apache-2.0

//! What replicas of one group say to each other. Snapshots travel beside these messages, on a connection of their own;
//! proposals never travel as Raft messages at all (rule E4).

use mraft_types::{Entry, Index, LogPosition, ReplicaId, Term};

/// A message between two replicas of one group. The group's id and uid are in the envelope that carries it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// The sender.
    pub from: ReplicaId,
    /// The receiver.
    pub to: ReplicaId,
    /// The sender's term; for [`Body::PreVote`] and a granted [`Body::PreVoteReply`] the term it would campaign in, which
    /// nobody takes for that (Raft thesis §9.6).
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// The kinds of messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// "Would you vote for me?" Changes no term and no vote.
    PreVote {
        /// Last entry of the asker's log.
        last: LogPosition,
    },
    /// Answer to [`Body::PreVote`].
    PreVoteReply {
        /// Whether it would.
        granted: bool,
    },
    /// RequestVote (Raft §5.2).
    Vote {
        /// Last entry of the candidate's log.
        last: LogPosition,
        /// The leader itself asked for this election (thesis §3.10): stickiness does not apply.
        transfer: bool,
    },
    /// Answer to [`Body::Vote`]; a grant leaves only when the vote is durable (rule D2).
    VoteReply {
        /// Whether the vote is given.
        granted: bool,
    },
    /// AppendEntries (Raft §5.3).
    Append {
        /// The entry before the first one.
        prev: LogPosition,
        /// Consecutive entries from `prev.index + 1`.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
        /// What the receiver itself acknowledged to this leader in this term; 0 for nothing yet (rule D9).
        matched: Index,
    },
    /// Answer to [`Body::Append`], and to an installed snapshot.
    AppendReply(AppendReply),
    /// Sign of life; also confirms that its sender still leads (rule R1).
    Heartbeat {
        /// The leader's commit index, never above what the receiver acknowledged.
        commit: Index,
        /// As in [`Body::Append`].
        matched: Index,
        /// The newest read round of this term; 0 for none.
        round: u64,
    },
    /// Answer to [`Body::Heartbeat`].
    HeartbeatReply {
        /// The round it answers.
        round: u64,
    },
    /// "There is nothing to do: I fall silent if all agree" (rule Q1). In place of a heartbeat.
    Quiesce {
        /// The last entry; the receiver acknowledged it to this leader in this term, and it is committed.
        last: Index,
        /// What the leader's node says of its life.
        life: u64,
        /// Number of this offer, growing over all terms of the leader's life.
        number: u64,
    },
    /// Answer to [`Body::Quiesce`].
    QuiesceReply {
        /// The offer that it answers.
        number: u64,
        /// Whether the sender sleeps from now on.
        agreed: bool,
    },
    /// "Campaign now": the end of a leadership transfer (thesis §3.10).
    TimeoutNow,
    /// "You were removed", said by a member from committed state (rule M5).
    Removed {
        /// ConfigChangeID of the membership that does not contain the receiver.
        change_index: Index,
    },
}

/// How an append was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppendReply {
    /// Everything up to here equals the leader's log and is durable (rule D2).
    Accepted {
        /// The last such index.
        matched: Index,
    },
    /// The entry before the first one is not in the log.
    Rejected {
        /// The `prev.index` that was asked for.
        prev: Index,
        /// The last position of the receiver's log that the leader should try: its term is at most `prev.term`.
        hint: LogPosition,
    },
}
