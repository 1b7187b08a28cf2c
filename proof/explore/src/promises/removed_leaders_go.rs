// SPDX-License-Identifier: Apache-2.0

//! A leader that a committed change has voted out leads no more, and whoever's answer committed that is told so (rule M1).

use mraft_raft::{AppendReply, Body, Message};
use mraft_types::{Role, Term};

use crate::broken::{Broken, Promise};
use crate::replica::Replica;
use crate::step::{Parcel, Step};

/// Looks at a replica after a step, before which it led the term `led` if it did, and in which it said this.
pub(crate) fn check(
    replica: &Replica,
    step: Step<'_>,
    led: Option<Term>,
    said: &[Parcel],
) -> Result<(), Broken> {
    let (raft, committed) = (replica.raft(), replica.raft().committed_membership());
    let is_out = raft.membership() == committed && committed.role(raft.id()) != Some(Role::Voter);
    // A learner that stands in goes when it has brought a majority up to date, and not before.
    let is_out = is_out && (!raft.is_leader() || raft.has_committed_in_term());
    if !is_out || led != Some(raft.term()) {
        return Ok(());
    }
    let broken = |what: &str| Err(Broken::new(Promise::RemovedLeadersGo, format!("{} {what}", raft.id())));
    if raft.is_leader() {
        return broken("leads on although its removal is committed");
    }
    let Step::Deliver(Parcel::Message(Message { from, body, .. })) = step else { return Ok(()) };
    if !matches!(body, Body::AppendReply(AppendReply::Accepted { .. })) {
        return Ok(());
    }
    let tells = |parcel: &Parcel| match parcel {
        Parcel::Message(Message { to, body: Body::Append { commit, .. }, .. }) => {
            to == from && *commit >= committed.change_index
        }
        _ => false,
    };
    match said.iter().any(tells) {
        true => Ok(()),
        false => broken("resigns and tells nobody that its removal is committed"),
    }
}
