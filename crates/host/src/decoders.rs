// SPDX-License-Identifier: Apache-2.0

//! What nobody but a host decodes, for whoever feeds it hostile bytes (`proof/fuzz`); no part of the library.
//!
//! Each reads some bytes as the host does, and writes what it read as the host does.

use mraft_types::Payload;
use mraft_types::codec::DecodeError;

use crate::{identity, peer_table, questions, registry};

/// Whose directory it is: the payload of the file `identity`.
pub fn identity(payload: &[u8]) -> Result<Vec<u8>, DecodeError> {
    identity::again(payload)
}

/// Which groups live on a node: the payload of the file `group-list`.
pub fn group_list(payload: &[u8]) -> Result<Vec<u8>, DecodeError> {
    registry::again(payload)
}

/// What a node remembers of the others: the payload of the file `peers`.
pub fn peers(payload: &[u8]) -> Result<Vec<u8>, DecodeError> {
    peer_table::again(payload)
}

/// The body of a request to start a replica.
pub fn start_replica(body: &Payload) -> Result<Vec<u8>, DecodeError> {
    let question = questions::StartReplica::decode(body)?;
    Ok(question.encode())
}

/// The body of a request that tells what a state hashes to.
pub fn state_hash(body: &Payload) -> Result<Vec<u8>, DecodeError> {
    let question = questions::HashTold::decode(body)?;
    Ok(question.encode())
}
