// SPDX-License-Identifier: Apache-2.0

//! What is promised, and that it was not kept.

use std::fmt;

/// The promises that the search looks at in every state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// One leader per term, over restarts.
    ElectionSafety,
    /// Logs that share a position share everything before it.
    LogMatching,
    /// Whoever leads a later term, or could be elected with what is there, has everything that was committed.
    LeaderCompleteness,
    /// One entry per index is committed and applied, everywhere and for ever.
    StateMachineSafety,
    /// A replica votes once in a term, over restarts.
    OneVotePerTerm,
    /// Quorums of the committed membership and of those in force behind it have a member in common.
    QuorumsIntersect,
    /// A linearizable read sees what was acknowledged before it began.
    ReadsAreFresh,
    /// What a replica says about its disk is true, and what it writes there never goes back.
    DurableBeforeAcknowledged,
    /// One replica's own invariants; nobody is condemned who lost nothing, nobody hears what no peer says.
    ReplicaIsSound,
    /// A leader that was voted out leads no more, and says that this is committed.
    RemovedLeadersGo,
    /// Replicas that differ in nothing but their names do the same; the search relies on it.
    NamesDoNotMatter,
    /// In calm weather a group that could have a leader gets one, and it commits.
    CalmRecovers,
}

impl Promise {
    /// All of them.
    pub const ALL: &[Promise] = &[
        Promise::ElectionSafety,
        Promise::LogMatching,
        Promise::LeaderCompleteness,
        Promise::StateMachineSafety,
        Promise::OneVotePerTerm,
        Promise::QuorumsIntersect,
        Promise::ReadsAreFresh,
        Promise::DurableBeforeAcknowledged,
        Promise::ReplicaIsSound,
        Promise::RemovedLeadersGo,
        Promise::NamesDoNotMatter,
        Promise::CalmRecovers,
    ];

    /// How tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Promise::ElectionSafety => "election safety",
            Promise::LogMatching => "log matching",
            Promise::LeaderCompleteness => "leader completeness",
            Promise::StateMachineSafety => "state machine safety",
            Promise::OneVotePerTerm => "one vote per term",
            Promise::QuorumsIntersect => "quorums intersect",
            Promise::ReadsAreFresh => "reads are fresh",
            Promise::DurableBeforeAcknowledged => "durable before acknowledged",
            Promise::ReplicaIsSound => "a replica is sound",
            Promise::RemovedLeadersGo => "removed leaders go",
            Promise::NamesDoNotMatter => "names do not matter",
            Promise::CalmRecovers => "calm recovers",
        }
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Broken {
    /// Which one.
    pub promise: Promise,
    /// What happened instead.
    pub what: String,
}

impl Broken {
    /// This promise was broken in this way.
    pub fn new(promise: Promise, what: String) -> Broken {
        Broken { promise, what }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise.name(), self.what)
    }
}
