// SPDX-License-Identifier: Apache-2.0

//! What nobody but a node decodes, for whoever feeds it hostile bytes (`proof/fuzz`); no part of the program.

pub use crate::node::decoders::{answer, question, routing_table};

/// The doors that a restart opens: the payload of the file `settings`.
pub fn settings(payload: &[u8]) -> Result<Vec<u8>, String> {
    crate::config::kept::again(payload)
}
