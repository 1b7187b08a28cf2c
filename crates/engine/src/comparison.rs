// SPDX-License-Identifier: Apache-2.0

//! Whether a group's replicas have the same state (rule E8).
//!
//! From time to time a leader writes a checkpoint entry. Every replica hashes its state at exactly that entry and tells the leader,
//! which counts: a majority of voters with one hash settles what the state is, and the hash goes into the log, so that whoever found
//! another one at that entry condemns itself, the leader included. When no hash can get a majority the leader stops serving until a
//! later checkpoint, with more replicas heard, settles it. That goes into the log too, and with it into the group's state: the next
//! leader, which heard none of the hashes, must not serve either. The entry that says what the majority has ends it.
//!
//! What a replica tells is lost when the leader is not there to hear it, which is no harm: the hash chain never forgets a difference,
//! so the next checkpoint finds it as well.

use std::collections::BTreeMap;

use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::{Index, Membership, ReplicaId};

/// Checkpoints whose hashes are being collected: hashing a large state takes longer than the pause to the next checkpoint.
const OPEN_CHECKPOINTS_MAX: usize = 4;
/// The body of a checkpoint command that asks for the chain only. An empty body asks for the content as well.
const CHAIN_ONLY: &[u8] = &[1];

/// What a replica's state hashes to at an index; equal on all replicas (rule E8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StateHash {
    /// The last applied index.
    pub index: Index,
    /// Hash chain over entries and results.
    pub chain: u128,
    /// Hash of the visible content; `None` where only the chain was asked for.
    pub content: Option<u128>,
}

impl StateHash {
    /// The bytes (`docs/formats/entry.md`).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.index);
        out.put_raw(&self.chain.to_le_bytes());
        out.put_u8(u8::from(self.content.is_some()));
        out.put_raw(&self.content.unwrap_or(0).to_le_bytes());
    }

    /// What was hashed.
    pub fn depth(&self) -> Depth {
        if self.content.is_some() { Depth::Content } else { Depth::Chain }
    }

    /// Reads what [`StateHash::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<StateHash, DecodeError> {
        let index = reader.u64("state_hash.index")?;
        let chain = u128::from_le_bytes(reader.id128("state_hash.chain")?);
        let has_content = reader.u8("state_hash.has_content")?;
        let content = u128::from_le_bytes(reader.id128("state_hash.content")?);
        match has_content {
            0 => Ok(StateHash { index, chain, content: None }),
            1 => Ok(StateHash { index, chain, content: Some(content) }),
            other => Err(DecodeError::Unknown("state_hash.has_content", u64::from(other))),
        }
    }
}

/// What a checkpoint makes replicas hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The chain, which costs nothing.
    Chain,
    /// The whole visible content as well.
    Content,
}

impl Depth {
    /// The body of the checkpoint command.
    pub fn body(self) -> &'static [u8] {
        match self {
            Depth::Chain => CHAIN_ONLY,
            Depth::Content => b"",
        }
    }

    /// Reads a checkpoint command's body.
    pub fn of(body: &[u8]) -> Result<Depth, DecodeError> {
        match body {
            b"" => Ok(Depth::Content),
            CHAIN_ONLY => Ok(Depth::Chain),
            other => Err(DecodeError::Invalid("checkpoint.depth", other.len() as u64)),
        }
    }
}

/// A checkpoint at which no hash got a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispute {
    /// The checkpoint's index.
    pub index: Index,
    /// What a checkpoint must hash to show the difference again, and so to settle it.
    pub shown_by: Depth,
}

impl Dispute {
    /// Whether a majority that has this hash ends it.
    pub fn is_settled_by(&self, majority: &StateHash) -> bool {
        majority.depth() >= self.shown_by
    }

    /// The bytes (`docs/formats/entry.md`).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.index);
        out.put_u8(match self.shown_by {
            Depth::Chain => 1,
            Depth::Content => 2,
        });
    }

    /// Reads what [`Dispute::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Dispute, DecodeError> {
        let index = reader.u64("dispute.index")?;
        let shown_by = match reader.u8("dispute.shown_by")? {
            1 => Depth::Chain,
            2 => Depth::Content,
            other => return Err(DecodeError::Unknown("dispute.shown_by", u64::from(other))),
        };
        Ok(Dispute { index, shown_by })
    }
}

/// What the hashes that came in mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A majority of voters has this hash; these replicas have another one.
    Alone { majority: StateHash, others: Vec<ReplicaId> },
    /// No hash can get a majority of the voters, and the log does not say so yet.
    Split { dispute: Dispute, found: BTreeMap<ReplicaId, StateHash>, is_news: bool },
    /// The log says that there is a dispute, and a majority of voters has this hash.
    Settled { majority: StateHash },
}

/// A leader's side of the comparison, which is forgotten with the office, and what the log says.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// The tick of the next checkpoint; 0 before the first one of an office.
    due_tick: u64,
    /// The tick of the next one that hashes the content too.
    content_due_tick: u64,
    /// The leader's own last checkpoint or verdict: as long as it is the last entry, there is nothing new to compare.
    written: Index,
    open: BTreeMap<Index, BTreeMap<ReplicaId, StateHash>>,
    /// Up to here every voter had the same hash.
    agreed: Index,
    /// Up to here verdicts were given.
    judged: Index,
    /// Up to here the settling of a dispute was written.
    settled: Index,
    /// What this office found, until a majority is found.
    found: Option<Dispute>,
    /// What the state machine has applied, which outlives offices and restarts.
    logged: Option<Dispute>,
}

impl Comparison {
    /// Up to which entry all voters are known to have the same state, since this replica leads.
    pub(crate) fn agreed(&self) -> Index {
        self.agreed
    }

    /// Another office begins: what is in the log stays.
    pub(crate) fn new_office(&mut self) {
        *self = Comparison { logged: self.logged, ..Comparison::default() };
    }

    /// What the applied log says.
    pub(crate) fn logged(&mut self, dispute: Option<Dispute>) {
        self.logged = dispute;
    }

    /// The checkpoint at which no hash got a majority.
    pub(crate) fn disputed(&self) -> Option<Index> {
        self.found.or(self.logged).map(|dispute| dispute.index)
    }

    /// What settles all that is disputed.
    fn shown_by(&self) -> Option<Depth> {
        self.found.iter().chain(&self.logged).map(|dispute| dispute.shown_by).max()
    }

    /// The leader wrote a checkpoint or a verdict.
    pub(crate) fn wrote(&mut self, index: Index) {
        self.written = index;
    }

    /// Whether it is time for a checkpoint, and how deep. `every_ticks` (chain) and `content_every_ticks`: 0 for never.
    pub(crate) fn due(
        &mut self,
        tick: u64,
        every_ticks: u64,
        content_every_ticks: u64,
        stagger: u64,
        last_index: Index,
    ) -> Option<Depth> {
        if every_ticks == 0 {
            return None;
        }
        if self.due_tick == 0 {
            // The groups of a node that just started must not all be hashed in the same tick.
            self.due_tick = tick + 1 + stagger % every_ticks;
            self.content_due_tick = self.due_tick + stagger % content_every_ticks.max(1);
        }
        if tick < self.due_tick || (last_index <= self.written && self.disputed().is_none()) {
            return None;
        }
        self.due_tick = tick + every_ticks;
        let content = content_every_ticks > 0 && tick >= self.content_due_tick;
        if content {
            self.content_due_tick = tick + content_every_ticks;
        }
        Some(if content { Depth::Content } else { self.shown_by().unwrap_or(Depth::Chain) })
    }

    /// Differences that are still not settled when the next checkpoint is due: whoever is missing had its time.
    pub(crate) fn overdue(&mut self, membership: &Membership) -> Option<Verdict> {
        let index = *self.open.iter().find(|(_, found)| difference(found, membership).is_some())?.0;
        let found = self.open.remove(&index)?;
        self.dispute(index, found, membership)
    }

    /// A replica, perhaps the leader itself, found this.
    pub(crate) fn heard(
        &mut self,
        from: ReplicaId,
        hash: StateHash,
        membership: &Membership,
    ) -> Option<Verdict> {
        if !membership.members.contains_key(&from) || hash.index <= self.judged {
            return None;
        }
        if !self.open.contains_key(&hash.index) && self.open.len() == OPEN_CHECKPOINTS_MAX {
            let (oldest, _) = self.open.first_key_value()?;
            if hash.index < *oldest {
                return None;
            }
            self.open.pop_first();
        }
        let found = self.open.entry(hash.index).or_default();
        found.insert(from, hash);
        let voters: Vec<ReplicaId> = membership.counting().collect();
        let quorum = voters.len() / 2 + 1;
        let mut counts: BTreeMap<StateHash, usize> = BTreeMap::new();
        for voter in &voters {
            if let Some(hash) = found.get(voter) {
                *counts.entry(*hash).or_default() += 1;
            }
        }
        let (most, count) = counts.iter().max_by_key(|(_, count)| **count)?;
        let (most, count, heard) = (*most, *count, counts.values().sum::<usize>());
        if count >= quorum {
            self.found = self.found.filter(|dispute| !dispute.is_settled_by(&most));
            let others: Vec<ReplicaId> =
                found.iter().filter(|(_, hash)| **hash != most).map(|(id, _)| *id).collect();
            if !others.is_empty() {
                self.judged = hash.index;
                self.open.remove(&hash.index);
                return Some(Verdict::Alone { majority: most, others });
            }
            if heard == voters.len() {
                self.agreed = self.agreed.max(hash.index);
            }
            if found.len() == membership.members.len() {
                self.open.remove(&hash.index);
            }
            let settles = self.logged.is_some_and(|dispute| dispute.is_settled_by(&most));
            if settles && self.settled < hash.index {
                self.settled = hash.index;
                return Some(Verdict::Settled { majority: most });
            }
            return None;
        }
        if count + (voters.len() - heard) < quorum {
            let found = self.open.remove(&hash.index)?;
            return self.dispute(hash.index, found, membership);
        }
        None
    }

    fn dispute(
        &mut self,
        index: Index,
        found: BTreeMap<ReplicaId, StateHash>,
        membership: &Membership,
    ) -> Option<Verdict> {
        self.judged = self.judged.max(index);
        let before = self.shown_by();
        let dispute = Dispute { index, shown_by: Some(difference(&found, membership)?).max(before)? };
        self.found = Some(dispute);
        let is_in_log = self.logged.is_some_and(|logged| logged.shown_by == dispute.shown_by);
        // Told once: the retries of a dispute say nothing new.
        (!is_in_log).then_some(Verdict::Split { dispute, found, is_news: before.is_none() })
    }
}

/// By what the voters differ. A difference of the chain never goes away, so that alone settles it; one of the content may not show in
/// the chain at all. What a learner found does not count: it has no say in what the state is.
fn difference(found: &BTreeMap<ReplicaId, StateHash>, membership: &Membership) -> Option<Depth> {
    let mut hashes = membership.counting().filter_map(|voter| found.get(&voter));
    let first = hashes.next()?;
    let mut by = None;
    for hash in hashes.filter(|hash| *hash != first) {
        if hash.chain != first.chain {
            return Some(Depth::Chain);
        }
        by = Some(Depth::Content);
    }
    by
}

#[cfg(test)]
mod tests {
    use mraft_types::{Member, NodeId, Role};

    use super::*;

    fn id(node: u64) -> ReplicaId {
        ReplicaId::new(0, NodeId::new(node).expect("a node id"))
    }

    fn members(voters: &[u64], learners: &[u64]) -> Membership {
        let member = |role| move |node: &u64| (id(*node), Member { role, raft_address: String::new() });
        let voters = voters.iter().map(member(Role::Voter));
        let learners = learners.iter().map(member(Role::Learner));
        Membership { members: voters.chain(learners).collect(), ..Membership::default() }
    }

    fn chain(index: Index, chain: u128) -> StateHash {
        StateHash { index, chain, content: None }
    }

    fn full(index: Index, content: u128) -> StateHash {
        StateHash { index, chain: 1, content: Some(content) }
    }

    #[test]
    fn e8_a_replica_alone_against_a_majority_is_named_whoever_it_is() {
        for alone in [1, 2, 3] {
            let mut comparison = Comparison::default();
            let three = members(&[1, 2, 3], &[]);
            let verdicts: Vec<Verdict> = [1, 2, 3]
                .into_iter()
                .filter_map(|node| comparison.heard(id(node), chain(10, u128::from(node == alone)), &three))
                .collect();
            assert_eq!(verdicts, [Verdict::Alone { majority: chain(10, 0), others: vec![id(alone)] }]);
            assert_eq!(comparison.disputed(), None);
        }
    }

    #[test]
    fn e8_a_learner_counts_for_nothing_and_is_compared_all_the_same() {
        let mut comparison = Comparison::default();
        let membership = members(&[1, 2, 3], &[4]);
        assert_eq!(comparison.heard(id(4), chain(10, 7), &membership), None);
        assert_eq!(comparison.heard(id(1), chain(10, 0), &membership), None);
        let verdict = comparison.heard(id(2), chain(10, 0), &membership);
        assert_eq!(verdict, Some(Verdict::Alone { majority: chain(10, 0), others: vec![id(4)] }));
    }

    #[test]
    fn e8_no_majority_is_a_dispute_until_one_is_found() {
        let mut comparison = Comparison::default();
        let two = members(&[1, 2, 3], &[]);
        comparison.heard(id(1), full(10, 1), &two);
        assert_eq!(comparison.heard(id(2), full(10, 2), &two), None, "the third may settle it");
        assert!(
            matches!(
                comparison.overdue(&two),
                Some(Verdict::Split { dispute: Dispute { index: 10, shown_by: Depth::Content }, .. })
            ),
            "it did not in time"
        );
        assert_eq!(comparison.disputed(), Some(10));
        for node in [1, 2, 3] {
            comparison.heard(id(node), chain(15, 1), &two);
        }
        assert_eq!(comparison.disputed(), Some(10), "equal chains do not settle what the content shows");
        comparison.heard(id(1), full(20, 1), &two);
        comparison.heard(id(2), full(20, 2), &two);
        let verdict = comparison.heard(id(3), full(20, 2), &two);
        assert_eq!(verdict, Some(Verdict::Alone { majority: full(20, 2), others: vec![id(1)] }));
        assert_eq!(comparison.disputed(), None);
    }

    #[test]
    fn e8_a_dispute_of_the_chain_is_settled_by_the_chain() {
        let mut comparison = Comparison::default();
        let three = members(&[1, 2, 3], &[]);
        comparison.heard(id(1), chain(10, 1), &three);
        comparison.heard(id(2), chain(10, 2), &three);
        assert!(matches!(comparison.overdue(&three), Some(Verdict::Split { .. })));
        comparison.due_tick = 5;
        comparison.content_due_tick = 100;
        assert_eq!(comparison.due(5, 10, 100, 0, 11), Some(Depth::Chain), "no need to hash everything");
        for (node, hash) in [(1, 1), (3, 2)] {
            assert_eq!(comparison.heard(id(node), chain(12, hash), &three), None);
        }
        let verdict = comparison.heard(id(2), chain(12, 2), &three);
        assert_eq!(verdict, Some(Verdict::Alone { majority: chain(12, 2), others: vec![id(1)] }));
        assert_eq!(comparison.disputed(), None);
    }

    #[test]
    fn e8_what_the_log_says_is_disputed_stays_so_over_offices_until_the_log_says_otherwise() {
        let mut comparison = Comparison::default();
        let three = members(&[1, 2, 3], &[]);
        let dispute = Dispute { index: 10, shown_by: Depth::Content };
        comparison.logged(Some(dispute));
        comparison.new_office();
        assert_eq!(comparison.disputed(), Some(10));
        assert_eq!(comparison.due(0, 10, 1_000, 0, 11), None);
        assert_eq!(comparison.due(1, 10, 1_000, 0, 11), Some(Depth::Content), "only the content settles it");
        for node in [1, 2] {
            assert_eq!(comparison.heard(id(node), chain(12, 1), &three), None, "equal chains settle nothing");
        }
        assert_eq!(comparison.heard(id(1), full(20, 1), &three), None);
        let verdict = comparison.heard(id(2), full(20, 1), &three);
        assert_eq!(verdict, Some(Verdict::Settled { majority: full(20, 1) }));
        assert_eq!(comparison.heard(id(3), full(20, 1), &three), None, "written once");
        assert_eq!(comparison.disputed(), Some(10), "until it is in the log");
        comparison.logged(None);
        assert_eq!(comparison.disputed(), None);
    }

    #[test]
    fn e8_a_dispute_is_told_once_and_written_until_it_is_in_the_log() {
        let mut comparison = Comparison::default();
        let two = members(&[1, 2], &[]);
        let differ = |comparison: &mut Comparison, index| {
            comparison.heard(id(1), chain(index, 1), &two);
            match comparison.heard(id(2), chain(index, 2), &two) {
                Some(Verdict::Split { dispute, is_news, .. }) => Some((dispute, is_news)),
                _ => None,
            }
        };
        let dispute = |index| Dispute { index, shown_by: Depth::Chain };
        assert_eq!(differ(&mut comparison, 10), Some((dispute(10), true)));
        assert_eq!(differ(&mut comparison, 20), Some((dispute(20), false)));
        comparison.logged(Some(dispute(20)));
        assert_eq!(differ(&mut comparison, 30), None);
    }

    #[test]
    fn e8_a_learner_alone_disputes_nothing() {
        let mut comparison = Comparison::default();
        let membership = members(&[1, 2, 3], &[4]);
        comparison.heard(id(4), chain(10, 7), &membership);
        comparison.heard(id(1), chain(10, 0), &membership);
        assert_eq!(comparison.overdue(&membership), None, "the voters that were heard agree");
        assert_eq!(comparison.disputed(), None);
    }

    #[test]
    fn e8_two_voters_that_differ_are_a_dispute_at_once() {
        let mut comparison = Comparison::default();
        let two = members(&[1, 2], &[]);
        assert_eq!(comparison.heard(id(1), chain(10, 1), &two), None);
        assert!(matches!(comparison.heard(id(2), chain(10, 2), &two), Some(Verdict::Split { .. })));
        assert_eq!(comparison.heard(id(1), chain(10, 1), &two), None, "a late answer opens nothing again");
    }

    #[test]
    fn e8_strangers_and_late_answers_are_not_counted() {
        let mut comparison = Comparison::default();
        let three = members(&[1, 2, 3], &[]);
        assert_eq!(comparison.heard(id(9), chain(10, 5), &three), None);
        for node in [1, 2, 3] {
            assert_eq!(comparison.heard(id(node), chain(10, 0), &three), None);
        }
        assert_eq!(comparison.agreed(), 10);
        for index in 20..100 {
            comparison.heard(id(1), chain(index, 0), &three);
            assert!(comparison.open.len() <= OPEN_CHECKPOINTS_MAX);
        }
        let newest = |comparison: &Comparison| comparison.open.keys().copied().collect::<Vec<_>>();
        let expected: Vec<Index> = (100 - OPEN_CHECKPOINTS_MAX as Index..100).collect();
        assert_eq!(newest(&comparison), expected);
        comparison.heard(id(2), chain(15, 0), &three);
        assert_eq!(newest(&comparison), expected, "what comes late pushes nothing out");
    }

    #[test]
    fn e8_nothing_is_compared_while_nothing_happens() {
        let mut comparison = Comparison::default();
        assert_eq!(comparison.due(5, 10, 100, 55, 7), None, "not at once");
        assert_eq!(comparison.due(11, 10, 100, 55, 7), Some(Depth::Chain));
        comparison.wrote(8);
        assert_eq!(comparison.due(30, 10, 100, 55, 8), None, "the last entry is the checkpoint");
        assert_eq!(comparison.due(31, 10, 100, 55, 9), Some(Depth::Chain));
        comparison.wrote(10);
        assert_eq!(comparison.due(112, 10, 100, 55, 11), Some(Depth::Content));
        assert_eq!(comparison.due(500, 0, 100, 55, 20), None, "switched off");
    }

    #[test]
    fn e8_a_hash_comes_back_from_its_bytes_and_from_nothing_less() {
        for hash in [chain(7, 9), full(7, 9)] {
            let mut bytes = Vec::new();
            hash.encode(&mut bytes);
            assert_eq!(StateHash::decode(&mut Reader::new(&bytes)), Ok(hash));
            for len in 0..bytes.len() {
                assert!(StateHash::decode(&mut Reader::new(&bytes[..len])).is_err());
            }
        }
        for shown_by in [Depth::Chain, Depth::Content] {
            let dispute = Dispute { index: 7, shown_by };
            let mut bytes = Vec::new();
            dispute.encode(&mut bytes);
            assert_eq!(Dispute::decode(&mut Reader::new(&bytes)), Ok(dispute));
            for len in 0..bytes.len() {
                assert!(Dispute::decode(&mut Reader::new(&bytes[..len])).is_err());
            }
        }
        assert_eq!(Depth::of(Depth::Chain.body()), Ok(Depth::Chain));
        assert_eq!(Depth::of(Depth::Content.body()), Ok(Depth::Content));
        assert!(Depth::of(b"xx").is_err());
    }
}
