// SPDX-License-Identifier: Apache-2.0

//! Where a question about a group is answered: here, at its leader, or at whoever holds it (rules E4, R3).
//!
//! A request makes at most two hops: to a holder, and from there to the leader. Only the node that a client asked tries again, and
//! only what was certainly not applied: a failed attempt says so ([`Missed::again`]). So one request waits out an election within its
//! deadline, and a write is never sent twice when its fate is not known. Where nobody led or answered for longer than elections take,
//! nobody waits any more ([`Waiting`]): without a quorum requests fail fast (row S15).

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mraft_api::{Consistency, GroupDetail};
use mraft_gateway::needs::{Failure, NodeError};
use mraft_types::{GroupId, NodeId, Payload};
use mraft_wire::RequestKind;
use tokio::sync::oneshot;

use mraft::peers::AskFailed;

use super::exchange::{self, Question, Said};
use super::service::Service;

/// How often a request is passed on at most.
const HOPS_MAX: u8 = 2;
/// Pauses between attempts: the first is about a round trip, the last a fraction of an election.
const PAUSE_FIRST: Duration = Duration::from_millis(4);
const PAUSE_MAX: Duration = Duration::from_millis(128);
/// How much longer than the deadline a node waits for what its peer knows then.
const ANSWER_SLACK: Duration = Duration::from_millis(50);

/// An attempt that did not succeed.
#[derive(Debug)]
pub(super) struct Missed {
    pub(super) failure: Box<Failure>,
    /// It was not applied, and may succeed a little later or elsewhere.
    pub(super) again: bool,
}

impl Missed {
    pub(super) fn last(failure: Box<Failure>) -> Missed {
        Missed { failure, again: false }
    }

    pub(super) fn again(failure: Box<Failure>) -> Missed {
        Missed { failure, again: true }
    }
}

/// Groups for which requests wait in vain, since when, and when that was seen last; at most one entry per group that was asked for.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Longer than a few elections take.
    patience: Duration,
    groups: Mutex<HashMap<GroupId, (Instant, Instant)>>,
    /// How many there are, for the many requests that find none.
    count: AtomicUsize,
}

impl Waiting {
    pub(super) fn new(patience: Duration) -> Waiting {
        Waiting { patience, groups: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// Nobody leads the group, or nobody who holds it answers. Whether that was so for too long.
    fn is_in_vain(&self, group: GroupId, now: Instant) -> bool {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, seen) = groups.entry(group).or_insert((now, now));
        if now.saturating_duration_since(*seen) >= self.patience {
            // Nobody asked meanwhile: it may have had leaders.
            *since = now;
        }
        *seen = now;
        let waited = now.saturating_duration_since(*since);
        self.count.store(groups.len(), Ordering::Relaxed);
        waited >= self.patience
    }

    fn is_served(&self, group: GroupId) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            groups.remove(&group);
            self.count.store(groups.len(), Ordering::Relaxed);
        }
    }
}

impl Service {
    /// Answers a question about a group. `hops`: how often it was passed on before.
    pub(super) async fn route(
        self: &Arc<Self>,
        group: GroupId,
        question: Question,
        hops: u8,
        until: Instant,
    ) -> Result<Said, Box<Failure>> {
        let mut pause = PAUSE_FIRST;
        loop {
            let missed = match self.attempt(group, &question, hops, until).await {
                Ok(said) => {
                    self.waiting.is_served(group);
                    return Ok(said);
                }
                Err(missed) => missed,
            };
            let now = Instant::now();
            let is_hopeless = match missed.failure.error {
                NodeError::NoLeader | NodeError::NoHolder { .. } => self.waiting.is_in_vain(group, now),
                _ => false,
            };
            if !missed.again || is_hopeless || hops > 0 || until.saturating_duration_since(now) <= pause {
                return Err(missed.failure);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        group: GroupId,
        question: &Question,
        hops: u8,
        until: Instant,
    ) -> Result<Said, Missed> {
        if let Some(why) = self.host.stopped_by_disk() {
            // Nothing here answers any more, and whoever asked should know why (rule T1).
            return Err(Missed::last(self.failure(NodeError::DiskStalled(why), group, None)));
        }
        let Some(leadership) = self.host.leader(group) else {
            return self.elsewhere(group, question, hops, until).await;
        };
        let is_stale = matches!(question, Question::Read { consistency: Consistency::Stale, .. });
        if is_stale || matches!(question, Question::Hash(_)) {
            if self.host.lookup(group).is_some() {
                return self.here(group, question, until).await;
            }
            return self.elsewhere(group, question, hops, until).await;
        }
        match leadership.leader.map(|leader| leader.node()) {
            Some(leader) if leader == self.node() => self.here(group, question, until).await,
            Some(leader) if hops < HOPS_MAX => match question {
                Question::Read { .. } if self.host.lookup(group).is_some() => {
                    self.read_behind(group, question, leader, hops, until).await
                }
                _ => self.pass(group, question, leader, hops, until).await,
            },
            Some(leader) => {
                let failure = self.failure(NodeError::NoHolder { hops }, group, Some(leader));
                Err(Missed::again(failure))
            }
            None if matches!(question, Question::Detail) => {
                self.detail_without_leader(group, question, hops, until).await
            }
            // The replica here stopped for good: others may go on without it, and it does not hear of them.
            None if !self.host.takes_part(group) => self.elsewhere(group, question, hops, until).await,
            None => Err(Missed::again(self.failure(NodeError::NoLeader, group, None))),
        }
    }

    /// Whoever holds the group can say how it is, and shall when it has no leader. A replica that takes no part knows of no leader and of
    /// no later membership, so others are asked whether there is one.
    async fn detail_without_leader(
        self: &Arc<Self>,
        group: GroupId,
        question: &Question,
        hops: u8,
        until: Instant,
    ) -> Result<Said, Missed> {
        if !self.host.takes_part(group)
            && let Ok(said) = self.elsewhere(group, question, hops, until).await
            && self.read_document::<GroupDetail>(group, &said).is_ok_and(|said| said.summary.leader.is_some())
        {
            return Ok(said);
        }
        self.here(group, question, until).await
    }

    /// A linearizable read at a follower: the leader's confirmed index, then the state here (rule R3).
    async fn read_behind(
        self: &Arc<Self>,
        group: GroupId,
        question: &Question,
        leader: NodeId,
        hops: u8,
        until: Instant,
    ) -> Result<Said, Missed> {
        let since = Instant::now();
        let index = match self.pass(group, &Question::ReadIndex, leader, hops, until).await? {
            Said::Data(data) => data.index,
            Said::Document(_) => {
                let odd = NodeError::Internal("the leader's read index is no index".to_owned());
                return Err(Missed::last(self.failure(odd, group, Some(leader))));
            }
        };
        self.freshness.heard(group, since, index);
        self.read_here_from(group, question, index, until).await
    }

    /// Asks those who are said to hold the group, one after the other.
    async fn elsewhere(
        self: &Arc<Self>,
        group: GroupId,
        question: &Question,
        hops: u8,
        until: Instant,
    ) -> Result<Said, Missed> {
        let topology = self.topology();
        let Some(row) = topology.groups().get(&group).filter(|_| hops < HOPS_MAX) else {
            let error = match topology.groups().contains_key(&group) {
                true => NodeError::NoHolder { hops },
                false if topology.is_empty() => knows_no_groups(),
                false => NodeError::GroupNotFound(group),
            };
            return Err(Missed { again: topology.is_empty(), failure: self.failure(error, group, None) });
        };
        let Some(peers) = self.host.peers() else {
            return Err(Missed::last(self.failure(NodeError::Stopping, group, None)));
        };
        let connected: BTreeSet<NodeId> =
            peers.status().into_iter().filter(|peer| peer.is_connected).map(|peer| peer.node).collect();
        // Members first; whoever else is connected may hold it since the table was made, and says so or not.
        let others = connected.iter().filter(|node| !row.members.contains_key(*node));
        let candidates =
            self.hint(group).into_iter().chain(row.members.keys().copied()).chain(others.copied());
        let mut tried = BTreeSet::from([self.node()]);
        let mut missed = Missed::again(self.failure(NodeError::NoHolder { hops: HOPS_MAX }, group, None));
        for node in candidates {
            if !connected.contains(&node) || !tried.insert(node) {
                continue;
            }
            // A holder that hangs leaves time to ask another one, where asking twice does no harm (rule E4).
            let left = until.saturating_duration_since(Instant::now());
            let patience = if question.may_be_repeated() { until - left / 2 } else { until };
            match self.pass(group, question, node, hops, patience).await {
                Ok(said) => {
                    let leader = match &said {
                        Said::Data(data) => data.leader.filter(|leader| connected.contains(leader)),
                        Said::Document(_) => None,
                    };
                    self.remember_hint(group, leader.unwrap_or(node));
                    return Ok(said);
                }
                Err(next) if next.again => {
                    self.forget_hint(group);
                    // A holder's word weighs more than that of a node which does not hold it.
                    if !matches!(next.failure.error, NodeError::NoHolder { .. }) {
                        missed = next;
                    }
                }
                Err(next) => return Err(next),
            }
        }
        Err(missed)
    }

    /// Passes a question on.
    pub(super) async fn pass(
        &self,
        group: GroupId,
        question: &Question,
        node: NodeId,
        hops: u8,
        until: Instant,
    ) -> Result<Said, Missed> {
        let sent = self.send(node, question.kind(), hops + 1, until, question.encode(group)).await;
        sent.map_err(|mut missed| {
            let failure = &mut missed.failure;
            failure.group = Some(group);
            failure.leader_http = failure.leader.and_then(|leader| self.http_of(leader));
            // Reads may always be asked again (rule E4).
            missed.again |= question.may_be_repeated() && matches!(failure.error, NodeError::Unknown(_));
            missed
        })
    }

    /// Sends a question to a node and waits for its answer.
    pub(super) async fn send(
        &self,
        node: NodeId,
        kind: RequestKind,
        hops: u8,
        until: Instant,
        body: Payload,
    ) -> Result<Said, Missed> {
        let within = until.saturating_duration_since(Instant::now());
        if within.is_zero() {
            return Err(Missed::last(NodeError::NotStarted.into()));
        }
        let Some(peers) = self.host.peers() else {
            return Err(Missed::last(NodeError::Stopping.into()));
        };
        let (sender, answered) = oneshot::channel();
        // The receiver is gone when the client is.
        peers.ask(node, kind, hops, within + ANSWER_SLACK, body, move |answer| _ = sender.send(answer));
        drop(peers);
        match answered.await {
            Ok(Ok(body)) => match exchange::decode_answer(&body) {
                Ok(Ok(said)) => Ok(said),
                Ok(Err(failure)) => Err(Missed { again: may_be_tried_again(&failure.error), failure }),
                Err(why) => {
                    Err(Missed::last(NodeError::Unknown(format!("node {node} answered with {why}")).into()))
                }
            },
            Ok(Err(AskFailed::NotSent)) => Err(Missed::again(NodeError::NoHolder { hops }.into())),
            Ok(Err(_)) | Err(_) => {
                let why = format!("the request was sent on to node {node}, and no answer came back");
                Err(Missed::last(NodeError::Unknown(why).into()))
            }
        }
    }
}

/// A node that only joins, before a peer told it anything.
pub(super) fn knows_no_groups() -> NodeError {
    NodeError::ReplicaUnfit(
        "no peer has told this node yet which groups there are: add it to a group".to_owned(),
    )
}

/// Which answers of another node mean: not applied, and a little later or elsewhere it may be.
fn may_be_tried_again(error: &NodeError) -> bool {
    matches!(
        error,
        NodeError::NoLeader
            | NodeError::NoHolder { .. }
            | NodeError::Transferring(_)
            | NodeError::Superseded
            | NodeError::Stopping
            | NodeError::ReplicaUnfit(_)
            | NodeError::GroupNotFound(_)
            | NodeError::DiskFull(_)
            | NodeError::DiskStalled(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s15_nobody_waits_for_a_group_that_had_no_leader_for_longer_than_elections_take() {
        let waiting = Waiting::new(Duration::from_secs(7));
        let (group, begun) = (GroupId(3), Instant::now());
        let later = |seconds| begun + Duration::from_secs(seconds);
        assert!(!waiting.is_in_vain(group, begun), "it may be an election");
        assert!(!waiting.is_in_vain(group, later(6)));
        assert!(!waiting.is_in_vain(GroupId(4), later(7)), "each group by itself");
        assert!(waiting.is_in_vain(group, later(7)));
        waiting.is_served(group);
        assert!(!waiting.is_in_vain(group, later(8)), "it had a leader in between");
        assert!(
            !waiting.is_in_vain(GroupId(4), later(14)),
            "nobody asked for so long, and it may have had one"
        );
        assert!(!waiting.is_in_vain(GroupId(4), later(20)));
        assert!(waiting.is_in_vain(GroupId(4), later(21)));
    }
}
