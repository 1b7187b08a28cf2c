// SPDX-License-Identifier: Apache-2.0

//! The promises, checked while a run goes on: one file each, named after the promise. Each finding says which promise broke.
//!
//! What every answer is held against is the [`model`]: the commands that a group applied, in the order of its log, carried out once more
//! by the dumbest code that can. So a check needs no search: an answer names the index that it is of, and must be what the model has there.

pub mod bounds;
pub mod calm;
pub mod chains;
pub mod condemned;
pub mod durable;
pub mod elections;
pub mod honest;
pub mod leaders;
pub mod linearizable;
pub mod log_matching;
pub mod log_time;
pub mod losses;
pub mod model;
pub mod stale;
pub mod state_machines;
pub mod survives;

use std::collections::BTreeMap;
use std::fmt;

use mraft_types::GroupId;

use self::model::Model;

/// The promises that no file of their own checks: each is looked at where it is kept, in the world.
pub mod promise {
    /// None of the product: what a run with real stores needs.
    pub const RUNS: &str = "there is a temporary directory for real stores";
    /// Deadlines.
    pub const ANSWERED: &str = "every request is answered within its deadline";
    /// Recovery.
    pub const COMES_BACK: &str = "a node comes back from its own disk";
    /// Rules M6 and M7.
    pub const ONLY_STRANGERS_REFUSED: &str = "only wiped directories and old copies are refused";
    /// Rule M7.
    pub const OLD_COPIES_REFUSED: &str = "an old copy of a directory is refused";
    /// Rules M1 to M3.
    pub const NONSENSE_REFUSED: &str = "a change of members that cannot be is refused";
    /// Rule D10, the healthy half.
    pub const LOG_WORKS: &str = "the log works as long as the disk does";
    /// Rule L6 and the order of writes.
    pub const LOG_TAKES_WRITES: &str = "the log takes every write";
    /// Rule D10, the failing half.
    pub const FAILED_LOG_STOPS: &str = "a node whose log failed takes part in nothing";
    /// Decision 9.
    pub const NO_ENTRY_STOPS: &str = "no committed entry stops a replica";
    /// Rule N1, the sender's half.
    pub const STAGEABLE: &str = "a snapshot that arrives whole can be staged";
    /// What is sent is what the receiver reads.
    pub const UNDERSTOOD: &str = "what one node sends, another understands";
    /// What is true of a replica between any two steps.
    pub const INVARIANTS: &str = "every replica keeps its own invariants";
    /// Rule Q2.
    pub const SLEEPERS_WAKE: &str = "nobody sleeps behind a leader that is gone";
    /// Rule Q1.
    pub const ASLEEP_TOGETHER: &str = "no group sleeps while a member lacks entries";
    /// Rule T1, disks that are slow.
    pub const SLOW_DISKS_LEFT: &str = "leadership leaves a slow disk within five seconds";
    /// Rule T1, disks that stand still.
    pub const STALLED_STOPS: &str = "a node whose disk stalled stops serving";
    /// Rule T4.
    pub const NOTHING_PANICS: &str = "nothing panics";
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub promise: &'static str,
    /// How.
    pub how: String,
}

impl Broken {
    /// A finding.
    pub fn new(promise: &'static str, how: String) -> Broken {
        Broken { promise, how }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.how)
    }
}

/// Everything that the checks remember of a run.
#[derive(Debug, Default)]
pub struct Checks {
    /// What each group applied.
    pub models: BTreeMap<GroupId, Model>,
    /// Votes and leaders.
    pub elections: elections::Elections,
    /// What leaders must have.
    pub leaders: leaders::Leaders,
    /// The entries that were written.
    pub logs: log_matching::Logs,
    /// Hash chains.
    pub chains: chains::Chains,
    /// What is on disk.
    pub durable: durable::Durable,
    /// What clients were told.
    pub acknowledged: survives::Acknowledged,
    /// Where the operations of clients stand in the order of their groups.
    pub order: linearizable::Order,
    /// What was refused.
    pub refused: honest::Refused,
    /// What stale reads saw.
    pub stale: stale::Stale,
    /// The groups' time.
    pub log_times: log_time::LogTimes,
    /// What was lost and accepted.
    pub losses: losses::Losses,
    /// The groups' terms at rest.
    pub resting_terms: calm::RestingTerms,
}

impl Checks {
    /// The model of a group.
    pub fn model(&mut self, group: GroupId) -> &mut Model {
        self.models.entry(group).or_default()
    }
}

/// Shared by the tests of the checks.
#[cfg(test)]
pub(crate) mod tests {
    use mraft_kv::command::{Condition, Operation, encode, encode_put};
    use mraft_raft::{Config, Raft, Restored};
    use mraft_types::{
        GroupId, HardState, Index, LogPosition, LogStart, Member, Membership, NodeId, ReplicaId, Role, Term,
    };

    pub(crate) const GROUP: GroupId = GroupId(0);

    pub(crate) fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("a node id")
    }

    pub(crate) fn replica(id: u64) -> ReplicaId {
        ReplicaId::new(0, node(id))
    }

    /// A voter whose log begins behind entry 1 of term 1 and ends at this index; each term is that of the entries from an index on.
    pub(crate) fn voter_of(last_index: Index, terms: &[(Index, Term)], commit: Index) -> Raft {
        let member = Member { role: Role::Voter, raft_address: String::new() };
        let members = [(replica(1), member)].into();
        let start = LogPosition { index: 1, term: 1 };
        let restored = Restored {
            hard_state: HardState { term: terms.last().expect("one").1, vote: None, commit },
            start: LogStart { position: start, membership: Membership { members, ..Membership::default() } },
            last_index,
            terms: terms.to_vec(),
            memberships: Vec::new(),
            applied: start,
            condemned: None,
        };
        let config = Config {
            id: replica(1),
            election_ticks: 10,
            heartbeat_ticks: 2,
            check_quorum: true,
            append_bytes_max: 1 << 10,
            inflight_bytes_max: 1 << 10,
            inflight_messages_max: 4,
            unapplied_bytes_max: 1 << 10,
            cache_bytes_max: 1 << 10,
            snapshot_deadline_ticks: 10,
            quiesce_after_ticks: None,
        };
        Raft::new(config, restored).expect("a replica")
    }

    pub(crate) fn put(key: &str, value: &str) -> Vec<u8> {
        let mut body = Vec::new();
        encode_put(key.as_bytes(), value.as_bytes(), &mut body);
        body
    }

    pub(crate) fn delete(key: &str) -> Vec<u8> {
        let mut body = Vec::new();
        encode(&[Operation::Delete { key: key.as_bytes(), condition: Condition::None }], &mut body);
        body
    }

    /// What a group answers to a lone put at this revision.
    pub(crate) fn put_at(revision: u64) -> Vec<u8> {
        let outcomes = vec![mraft_kv::command::Outcome::Put { revision }];
        let mut answer = Vec::new();
        mraft_kv::command::Answer::Applied { revision, outcomes }.encode(&mut answer);
        answer
    }
}
