// SPDX-License-Identifier: Apache-2.0

//! What nodes ask one another on behalf of clients (rules E4, R3), as bytes.
//!
//! ```text
//! question := version:u8=1  …                                           by the request's kind
//!   read         group:u64  stale:u8  query (the rest, docs/formats/kv.md)
//!   write        group:u64  slot:u16  command (the rest)
//!   read index   group:u64
//!   membership   JSON {"group", "change"}
//!   status       JSON, one of "node", "topology", {"group": G}, {"hash": {"group", "index"}}
//! answer := version:u8=1  kind:u8  …
//!   0 failure    JSON
//!   1 data       served_by:u64  leader:u64 (0: not known)  index:u64  answer of the state machine (the rest)
//!   2 document   the rest: JSON, or a topology
//!   3 stale data served_by:u64  leader:u64  index:u64  stale_ms:u64  answer (the rest): like data, with its age
//! ```
//!
//! What is rare is JSON, so that it can grow; what is frequent is not.

use mraft_api::Consistency;
use mraft_gateway::needs::{Change, Failure};
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::{GroupId, Index, NodeId, Payload};
use serde::{Deserialize, Serialize};

use mraft_api::NodeName;

use super::failure::FailureWire;

const VERSION: u8 = 1;
const FAILURE: u8 = 0;
const DATA: u8 = 1;
const DOCUMENT: u8 = 2;
const STALE_DATA: u8 = 3;

/// A question about one group, as it is answered here or sent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Reads published state.
    Read {
        /// How fresh it must be.
        consistency: Consistency,
        /// The query.
        query: Payload,
    },
    /// Proposes a command.
    Write {
        /// The slot of its keys.
        slot: u16,
        /// The command.
        command: Payload,
    },
    /// The leader's read index (rule R3).
    ReadIndex,
    /// Changes the membership, or who leads.
    Change(ChangeWire),
    /// The group as its leader sees it.
    Detail,
    /// The content's hash at this checkpoint (rule E8).
    Hash(Index),
    /// A checkpoint at the leader (rule E8), compared over all members.
    Verify,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// From a state machine.
    Data(Data),
    /// Anything else.
    Document(Payload),
}

/// What a state machine said, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Data {
    /// The node that read or wrote.
    pub(super) served_by: NodeId,
    /// The leader that it knows of.
    pub(super) leader: Option<NodeId>,
    /// The entry's index, or the confirmed one of a read.
    pub(super) index: Index,
    /// Of a stale read: the state held everything that was acknowledged so many milliseconds before, if that is known.
    pub(super) stale_ms: Option<u64>,
    /// The state machine's own words.
    pub(super) answer: Payload,
}

/// [`Change`] for the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChangeWire {
    AddLearner { node: NodeName, raft_address: String, change_index: Option<Index> },
    Promote { node: NodeName, change_index: Option<Index> },
    Remove { node: NodeName, change_index: Option<Index> },
    Transfer { node: NodeName },
    Retire { node: NodeName, change_index: Option<Index> },
}

impl From<Change> for ChangeWire {
    fn from(change: Change) -> ChangeWire {
        match change {
            Change::AddLearner { node, raft_address, change_index } => {
                ChangeWire::AddLearner { node: node.into(), raft_address, change_index }
            }
            Change::Promote { node, change_index } => ChangeWire::Promote { node, change_index },
            Change::Remove { node, change_index } => ChangeWire::Remove { node, change_index },
            Change::Transfer { node } => ChangeWire::Transfer { node },
        }
    }
}

/// A question of the rarer kinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Rare {
    Change { group: u64, change: ChangeWire },
    Detail { group: u64 },
    Hash { group: u64, index: Index },
    Verify { group: u64 },
    Node,
    Topology,
}

/// A question that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// About a group.
    Group(GroupId, Question),
    /// About this node.
    Node,
    /// For the routing table.
    Topology,
}

impl Question {
    /// The bytes of the question about `group`.
    pub(super) fn encode(&self, group: GroupId) -> Payload {
        let mut out = vec![VERSION];
        let rare = match self {
            Question::Read { consistency, query } => {
                out.reserve(query.len() + 16);
                out.put_u64(group.0);
                out.put_u8(u8::from(*consistency == Consistency::Stale));
                out.put_raw(query);
                return Payload::from(out);
            }
            Question::Write { slot, command } => {
                out.reserve(command.len() + 16);
                out.put_u64(group.0);
                out.put_u16(*slot);
                out.put_raw(command);
                return Payload::from(out);
            }
            Question::ReadIndex => {
                out.put_u64(group.0);
                return Payload::from(out);
            }
            Question::Change(change) => Rare::Change { group: group.0, change: change.clone() },
            Question::Detail => Rare::Detail { group: group.0 },
            Question::Hash(index) => Rare::Hash { group: group.0, index: *index },
            Question::Verify => Rare::Verify { group: group.0 },
        };
        rare.encode()
    }

    /// By which kind of request it travels.
    pub(super) fn kind(&self) -> mraft_wire::RequestKind {
        use mraft_wire::RequestKind;
        match self {
            Question::Read { .. } => RequestKind::KV_READ,
            Question::Write { .. } => RequestKind::KV_WRITE,
            Question::ReadIndex => RequestKind::READ_INDEX,
            Question::Change(_) => RequestKind::MEMBERSHIP,
            Question::Detail | Question::Hash(_) | Question::Verify => RequestKind::STATUS,
        }
    }

    /// Whether asking twice could do something twice (rule E4).
    pub(super) fn may_be_repeated(&self) -> bool {
        !matches!(self, Question::Write { .. } | Question::Change(_))
    }
}

impl Rare {
    pub(super) fn encode(&self) -> Payload {
        let mut out = vec![VERSION];
        out.extend(serde_json::to_vec(self).unwrap_or_default());
        Payload::from(out)
    }
}

/// Reads a question.
pub(super) fn decode_question(kind: mraft_wire::RequestKind, body: &Payload) -> Result<Asked, String> {
    use mraft_wire::RequestKind;
    let mut reader = Reader::new(body);
    let text = |error: DecodeError| error.to_string();
    let version = reader.u8("question.version").map_err(text)?;
    if version != VERSION {
        return Err(format!("a question of version {version}, which this build does not know"));
    }
    let rest = |from: usize| body.slice(from, body.len() - from).unwrap_or_default();
    let frequent = match kind {
        RequestKind::KV_READ => {
            let group = GroupId(reader.u64("read.group").map_err(text)?);
            let is_stale = reader.u8("read.stale").map_err(text)? != 0;
            let consistency = if is_stale { Consistency::Stale } else { Consistency::Linearizable };
            Asked::Group(group, Question::Read { consistency, query: rest(reader.position()) })
        }
        RequestKind::KV_WRITE => {
            let group = GroupId(reader.u64("write.group").map_err(text)?);
            let slot = reader.u16("write.slot").map_err(text)?;
            Asked::Group(group, Question::Write { slot, command: rest(reader.position()) })
        }
        RequestKind::READ_INDEX => {
            let group = GroupId(reader.u64("read_index.group").map_err(text)?);
            reader.finish().map_err(text)?;
            Asked::Group(group, Question::ReadIndex)
        }
        RequestKind::MEMBERSHIP | RequestKind::STATUS => {
            let rare: Rare = serde_json::from_slice(&body[1..]).map_err(|error| error.to_string())?;
            match rare {
                Rare::Change { group, change } => Asked::Group(GroupId(group), Question::Change(change)),
                Rare::Detail { group } => Asked::Group(GroupId(group), Question::Detail),
                Rare::Hash { group, index } => Asked::Group(GroupId(group), Question::Hash(index)),
                Rare::Verify { group } => Asked::Group(GroupId(group), Question::Verify),
                Rare::Node => Asked::Node,
                Rare::Topology => Asked::Topology,
            }
        }
        other => return Err(format!("a question of {other}, which this build does not know")),
    };
    Ok(frequent)
}

/// The bytes of an answer.
pub(super) fn encode_answer(result: &Result<Said, Box<Failure>>) -> Payload {
    let mut out = vec![VERSION];
    match result {
        Ok(Said::Data(data)) => {
            out.reserve(data.answer.len() + 32);
            out.put_u8(if data.stale_ms.is_some() { STALE_DATA } else { DATA });
            out.put_u64(data.served_by.get());
            out.put_u64(data.leader.map_or(0, NodeId::get));
            out.put_u64(data.index);
            if let Some(stale_ms) = data.stale_ms {
                out.put_u64(stale_ms);
            }
            out.put_raw(&data.answer);
        }
        Ok(Said::Document(document)) => {
            out.put_u8(DOCUMENT);
            out.put_raw(document);
        }
        Err(failure) => {
            out.put_u8(FAILURE);
            out.extend(serde_json::to_vec(&FailureWire::of(failure)).unwrap_or_default());
        }
    }
    Payload::from(out)
}

/// Reads an answer; what cannot be read is an answer that nobody understands, not one that says no.
pub(super) fn decode_answer(body: &Payload) -> Result<Result<Said, Box<Failure>>, String> {
    let mut reader = Reader::new(body);
    let text = |error: DecodeError| error.to_string();
    let version = reader.u8("answer.version").map_err(text)?;
    if version != VERSION {
        return Err(format!("an answer of version {version}, which this build does not know"));
    }
    let rest = |from: usize| body.slice(from, body.len() - from).unwrap_or_default();
    Ok(match reader.u8("answer.kind").map_err(text)? {
        kind @ (DATA | STALE_DATA) => {
            let served_by = reader.u64("answer.served_by").map_err(text)?;
            let served_by = NodeId::new(served_by).ok_or("an answer of node 0")?;
            let leader = NodeId::new(reader.u64("answer.leader").map_err(text)?);
            let index = reader.u64("answer.index").map_err(text)?;
            let stale_ms = match kind {
                STALE_DATA => Some(reader.u64("answer.stale_ms").map_err(text)?),
                _ => None,
            };
            Ok(Said::Data(Data { served_by, leader, index, stale_ms, answer: rest(reader.position()) }))
        }
        DOCUMENT => Ok(Said::Document(rest(reader.position()))),
        FAILURE => {
            let failure: FailureWire =
                serde_json::from_slice(&body[reader.position()..]).map_err(|error| error.to_string())?;
            Err(failure.into_failure())
        }
        other => return Err(format!("an answer of kind {other}, which this build does not know")),
    })
}

#[cfg(test)]
mod tests {
    use mraft_gateway::needs::NodeError;

    use super::*;

    fn node() -> NodeId {
        NodeId::new(7).expect("a node id")
    }

    #[test]
    fn e4_questions_come_back_as_they_went() {
        let name = NodeName::from(node());
        let questions = [
            Question::Read { consistency: Consistency::Stale, query: Payload::copy_from(b"query") },
            Question::Read { consistency: Consistency::Linearizable, query: Payload::new() },
            Question::Write { slot: 16_383, command: Payload::copy_from(b"command") },
            Question::ReadIndex,
            Question::Change(ChangeWire::Promote { node: name, change_index: Some(3) }),
            Question::Detail,
            Question::Hash(9),
            Question::Verify,
        ];
        for question in questions {
            let bytes = question.encode(GroupId(5));
            let asked = Asked::Group(GroupId(5), question.clone());
            assert_eq!(decode_question(question.kind(), &bytes), Ok(asked));
            let cut = bytes.slice(0, 1).expect("its version");
            assert!(decode_question(question.kind(), &cut).is_err());
        }
    }

    fn data(stale_ms: Option<u64>) -> Result<Said, Box<Failure>> {
        let answer = Payload::copy_from(b"answer");
        Ok(Said::Data(Data { served_by: node(), leader: None, index: 8, stale_ms, answer }))
    }

    #[test]
    fn e4_answers_come_back_as_they_went() {
        let failure = Failure::of_group(NodeError::NoLeader, GroupId(5), Some(node()));
        let document = Ok(Said::Document(Payload::copy_from(b"{}")));
        for answer in [data(None), data(Some(0)), data(Some(70)), document, Err(failure)] {
            let bytes = encode_answer(&answer);
            assert_eq!(decode_answer(&bytes), Ok(answer));
        }
        assert!(decode_answer(&Payload::copy_from(&[2, 1])).is_err(), "another version");
        assert!(decode_answer(&Payload::copy_from(&[1, 9])).is_err(), "another kind");
    }
}
