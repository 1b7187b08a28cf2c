// SPDX-License-Identifier: Apache-2.0

//! Durable before acknowledged (rules D1 and D2): whatever a replica says of its disk is true when it leaves. What reaches the disk never
//! goes back: that is looked at in `disk`.

use mraft_raft::{AppendReply, Body, Message};
use mraft_types::Index;

use crate::broken::{Broken, Promise};
use crate::replica::Replica;
use crate::text;

/// Looks at a message that leaves.
pub(crate) fn check(replica: &Replica, message: &Message) -> Result<(), Broken> {
    let Message { from, to, term, body } = message;
    let disk = replica.disk();
    let durable_term = disk.hard_state().term;
    let names_another_term = matches!(body, Body::PreVote { .. } | Body::PreVoteReply { granted: true });
    let is_durable = match body {
        _ if !names_another_term && durable_term < *term => false,
        Body::VoteReply { granted: true } => disk.vote_in(*term) == Some(*to) || durable_term > *term,
        Body::Vote { .. } => disk.vote_in(*term) == Some(*from) || durable_term > *term,
        Body::AppendReply(AppendReply::Accepted { matched }) => holds_durably(replica, *matched),
        _ => true,
    };
    if is_durable {
        return Ok(());
    }
    let what = format!("{} says what is not durable there", text::message(message));
    Err(Broken::new(Promise::DurableBeforeAcknowledged, what))
}

/// Whether the disk has what the replica believes to have at `index`; what stands before is the same then.
fn holds_durably(replica: &Replica, index: Index) -> bool {
    match replica.disk().logged(index) {
        Some(entry) => replica.raft().term_at(index) == Some(entry.term),
        None => {
            index <= replica.disk().machine().applied.index && index <= replica.raft().start().position.index
        }
    }
}
