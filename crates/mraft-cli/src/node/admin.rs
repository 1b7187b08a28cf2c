// SPDX-License-Identifier: Apache-2.0

//! How the node and its groups are, and what an operator changes in a group.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mraft::{Answer, GroupStatus, NotApplied, ReplicaState, StateRoom};
use mraft_api::status::PeerStatus;
use mraft_api::{
    ChangeAnswer, GroupDetail, GroupSummary, MemberRow, NodeName, NodeStatus, VerifyAnswer, VerifyRow,
};
use mraft_gateway::needs::{Check, Failure, Health, NodeError};
use mraft_kv::query::{Query, QueryAnswer, Status as KvStatus};
use mraft_raft::ChangeError;
use mraft_types::{ChangeRefused, GroupId, Index, Membership, MembershipChange, NodeId, ReplicaId, Role};
use tokio::sync::oneshot;

use crate::config::address::HostPort;

use super::exchange::{ChangeWire, Question, Said};
use super::lookups::NoAnswer;
use super::memory;
use super::route::Missed;
use super::service::Service;

/// Pause between two looks at a replica that has not applied a checkpoint yet.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(5);
/// For what state machines say of themselves in one answer: they have it in memory, unless they wait for a disk.
const MACHINES_TIME_MAX: Duration = Duration::from_millis(500);

impl Service {
    pub(super) fn status_now(&self) -> NodeStatus {
        let host = self.host.status();
        let topology = self.topology();
        let mut without_leader = 0;
        let mut failed = 0;
        for group in self.host.groups() {
            match (self.host.takes_part(group), self.host.leader(group)) {
                (false, _) => failed += 1,
                (_, Some(known)) if known.leader.is_some() => {}
                _ => without_leader += 1,
            }
        }
        let mut warnings = host.warnings;
        warnings.extend(host.disk_trouble);
        warnings.extend(state_trouble(host.state_room, &self.config.data_dir));
        warnings.extend(self.config.plain_doors().into_iter().filter(|door| door.starts_with("HTTP")));
        warnings.extend(self.config.notices.iter().cloned());
        let health = self.health_now();
        // The disk's trouble is there already, in its own words.
        for check in health.ready.iter().filter(|check| !["log-room", "state-room"].contains(&check.name)) {
            let failure = check.failure.iter();
            warnings.extend(failure.map(|failure| format!("not ready ({}): {failure}", check.name)));
        }
        let peers = self.host.peers().map(|peers| peers.status()).unwrap_or_default();
        NodeStatus {
            node: self.node().get(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            deployment: host.deployment.0,
            instance: host.instance.to_string(),
            boot: host.boot_counter,
            uptime_s: self.started.elapsed().as_secs(),
            raft_address: host.raft_address,
            http_address: self.config.http.advertised_address.to_string(),
            ready: health.ready.iter().all(|check| check.failure.is_none()),
            topology_version: topology.version(),
            topology_hash: topology.hash().iter().map(|byte| format!("{byte:02x}")).collect(),
            groups_total: topology.groups().len() as u64,
            groups_held: host.groups,
            groups_leading: host.leaders,
            groups_without_leader: without_leader,
            groups_failed: failed,
            log_bytes: host.log.bytes,
            memory_bytes: memory::resident_bytes(),
            memory_ceiling_bytes: self.config.memory_ceiling_bytes,
            peers: peers
                .into_iter()
                .map(|peer| PeerStatus {
                    node: peer.node.get(),
                    http_address: self.http_of(peer.node),
                    raft_address: peer.raft_address,
                    connected: peer.is_connected,
                    reason: peer.refusal,
                })
                .collect(),
            conflicts: self.conflicts_now(),
            warnings,
        }
    }

    pub(super) fn health_now(&self) -> Health {
        let host = self.host.status();
        let check = |name, failure| Check { name, failure };
        let live = vec![check("log-disk", self.host.is_stopped_by_disk().then(|| trouble(&host)))];
        let mut missing = 0;
        let groups = self.host.groups();
        for group in &groups {
            // A replica that stopped for good is an operator's business; clients are served by the others.
            let waits = self.host.leader(*group).is_some_and(|known| known.leader.is_none());
            missing += u64::from(waits && self.host.takes_part(*group));
        }
        let draining = self.is_draining().then(|| "the node is stopping".to_owned());
        let topology =
            self.topology().is_empty().then(|| "no peer has told which groups there are".to_owned());
        let leaders = (missing > 0).then(|| format!("{missing} of {} groups have no leader", groups.len()));
        let absent = self.topology().groups().keys().filter(|group| !groups.contains(group)).count();
        // One that only lacks room serves.
        let state_refuses = (host.state_room == StateRoom::Refusing)
            .then(|| state_trouble(host.state_room, &self.config.data_dir))
            .flatten();
        let ready = vec![
            check("draining", draining),
            check("log-room", host.disk_trouble.clone()),
            check("state-room", state_refuses),
            check("topology", topology),
            check("groups-have-leaders", leaders),
            check(
                "peers",
                cut_off(absent, &self.host.peers().map(|peers| peers.status()).unwrap_or_default()),
            ),
        ];
        Health { live, ready }
    }

    pub(super) fn metrics_now(&self, per_group: bool) -> String {
        let mut out = String::new();
        // It looks at the step workers, which may be busy for a moment.
        tokio::task::block_in_place(|| self.host.write_prometheus(&mut out));
        let cached = [
            ("mraft_block_cache_bytes", "Blocks of state in memory.", self.caches.block_bytes()),
            ("mraft_block_cache_bytes_max", "How many may be.", self.caches.block_bytes_max()),
        ];
        for (name, help, value) in cached {
            gauge(&mut out, name, help, value);
        }
        memory::write_prometheus(&mut out);
        if per_group {
            self.group_series(&mut out);
        }
        out
    }

    fn group_series(&self, out: &mut String) {
        use std::fmt::Write;
        let statuses: Vec<GroupStatus> = tokio::task::block_in_place(|| {
            self.host.groups().into_iter().filter_map(|group| self.host.group_status(group).ok()).collect()
        });
        type Gauge = (&'static str, &'static str, fn(&GroupStatus) -> u64);
        let gauges: [Gauge; 5] = [
            ("mraft_group_term", "The group's Raft term.", |status| status.term),
            ("mraft_group_commit_index", "Committed up to this index.", |status| status.commit),
            ("mraft_group_applied_index", "Applied here up to this index.", |status| status.applied),
            ("mraft_group_pending_bytes", "Proposals that wait for their turn.", |status| {
                status.pending_bytes
            }),
            ("mraft_group_is_leader", "Whether the replica here leads.", |status| {
                u64::from(status.state == ReplicaState::Leader)
            }),
        ];
        for (name, help, value) in gauges {
            // A `String` takes whatever is written to it.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
            for status in &statuses {
                let _ = writeln!(out, "{name}{{group=\"{}\"}} {}", status.group, value(status));
            }
        }
    }

    pub(super) async fn summaries(self: &Arc<Self>) -> Result<Vec<GroupSummary>, Box<Failure>> {
        let topology = self.topology();
        let mut held = self.statuses().await?;
        let mut summaries: Vec<GroupSummary> = Vec::new();
        let mut asking = Asking::new();
        for (group, row) in topology.groups() {
            summaries.push(match held.remove(group) {
                Some(status) => {
                    let revision = asking.ask(self, *group).await.group_revision;
                    self.summary(&status, revision, Some(&row.slots))
                }
                None => GroupSummary {
                    group: group.0,
                    slots: ranges(&row.slots),
                    leader: self.hint(*group).map(NodeId::get),
                    nodes: row.members.keys().map(|node| node.get()).collect(),
                    ..GroupSummary::default()
                },
            });
        }
        for (group, status) in &held {
            let revision = asking.ask(self, *group).await.group_revision;
            summaries.push(self.summary(status, revision, None));
        }
        summaries.sort_by_key(|summary| summary.group);
        Ok(summaries)
    }

    async fn statuses(self: &Arc<Self>) -> Result<BTreeMap<GroupId, GroupStatus>, Box<Failure>> {
        let service = Arc::clone(self);
        let look = move || {
            let groups = service.host.groups();
            groups
                .into_iter()
                .filter_map(|group| Some((group, service.host.group_status(group).ok()?)))
                .collect()
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.map_err(|error| NodeError::Internal(error.to_string()).into())
    }

    async fn status_of(self: &Arc<Self>, group: GroupId) -> Result<GroupStatus, Box<Failure>> {
        let service = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || service.host.group_status(group)).await;
        match looked {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(self.host_failed(group, &error)),
            Err(error) => Err(self.failure(NodeError::Internal(error.to_string()), group, None)),
        }
    }

    fn summary(
        &self,
        status: &GroupStatus,
        revision: u64,
        slots: Option<&mraft_types::SlotSet>,
    ) -> GroupSummary {
        let own_role = status.membership.role(status.replica);
        let state = match status.state {
            ReplicaState::Leader => "leader",
            ReplicaState::Waiting => "waiting",
            ReplicaState::Condemned => "condemned",
            ReplicaState::Failed | ReplicaState::Stopped => "stopped",
            ReplicaState::Follower if own_role == Some(Role::Learner) => "learner",
            ReplicaState::Follower => "follower",
        };
        let disputed = status.disputed.map(|index| mraft::NotApplied::Disputed(index).to_string());
        let reason = status.failure.clone().or_else(|| status.condemned.map(way_back));
        let reason = reason.or(disputed).or_else(|| status.no_room.map(str::to_owned));
        let waits = (status.state == ReplicaState::Waiting)
            .then(|| "waits for the group's leader to send a snapshot".to_owned());
        GroupSummary {
            group: status.group.0,
            slots: ranges(slots.filter(|_| status.slots.is_empty()).unwrap_or(&status.slots)),
            held: true,
            replica: Some(status.replica.to_string()),
            state: Some(state.to_owned()),
            reason: reason.or(waits),
            leader: status.leader.map(|leader| leader.node().get()),
            term: status.term,
            commit: status.commit,
            applied: status.applied,
            revision,
            nodes: status.membership.members.keys().map(|id| id.node().get()).collect(),
        }
    }

    pub(super) async fn detail_here(self: &Arc<Self>, group: GroupId) -> Result<GroupDetail, Box<Failure>> {
        let status = self.status_of(group).await?;
        let topology = self.topology();
        let kv = Asking::new().ask(self, group).await;
        let slots = topology.groups().get(&group).map(|row| &row.slots);
        let summary = self.summary(&status, kv.group_revision, slots);
        let members = status.membership.members.iter().map(|(id, member)| {
            let progress = status.progress.iter().find(|progress| progress.replica == *id);
            let own = *id == status.replica && status.state == ReplicaState::Leader;
            let matched = progress.map(|progress| progress.matched).or(own.then_some(status.last_index));
            MemberRow {
                replica: id.to_string(),
                node: id.node().get(),
                raft_address: member.raft_address.clone(),
                role: member.role.to_string(),
                leader: status.leader == Some(*id),
                matched,
                lag_entries: matched.map(|matched| status.last_index.saturating_sub(matched)),
                active: progress.map(|progress| progress.active).or(own.then_some(true)),
            }
        });
        let removed = status.membership.removed.iter();
        Ok(GroupDetail {
            served_by: self.node().get(),
            uid: status.uid.to_string(),
            change_index: status.membership.change_index,
            members: members.collect(),
            removed: removed.map(|(node, highest)| ReplicaId::new(*highest, *node).to_string()).collect(),
            retired_nodes: status.membership.retired_nodes.iter().map(|node| node.get()).collect(),
            log_first: status.log_start + 1,
            log_last: status.last_index,
            persisted: kv.persisted,
            compared: status.compared,
            chain_hash: None,
            summary,
        })
    }

    pub(super) async fn change_here(
        self: &Arc<Self>,
        group: GroupId,
        change: &ChangeWire,
        until: Instant,
    ) -> Result<Said, Missed> {
        let status = self.status_of(group).await.map_err(Missed::last)?;
        if status.state != ReplicaState::Leader {
            let leader = status.leader.map(|leader| leader.node());
            return Err(Missed::again(self.failure(NodeError::NoLeader, group, leader)));
        }
        let refused = |error| Missed::last(self.failure(error, group, Some(self.node())));
        let members = &status.membership;
        let (wanted, replica, expected) = match change {
            ChangeWire::AddLearner { node, raft_address, change_index } => {
                match members.replica_on(node.node) {
                    Some(there) => {
                        return match elsewhere(members, there, raft_address) {
                            Some(why) => Err(refused(NodeError::Refused(why))),
                            None => self.unchanged(&status, there),
                        };
                    }
                    None => {
                        if raft_address.parse::<HostPort>().is_err() {
                            let bad = ChangeRefused::BadAddress(raft_address.clone());
                            return Err(refused(NodeError::Change(bad)));
                        }
                        if let Some(why) =
                            not_there(node.node, raft_address, self.host.known_address(node.node))
                        {
                            return Err(refused(NodeError::Refused(why)));
                        }
                        let (node, raft_address) = (node.node, raft_address.clone());
                        let replica =
                            members.next_replica_of(node).map_err(|why| refused(NodeError::Change(why)))?;
                        (Some(MembershipChange::AddLearner { node, raft_address }), replica, *change_index)
                    }
                }
            }
            ChangeWire::Promote { node, change_index } => {
                let replica = named(members, *node).ok_or_else(|| refused(not_a_member(*node)))?;
                if members.role(replica) == Some(Role::Voter) {
                    return self.unchanged(&status, replica);
                }
                (Some(MembershipChange::Promote(replica)), replica, *change_index)
            }
            ChangeWire::Remove { node, change_index } => match named(members, *node) {
                Some(replica) => (Some(MembershipChange::Remove(replica)), replica, *change_index),
                None => match members.removed.get(&node.node) {
                    Some(highest) if node.generation.is_none_or(|generation| generation <= *highest) => {
                        let generation = node.generation.unwrap_or(*highest);
                        return self.unchanged(&status, ReplicaId::new(generation, node.node));
                    }
                    _ => return Err(refused(not_a_member(*node))),
                },
            },
            ChangeWire::Transfer { node } => {
                let replica = named(members, *node).ok_or_else(|| refused(not_a_member(*node)))?;
                if replica == status.replica {
                    return self.unchanged(&status, replica);
                }
                if let Some(why) = may_not_lead(members, replica) {
                    return Err(refused(NodeError::Refused(why)));
                }
                (None, replica, None)
            }
            ChangeWire::Retire { node, change_index } => {
                let replica = ReplicaId::new(node.generation.unwrap_or(0), node.node);
                if members.retired_nodes.contains(&node.node) {
                    return self.unchanged(&status, replica);
                }
                (Some(MembershipChange::RetireNode(node.node)), replica, *change_index)
            }
        };
        if self.config.raft.ordered_config_change && expected.is_none() && wanted.is_some() {
            return Err(refused(NodeError::ChangeIndexMissing));
        }
        let (sender, answered) = oneshot::channel();
        // The receiver is gone when the client is.
        let done = move |answer| _ = sender.send(answer);
        let within = self.left(group, until)?;
        match wanted {
            Some(change) => self.host.change_membership(group, change, expected, within, done),
            None => self.host.transfer_leader(group, Some(replica), done),
        }
        let answer = match answered.await {
            Ok(Answer::NotApplied(NotApplied::Change(ChangeError::Stale(current)))) => {
                let expected = expected.unwrap_or_default();
                return Err(refused(NodeError::ChangedMeanwhile { expected, current }));
            }
            other => {
                let (sender, again) = oneshot::channel();
                if let Ok(answer) = other {
                    // Sent and received here: the answers' one translation is `answered`.
                    let _ = sender.send(answer);
                }
                self.answered(group, again).await?
            }
        };
        let (members, leader) = match &answer {
            Answer::Changed { membership, .. } => (membership.as_ref(), self.node()),
            Answer::Transferred { to } => (members, to.node()),
            other => return Err(self.odd(group, other)),
        };
        self.document(&ChangeAnswer {
            group: group.0,
            replica: replica.to_string(),
            change_index: members.change_index,
            leader: Some(leader.get()),
            served_by: self.node().get(),
            changed: true,
            role: members.role(replica).map(|role| role.to_string()),
        })
        .map_err(Missed::last)
    }

    fn unchanged(&self, status: &GroupStatus, replica: ReplicaId) -> Result<Said, Missed> {
        self.document(&ChangeAnswer {
            group: status.group.0,
            replica: replica.to_string(),
            change_index: status.membership.change_index,
            leader: status.leader.map(|leader| leader.node().get()),
            served_by: self.node().get(),
            changed: false,
            role: status.membership.role(replica).map(|role| role.to_string()),
        })
        .map_err(Missed::last)
    }

    /// Makes every replica hash its state at one index, and compares (rule E8).
    pub(super) async fn verify_here(
        self: &Arc<Self>,
        group: GroupId,
        until: Instant,
    ) -> Result<Said, Missed> {
        let status = self.status_of(group).await.map_err(Missed::last)?;
        let (sender, answered) = oneshot::channel();
        // The receiver is gone when the client is.
        self.host.checkpoint(group, move |answer| _ = sender.send(answer));
        let answered = tokio::time::timeout_at(until.into(), self.answered(group, answered)).await;
        let late = || NodeError::Unknown("no majority confirmed the checkpoint in time".to_owned());
        let index = match answered.map_err(|_| Missed::last(self.failure(late(), group, None)))?? {
            Answer::Applied { position, .. } => position.index,
            other => return Err(self.odd(group, &other)),
        };
        let (mut rows, mut hashes) = (Vec::new(), BTreeMap::new());
        for replica in status.membership.members.keys() {
            let said = match replica.node() == self.node() {
                true => self.hash_here(group, index, until).await,
                false => {
                    let body = Question::Hash(index).encode(group);
                    let kind = Question::Hash(index).kind();
                    // Two hops: nobody passes this question on, it is about the replica there.
                    self.send(replica.node(), kind, 2, until, body).await
                }
            };
            let (hash, reason) = match said.map_err(|missed| missed.failure) {
                Ok(Said::Document(document)) => (serde_json::from_slice::<String>(&document).ok(), None),
                Ok(Said::Data(_)) => (None, Some("it answered something else".to_owned())),
                Err(failure) => (None, Some(failure.error.to_string())),
            };
            hashes.extend(hash.clone().map(|hash| (*replica, hash)));
            rows.push(VerifyRow { replica: replica.to_string(), hash, reason });
        }
        let equal = are_shown_equal(&status.membership, &hashes);
        self.document(&VerifyAnswer { group: group.0, index, equal, replicas: rows }).map_err(Missed::last)
    }

    /// This replica's hash at a checkpoint, once it is applied here.
    pub(super) async fn hash_here(
        self: &Arc<Self>,
        group: GroupId,
        index: Index,
        until: Instant,
    ) -> Result<Said, Missed> {
        loop {
            let service = Arc::clone(self);
            let looked =
                tokio::task::spawn_blocking(move || service.host.checkpoint_hash(group, index)).await;
            match looked {
                Ok(Ok(mraft::CheckpointHash::Known(hash))) => {
                    let text = format!("{:032x}{:032x}", hash.chain, hash.content.unwrap_or(0));
                    return self.document(&text).map_err(Missed::last);
                }
                Ok(Ok(mraft::CheckpointHash::NotYet)) => {}
                Ok(Ok(mraft::CheckpointHash::Passed)) => {
                    let passed = NodeError::ReplicaUnfit(format!(
                        "it was not there at index {index}: it came over it by a snapshot or a restart"
                    ));
                    return Err(Missed::last(self.failure(passed, group, None)));
                }
                Ok(Err(error)) => return Err(Missed::last(self.host_failed(group, &error))),
                Err(error) => {
                    let failed = NodeError::Internal(error.to_string());
                    return Err(Missed::last(self.failure(failed, group, None)));
                }
            }
            self.left(group, until)?;
            tokio::time::sleep(CHECKPOINT_PAUSE).await;
        }
    }
}

/// Why requests for the `absent` groups that are not here can be sent on to nobody, as on a node that was removed for good.
/// Asks state machines how they are, for an answer that is worth more than what they say: all of them together have a deadline, and when
/// one does not come back (rule T1) no other is asked.
struct Asking {
    until: Instant,
    is_late: bool,
}

impl Asking {
    fn new() -> Asking {
        Asking { until: Instant::now() + MACHINES_TIME_MAX, is_late: false }
    }

    /// Zeros if there is no answer.
    async fn ask(&mut self, service: &Service, group: GroupId) -> KvStatus {
        let Some(lookup) = service.host.lookup(group).filter(|_| !self.is_late) else {
            return KvStatus::default();
        };
        let mut query = Vec::new();
        Query::Status.encode(&mut query);
        let answer = match service.lookups.ask(lookup, &query, self.until).await {
            Ok(answer) => answer,
            Err(why) => {
                self.is_late |= matches!(why, NoAnswer::Late);
                return KvStatus::default();
            }
        };
        match QueryAnswer::decode(&answer) {
            Ok(QueryAnswer::Status(status)) => status,
            _ => KvStatus::default(),
        }
    }
}

fn cut_off(absent: usize, peers: &[mraft::peers::PeerStatus]) -> Option<String> {
    if absent == 0 || peers.iter().any(|peer| peer.is_connected) {
        return None;
    }
    let refusal = peers.iter().find_map(|peer| peer.refusal.as_deref());
    let why = refusal.unwrap_or("none of them can be reached");
    Some(format!("{absent} groups are not here and no peer is connected: {why}"))
}

fn trouble(host: &mraft::HostStatus) -> String {
    host.disk_trouble.clone().unwrap_or_else(|| "the log cannot be written".to_owned())
}

/// What to do when the groups' states find no room.
fn state_trouble(room: StateRoom, data_dir: &Path) -> Option<String> {
    let meanwhile = match room {
        StateRoom::Enough => return None,
        StateRoom::Lacking => "what is new stays in memory and in the log; writes go on until those are full",
        StateRoom::Refusing => "the memory for it is full, too, and writes are refused",
    };
    Some(format!(
        "the disk is full: no room for the groups' states: {meanwhile}; free space under {}, the rest goes by itself",
        data_dir.display()
    ))
}

/// The member of this name; a generation, if one is named, must be its.
fn named(members: &Membership, name: NodeName) -> Option<ReplicaId> {
    let replica = members.replica_on(name.node)?;
    name.generation.is_none_or(|generation| generation == replica.generation()).then_some(replica)
}

fn not_a_member(name: NodeName) -> NodeError {
    NodeError::Change(ChangeRefused::NotAMember(ReplicaId::new(name.generation.unwrap_or(0), name.node)))
}

fn ranges(slots: &mraft_types::SlotSet) -> Vec<String> {
    slots.ranges().iter().map(|range| format!("{}-{}", range.first, range.last)).collect()
}

/// Why a replica cannot be handed leadership, whatever the group does.
fn may_not_lead(members: &Membership, replica: ReplicaId) -> Option<String> {
    match members.role(replica)? {
        Role::Voter => None,
        Role::Learner => Some(format!("replica {replica} is a learner and cannot lead: promote it first")),
        role => Some(format!("replica {replica} is a {role} and never leads")),
    }
}

/// Why a member is not the one that somebody wants to add, if it has another address.
fn elsewhere(members: &Membership, replica: ReplicaId, raft_address: &str) -> Option<String> {
    let member = members.members.get(&replica)?;
    (member.raft_address != raft_address).then(|| {
        format!(
            "replica {replica} is a {} already, at {}, and not at {raft_address}: remove it before the node is added at another \
             address",
            member.role, member.raft_address
        )
    })
}

/// Why a node cannot be added at an address, if it is known to be at another one.
fn not_there(node: NodeId, raft_address: &str, known: Option<(Option<GroupId>, String)>) -> Option<String> {
    let (group, known) = known.filter(|(_, known)| known != raft_address)?;
    let source = match group {
        Some(group) => format!("group {group} has it"),
        None => "it is connected".to_owned(),
    };
    Some(format!(
        "node {node} is at {known} ({source}), and not at {raft_address}: a node has one Raft address; at another one it is another node, \
         with an id of its own"
    ))
}

/// Whether these hashes show that the group's content is the same everywhere: a majority of those that count was asked and answered,
/// and nobody, learners included, has something else.
fn are_shown_equal(members: &Membership, hashes: &BTreeMap<ReplicaId, String>) -> bool {
    let counting = members.counting().count();
    let answered = members.counting().filter(|replica| hashes.contains_key(replica)).count();
    let mut all = hashes.values();
    let first = all.next();
    answered > counting / 2 && all.all(|hash| Some(hash) == first)
}

/// Adds a gauge of the whole node to a page of metrics.
pub(super) fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    use std::fmt::Write;
    // A `String` takes whatever is written to it.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
}

/// Why a replica is condemned, and what to do.
fn way_back(reason: mraft_types::CondemnedReason) -> String {
    format!(
        "{reason}; remove it and add the node again, or, if the group has no majority left, see `mraft repair accept-loss`"
    )
}

#[cfg(test)]
mod tests {
    use mraft::peers::PeerStatus;
    use mraft_types::Member;

    use super::*;

    fn replica(node: u64) -> ReplicaId {
        ReplicaId::new(0, NodeId::new(node).expect("a node id"))
    }

    fn members(roles: &[(u64, Role)]) -> Membership {
        let member = |(node, role): &(u64, Role)| {
            (replica(*node), Member { role: *role, raft_address: format!("10.0.0.{node}:13890") })
        };
        Membership { members: roles.iter().map(member).collect(), ..Membership::default() }
    }

    #[test]
    fn e8_learners_do_not_make_a_majority_but_may_spoil_it() {
        let (voter, learner) = (Role::Voter, Role::Learner);
        let group = members(&[(1, voter), (2, voter), (3, voter), (4, learner), (5, learner)]);
        let hashes = |found: &[(u64, &str)]| {
            found.iter().map(|(node, hash)| (replica(*node), (*hash).to_owned())).collect()
        };
        assert!(!are_shown_equal(&group, &hashes(&[(1, "a"), (4, "a"), (5, "a")])), "one voter of three");
        assert!(are_shown_equal(&group, &hashes(&[(1, "a"), (2, "a")])));
        assert!(are_shown_equal(&group, &hashes(&[(1, "a"), (2, "a"), (5, "a")])));
        assert!(!are_shown_equal(&group, &hashes(&[(1, "a"), (2, "a"), (5, "b")])));
        assert!(!are_shown_equal(&group, &hashes(&[])));
    }

    #[test]
    fn m5_only_voters_are_handed_leadership() {
        let group = members(&[(1, Role::Voter), (2, Role::Learner), (3, Role::Witness)]);
        assert_eq!(may_not_lead(&group, replica(1)), None);
        assert!(may_not_lead(&group, replica(2)).is_some_and(|why| why.contains("promote it first")));
        assert!(may_not_lead(&group, replica(3)).is_some_and(|why| why.contains("never leads")));
    }

    #[test]
    fn m3_a_member_is_not_added_again_under_another_address() {
        let group = members(&[(1, Role::Voter)]);
        assert_eq!(elsewhere(&group, replica(1), "10.0.0.1:13890"), None);
        let why = elsewhere(&group, replica(1), "10.0.0.9:13890").expect("another address");
        assert!(why.contains("is a voter already, at 10.0.0.1:13890, and not at 10.0.0.9:13890"), "{why}");
    }

    #[test]
    fn s10_a_node_is_not_added_at_another_address_than_its_own() {
        let node = NodeId::new(5).expect("a node id");
        let known = |group| Some((group, "10.0.0.5:1".to_owned()));
        assert_eq!(not_there(node, "10.0.0.5:1", known(None)), None);
        assert_eq!(not_there(node, "10.0.0.5:1", None), None);
        for (group, source) in [(None, "it is connected"), (Some(GroupId(3)), "group 3 has it")] {
            let why = not_there(node, "10.0.0.6:1", known(group)).expect("refused");
            assert!(["10.0.0.5:1", "10.0.0.6:1", source].iter().all(|part| why.contains(part)), "{why}");
        }
    }

    #[test]
    fn a_node_that_every_peer_refuses_is_cut_off_from_groups_that_are_not_here() {
        let peer = |is_connected, refusal: Option<&str>| PeerStatus {
            node: NodeId::new(8).expect("a node id"),
            raft_address: String::new(),
            is_connected,
            refusal: refusal.map(str::to_owned),
        };
        let refused = [peer(false, None), peer(false, Some("the peer refuses this node: retired"))];
        assert!(cut_off(3, &refused).is_some_and(|why| why.contains("retired")));
        assert!(cut_off(3, &[]).is_some(), "nobody is there at all");
        assert_eq!(cut_off(0, &refused), None, "everything is here");
        assert_eq!(cut_off(3, &[peer(false, None), peer(true, None)]), None);
    }
}
