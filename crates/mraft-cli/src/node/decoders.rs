// SPDX-License-Identifier: Apache-2.0

//! Each reads some bytes as the node does, and writes what it read as the node does.

use mraft_types::Payload;
use mraft_wire::RequestKind;

use super::exchange::{self, Asked, Rare};
use super::topology::Topology;

/// A question of another node, of this kind.
pub fn question(kind: RequestKind, body: &Payload) -> Result<(RequestKind, Payload), String> {
    Ok(match exchange::decode_question(kind, body)? {
        Asked::Group(group, question) => (question.kind(), question.encode(group)),
        Asked::Node => (RequestKind::STATUS, Rare::Node.encode()),
        Asked::Topology => (RequestKind::STATUS, Rare::Topology.encode()),
    })
}

/// Another node's answer.
pub fn answer(body: &Payload) -> Result<Payload, String> {
    exchange::decode_answer(body).map(|answer| exchange::encode_answer(&answer))
}

/// The routing table: the payload of the file `topology`, and what nodes tell each other of it.
pub fn routing_table(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let table = Topology::decode(bytes).map_err(|error| error.to_string())?;
    Ok(table.encode())
}
