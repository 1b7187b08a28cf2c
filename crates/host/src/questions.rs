// SPDX-License-Identifier: Apache-2.0

//! What hosts ask and tell each other on their own behalf: that a new member's replica be started, and what a state hashes to. Both
//! are small questions beside the Raft messages; what is lost is asked or found again.
//!
//! ```text
//! start replica  kind 6: group:u64 uid:16 replica:u64 machine:bytes
//! state hash     kind 7: group:u64 uid:16 replica:u64 state hash (docs/formats/entry.md)
//! ```

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mraft_engine::StateHash;
use mraft_engine::event::Event;
use mraft_types::codec::{Reader, Writer};
use mraft_types::{GroupId, GroupUid, NodeId, Payload, ReplicaId};
use mraft_wire::{DecodeError, Request, RequestKind};

use crate::core::HashReport;
use crate::node_host::Inner;
use crate::peers::{Peers, Reply};

/// Asks a node to start a memberless replica (rule M4): {group, uid, replica, kind of state machine}.
const START_REPLICA: RequestKind = RequestKind(6);
/// Tells the leader what a replica found at a checkpoint (rule E8).
const STATE_HASH: RequestKind = RequestKind(7);
/// Longest name of a kind of state machine.
const MACHINE_NAME_BYTES_MAX: usize = 64;

/// The body of [`START_REPLICA`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartReplica {
    group: GroupId,
    uid: GroupUid,
    replica: ReplicaId,
    machine: String,
}

/// The body of [`STATE_HASH`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HashTold {
    group: GroupId,
    uid: GroupUid,
    replica: ReplicaId,
    hash: StateHash,
}

impl StartReplica {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_replica(self.group, self.uid, self.replica, &mut body);
        body.put_bytes(self.machine.as_bytes());
        body
    }

    pub(crate) fn decode(body: &[u8]) -> Result<StartReplica, DecodeError> {
        let mut reader = Reader::new(body);
        let (group, uid, replica) = read_replica(&mut reader)?;
        let machine = reader.text("question.machine", MACHINE_NAME_BYTES_MAX)?.to_owned();
        reader.finish()?;
        Ok(StartReplica { group, uid, replica, machine })
    }
}

impl HashTold {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_replica(self.group, self.uid, self.replica, &mut body);
        self.hash.encode(&mut body);
        body
    }

    pub(crate) fn decode(body: &[u8]) -> Result<HashTold, DecodeError> {
        let mut reader = Reader::new(body);
        let (group, uid, replica) = read_replica(&mut reader)?;
        let hash = StateHash::decode(&mut reader)?;
        reader.finish()?;
        Ok(HashTold { group, uid, replica, hash })
    }
}

/// What both begin with.
fn put_replica(group: GroupId, uid: GroupUid, replica: ReplicaId, body: &mut Vec<u8>) {
    body.put_u64(group.0);
    body.put_raw(&uid.0);
    body.put_u64(replica.get());
}

fn read_replica(reader: &mut Reader<'_>) -> Result<(GroupId, GroupUid, ReplicaId), DecodeError> {
    let group = GroupId(reader.u64("question.group")?);
    let uid = GroupUid(reader.id128("question.uid")?);
    let replica = reader.u64("question.replica")?;
    let replica = ReplicaId::from_u64(replica).ok_or(DecodeError::Invalid("question.replica", replica))?;
    Ok((group, uid, replica))
}

impl Peers {
    /// Has a new member's node start a memberless replica (rule M4). Lost questions are harmless: adding the node again asks again.
    pub(crate) fn start_replica(&self, group: GroupId, uid: GroupUid, replica: ReplicaId, machine: &str) {
        let body = StartReplica { group, uid, replica, machine: machine.to_owned() }.encode();
        let inner = self.inner.clone();
        self.ask(
            replica.node(),
            START_REPLICA,
            0,
            Duration::from_secs(10),
            Payload::from(body),
            move |answer| {
                if let (Ok(_), Some(inner)) = (answer, inner.upgrade()) {
                    inner.joining.lock().unwrap_or_else(PoisonError::into_inner).remove(&(group, replica));
                }
            },
        );
    }

    /// Tells a leader what was found at a checkpoint (rule E8).
    pub(crate) fn tell_hash(&self, report: &HashReport) {
        let HashReport { group, uid, from, hash, .. } = *report;
        let body = HashTold { group, uid, replica: from, hash }.encode();
        // Nobody waits for an answer: what is lost is found again at the next checkpoint.
        self.ask(report.to.node(), STATE_HASH, 0, Duration::from_secs(1), Payload::from(body), |_| {});
    }
}

/// Answers a question of another host; gives back what the embedder must answer.
pub(crate) fn answer(
    inner: &Arc<Inner>,
    from: NodeId,
    request: Request,
    reply: Reply,
) -> Option<(Request, Reply)> {
    match request.kind {
        START_REPLICA => start_replica(inner, from, &request, reply),
        STATE_HASH => {
            state_hash(inner, from, &request);
            reply.send(Payload::default());
        }
        _ => return Some((request, reply)),
    }
    None
}

fn start_replica(inner: &Arc<Inner>, from: NodeId, request: &Request, reply: Reply) {
    match StartReplica::decode(&request.body) {
        Ok(StartReplica { group, uid, replica, machine }) if replica.node() == inner.config.node => {
            inner.start_joining(group, uid, replica, machine, reply);
        }
        Ok(StartReplica { group, replica, .. }) => {
            tracing::warn!(%group, %replica, %from, "asked to start a replica of another node");
        }
        Err(error) => tracing::warn!(%from, "a request to start a replica does not decode: {error}"),
    }
}

/// What another node's replica found at a checkpoint (rule E8).
fn state_hash(inner: &Arc<Inner>, from: NodeId, request: &Request) {
    match HashTold::decode(&request.body) {
        Ok(HashTold { group, uid, replica, hash }) if replica.node() == from => {
            inner.input(group, Event::PeerHashed { uid, from: replica, hash });
        }
        Ok(HashTold { group, replica, .. }) => {
            tracing::warn!(%group, %replica, %from, "a node speaks of the state of another node's replica");
        }
        Err(error) => tracing::warn!(%from, "a state's hash does not decode: {error}"),
    }
}
