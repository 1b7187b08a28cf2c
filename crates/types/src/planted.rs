// SPDX-License-Identifier: Apache-2.0

//! Bugs that proof can switch on, to show that it would find them: a check that has never failed proves nothing.
//!
//! A place of the product's code that keeps a rule asks [`planted!`](crate::planted!) whether the bug is on that breaks this rule there.
//! Without the feature `planted`, which only proof turns on, that is the constant `false`: no product binary contains a bug, nor the
//! [`MARKER`] by which `cargo xtask` looks for them. With it, [`plant`] switches one bug on for the calling thread.

/// Whether a bug is switched on; `false` in every build without the feature `planted`.
#[cfg(not(feature = "planted"))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

/// Whether a bug is switched on in this thread.
#[cfg(feature = "planted")]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is_on($crate::planted::Bug::$bug)
    };
}

#[cfg(feature = "planted")]
pub use bugs::{Bug, MARKER, is_on, plant};

#[cfg(feature = "planted")]
mod bugs {
    use std::cell::Cell;

    /// Stands in every binary that has the bugs in it, and in no other.
    #[used]
    pub static MARKER: [u8; 32] = *b"mraft: planted bugs are inside\n\n";

    thread_local! {
        static ON: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Switches one bug on for this thread, or all off.
    pub fn plant(bug: Option<Bug>) {
        ON.set(bug);
    }

    /// Whether a bug is on in this thread.
    pub fn is_on(bug: Bug) -> bool {
        ON.get() == Some(bug)
    }

    macro_rules! bugs {
        ($($bug:ident $name:literal $rule:literal $says:literal;)*) => {
            /// A bug that is planted in the product's code.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub enum Bug {
                $(#[doc = $says] $bug,)*
            }

            impl Bug {
                /// All of them.
                pub const ALL: &[Bug] = &[$(Bug::$bug,)*];

                /// Its name on the command line.
                pub fn name(self) -> &'static str {
                    match self {
                        $(Bug::$bug => $name,)*
                    }
                }

                /// The rule of `docs/design/correctness.md` that it breaks, or the system that had it.
                pub fn rule(self) -> &'static str {
                    match self {
                        $(Bug::$bug => $rule,)*
                    }
                }

                /// What is wrong.
                pub fn says(self) -> &'static str {
                    match self {
                        $(Bug::$bug => $says,)*
                    }
                }
            }
        };
    }

    bugs! {
        ForgottenVote "forgotten-vote" "D1" "the vote is not written";
        AckBeforeDurable "ack-before-durable" "D2" "entries are acknowledged before they are durable";
        OwnUndurableCounts "own-undurable-counts" "D3" "a leader counts entries of its own that are not durable";
        OverwrittenCounts "overwritten-counts" "D4" "a write counts for the entries that replaced what it wrote";
        UndurableApplied "undurable-applied" "D6" "committed entries are applied before they are durable here";
        OldTermCounted "old-term-counted" "Raft §5.4.2" "entries of earlier terms are committed by counting";
        ShortLogElected "short-log-elected" "Raft §5.4.1" "votes go to whoever asks first, however short its log";
        VotedTwice "voted-twice" "Raft §5.2" "a second vote in the same term";
        ReadWithoutRound "read-without-round" "R1" "reads are answered without asking a quorum";
        ReadRoundReused "read-round-reused" "R1, etcd#20418" "an answer to an earlier round confirms a later read";
        ReadBeforeTermCommit "read-before-term-commit" "R2" "a new leader reads before it has committed anything in its term";
        AppendTruncates "append-truncates" "Raft §5.3" "every append cuts the log behind it, also one that comes late";
        PrevIgnored "prev-ignored" "Raft §5.3" "entries are taken although the one before them does not fit";
        HeartbeatCommitsAll "heartbeat-commits-all" "Raft §5.3" "a heartbeat commits entries that may not be the leader's";
        NextBehindMatch "next-behind-match" "raft-rs#557" "a rejection that comes late moves a follower's next index behind what it has";
        ChangeBeforeTermCommit "change-before-term-commit" "M2, the bug of 2015" "a membership change before a commit in the term";
        TwoChanges "two-changes" "M2" "a membership change while another one is not committed";
        MembershipWhenCommitted "membership-when-committed" "M2" "a membership counts only when its entry is committed";
        RemovedLeadsOn "removed-leads-on" "M1" "a leader that was removed goes on leading";
        RemovalUntold "removal-untold" "M1" "a leader steps down at its removal without telling that it is committed";
        LearnerStandsBy "learner-stands-by" "M5" "a learner with the newest log never campaigns, whoever cannot win without its vote";
        LearnersCount "learners-count" "M5" "learners count as voters when entries are committed";
        MemberlessVotes "memberless-votes" "M4, tikv#3572" "a replica without a log grants votes";
        CondemnedTakesPart "condemned-takes-part" "D9" "a condemned replica goes on";
        LostLogUnnoticed "lost-log-unnoticed" "D9" "what a leader remembers of a log that was lost is ignored";
        AcceptedTermKept "accepted-term-kept" "D9" "a replica whose loss was accepted comes back in a term that it may have voted in";
        AcceptedUnmarked "accepted-unmarked" "D9" "what is lost until an acceptance is through is not written down before it begins";
        BeginningUnchecked "beginning-unchecked" "D9" "what a log begins behind is taken for what the leader has there";
        GivenUpFollows "given-up-follows" "D9" "a replica goes on that has applied what the others gave up";
        LifeIgnored "life-ignored" "Q2" "another life of the leader's node does not wake a sleeping follower";
        SleepUnmatched "sleep-unmatched" "Q1" "a leader offers sleep although somebody lacks entries";
        StoreForgotten "store-forgotten" "D8" "a restart takes the commit index of the log alone, not that of the store";
        SyncSkipped "sync-skipped" "D2, NATS 2.12" "a batch of the log is reported durable without a sync";
        SyncRetried "sync-retried" "D10, PostgreSQL 2018" "a failed sync is tried again, and what the second one says is believed";
        RewriteSkipped "rewrite-skipped" "D7" "the last batch that recovery reads is trusted as it lies there";
        StateUnsynced "state-unsynced" "D7" "the pointer names a state that was not synced";
        TruncatedUnpersisted "truncated-unpersisted" "D11" "the log is truncated up to what is applied";
        SegmentFreedEarly "segment-freed-early" "L5" "segments are used again although a replica needs them";
        CarryGoesOn "carry-goes-on" "L5" "carrying goes on although the replica wrote in between: what it truncated comes back";
        EvictionSkipped "eviction-skipped" "T2" "entries stay in memory for ever";
        TermIgnored "term-ignored" "E3" "a ticket is answered by whatever entry stands at its index";
        StepDownRefuses "step-down-refuses" "E3" "who loses the leadership answers not_applied";
        LateIsNotApplied "late-is-not-applied" "E4" "what was proposed and is late is answered not_applied";
        MetaBehind "meta-behind" "E7, etcd 3.5.0" "the store's meta is of the batch before its data";
        DeletesCount "deletes-count" "E2" "deleting what is not there takes a revision";
        LaterConditionIgnored "later-condition-ignored" "E6" "of a batch only the first condition counts";
        EntryStops "entry-stops" "decision 9, the Go sample" "a committed command that nobody can read stops every replica";
        LogTimeFollows "log-time-follows" "E1" "the log's time follows the leader's clock wherever it goes";
        ReadUnapplied "read-unapplied" "R2" "a confirmed read does not wait until its index is applied";
        FollowerReadsAtOnce "follower-reads-at-once" "R3" "a follower reads although it has not applied the leader's index";
        SnapshotOldMembers "snapshot-old-members" "M2, matrixone#24966" "a snapshot carries the members of the founding";
        LateForAnother "late-for-another" "M3" "what comes late for a replica reaches the one in its place";
        StartsIgnored "starts-ignored" "M7" "an old copy is told by its counter and its log alone, and both grow again";
        AbandonedTaken "abandoned-taken" "N1" "an installation passes for finished when the store is at its index, whatever brought it there";
        SwitchedEarly "switched-early" "N1" "a snapshot is switched to before the log knows that it is being installed";
        InstalledEarly "installed-early" "N1" "a snapshot counts as installed before the log says so";
        SnapshotPeerStuck "snapshot-peer-stuck" "N2, tikv#2341" "a failed transfer does not release its receiver";
    }
}
