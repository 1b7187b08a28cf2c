// SPDX-License-Identifier: Apache-2.0

//! How traces say things: the language of the scripts of `crates/raft/tests`.

use mraft_raft::{AppendReply, Body, Effect, Message, Write};
use mraft_types::{Entry, EntryKind, LogPosition, Membership, MembershipChange, ReplicaId, Role};

use crate::disk::membership_of;
use crate::step::{Parcel, Step};

/// `index@term`.
pub fn position(position: LogPosition) -> String {
    format!("{}@{}", position.index, position.term)
}

fn entry(entry: &Entry) -> String {
    let at = position(entry.position());
    match entry.kind {
        EntryKind::Empty => format!("{at} -"),
        EntryKind::Commands if entry.payload.is_empty() => format!("{at} (stripped)"),
        EntryKind::Commands => format!("{at} {}", String::from_utf8_lossy(&entry.payload)),
        EntryKind::Membership => {
            let members = membership_of(entry).map_or("?".to_owned(), |members| membership(&members));
            format!("{at} {{{members}}}")
        }
    }
}

/// `[1@1 -, 2@1 x]`.
pub fn entries<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    format!("[{}]", entries.into_iter().map(entry).collect::<Vec<_>>().join(", "))
}

/// `1 2 3:learner`.
pub fn membership(membership: &Membership) -> String {
    let member = |(id, member): (&ReplicaId, &mraft_types::Member)| match member.role {
        Role::Voter => format!("{id:?}"),
        role => format!("{id:?}:{role}"),
    };
    membership.members.iter().map(member).collect::<Vec<_>>().join(" ")
}

/// `1→2 t3 vote? last 2@2`.
pub fn message(message: &Message) -> String {
    let Message { from, to, term, body } = message;
    let said = match body {
        Body::PreVote { last } => format!("pre-vote? last {}", position(*last)),
        Body::PreVoteReply { granted } => format!("pre-vote {}", yes(*granted)),
        Body::Vote { last, transfer: false } => format!("vote? last {}", position(*last)),
        Body::Vote { last, transfer: true } => {
            format!("vote? last {}, by the leader's order", position(*last))
        }
        Body::VoteReply { granted } => format!("vote {}", yes(*granted)),
        Body::Append { prev, entries: new, commit, matched } => {
            format!("append after {} {} commit {commit} matched {matched}", position(*prev), entries(new))
        }
        Body::AppendReply(AppendReply::Accepted { matched }) => format!("accepted up to {matched}"),
        Body::AppendReply(AppendReply::Rejected { prev, hint }) => {
            format!("rejected after {prev}, try {}", position(*hint))
        }
        Body::Heartbeat { commit, matched, round } => {
            format!("heartbeat commit {commit} matched {matched} round {round}")
        }
        Body::HeartbeatReply { round } => format!("alive round {round}"),
        Body::Quiesce { last, life, number } => format!("quiet? {number}: last {last} life {life}"),
        Body::QuiesceReply { number, agreed } => format!("quiet {number} {}", yes(*agreed)),
        Body::TimeoutNow => "campaign now".to_owned(),
        Body::Removed { change_index } => format!("you were removed by change {change_index}"),
    };
    format!("{from:?}→{to:?} t{term} {said}")
}

/// What travels.
pub fn parcel(parcel: &Parcel) -> String {
    match parcel {
        Parcel::Message(it) => message(it),
        Parcel::Snapshot { from, to, term, snapshot } => {
            format!("{from:?}→{to:?} t{term} snapshot of {}", position(snapshot.start.position))
        }
        Parcel::Arrived { from, to, position: at } => {
            format!("{from:?}→{to:?} the snapshot of {} has arrived", position(*at))
        }
    }
}

/// What happened to a replica.
pub fn step(id: ReplicaId, step: &Step<'_>) -> String {
    match step {
        Step::Deliver(it) => format!("deliver {}", parcel(it)),
        Step::Persist => format!("persist {id:?} x1"),
        Step::Apply => format!("apply {id:?}"),
        Step::Poll => format!("poll {id:?}"),
        Step::Campaign => format!("campaign {id:?}"),
        Step::Doubt => format!("{id:?} has not heard of its leader for an election timeout"),
        Step::Tick(..) | Step::Beat => format!("tick {id:?}"),
        Step::Propose => format!("propose {id:?} {}", crate::replica::command_of(id)),
        Step::Read => format!("read {id:?}"),
        Step::Change(it) => format!("change {id:?} {}", change(it)),
        Step::Transfer(to) => format!("transfer {id:?} to {to:?}"),
        Step::Truncate { keep } => format!("truncate {id:?} keep={keep}"),
        Step::SnapshotFails(to) => format!("ship {id:?}->{to:?} fails"),
        Step::PeerLost(node) => format!("lost {id:?} node {node}"),
        Step::LoseDisk(_) => format!("condemn {id:?}"),
        Step::Crash { kept, applied } => {
            let store = if *applied { "what it applied" } else { "nothing new" };
            format!("crash and restart {id:?}: {kept} unreported writes were durable, the store has {store}")
        }
    }
}

fn change(change: &MembershipChange) -> String {
    match change {
        MembershipChange::AddLearner { node, .. } => format!("add {node}"),
        MembershipChange::Promote(id) => format!("promote {id:?}"),
        MembershipChange::Demote(id) => format!("demote {id:?}"),
        MembershipChange::Remove(id) => format!("remove {id:?}"),
        MembershipChange::RetireNode(node) => format!("retire {node}"),
    }
}

/// What a core asked for; sent messages are told as they leave.
pub fn effect(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Send(it) => format!("says {}", message(it)),
        Effect::Write(Write { number, hard_state, entries: new, truncate, condemned }) => {
            let mut line = format!("write {number}: term {}", hard_state.term);
            if let Some(vote) = hard_state.vote {
                line += &format!(" vote {vote:?}");
            }
            line += &format!(" commit {}", hard_state.commit);
            if !new.is_empty() {
                line += &format!(" {}", entries(new));
            }
            if let Some(start) = truncate {
                line += &format!(", forget up to {}", position(start.position));
            }
            if let Some(reason) = condemned {
                line += &format!(", condemned {reason:?}");
            }
            line
        }
        Effect::Apply { first, last } => format!("apply {first}..={last}"),
        Effect::ReadLog { to, first, last, .. } => format!("read log {first}..={last} for {to:?}"),
        Effect::SendSnapshot { to, at_least } => format!("send {to:?} a snapshot that covers {at_least}"),
        Effect::Install { start } => format!("install the snapshot of {}", position(start.position)),
        Effect::DropSnapshot { start } => format!("drop the snapshot of {}", position(start.position)),
        Effect::ReadReady { round, index } => format!("reads of round {round} are ready at {index}"),
        Effect::ReadsVoid { round } => format!("reads up to round {round} are void"),
        Effect::LeaderChanged { leader: Some(leader), term } => format!("{leader:?} leads term {term}"),
        Effect::LeaderChanged { leader: None, term } => format!("no leader in term {term}"),
        Effect::ElectionStarted(reason) => format!("election ({reason:?})"),
        Effect::MembershipCommitted(members) => format!("members are {{{}}}", membership(members)),
        Effect::Condemned(reason) => format!("condemned: {reason}"),
        Effect::Removed { change_index } => format!("removed by change {change_index}"),
        Effect::TransferEnded { to, ok } => {
            format!("transfer to {to:?}: {}", if *ok { "done" } else { "failed" })
        }
    })
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}
