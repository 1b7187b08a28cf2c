// SPDX-License-Identifier: Apache-2.0

//! How transcripts say things.

use mraft_raft::{AppendReply, Body, Effect, Message, Raft, Write};
use mraft_types::{Entry, EntryKind, LogPosition, Membership, ReplicaId};

use super::Node;

pub fn position(position: LogPosition) -> String {
    format!("{}@{}", position.index, position.term)
}

pub fn entry(entry: &Entry) -> String {
    let at = position(entry.position());
    match entry.kind {
        EntryKind::Empty => format!("{at} -"),
        EntryKind::Commands if entry.payload.is_empty() => format!("{at} (stripped)"),
        EntryKind::Commands if entry.payload.len() > 12 => format!("{at} ({} bytes)", entry.payload.len()),
        EntryKind::Commands => format!("{at} {}", String::from_utf8_lossy(&entry.payload)),
        EntryKind::Membership => {
            let mut reader = mraft_types::codec::Reader::new(&entry.payload);
            let members =
                Membership::decode(&mut reader).map_or("?".to_owned(), |members| membership(&members));
            format!("{at} {{{members}}}")
        }
    }
}

pub fn entries(entries: &[Entry]) -> String {
    format!("[{}]", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
}

pub fn membership(membership: &Membership) -> String {
    let member = |(id, member): (&ReplicaId, &mraft_types::Member)| match member.role {
        mraft_types::Role::Voter => format!("{id:?}"),
        role => format!("{id:?}:{role}"),
    };
    membership.members.iter().map(member).collect::<Vec<_>>().join(" ")
}

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

pub fn effect(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Send(_) => return None,
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
        Effect::ReadLog { to, first, last, max_bytes, .. } => {
            format!("read log {first}..={last} for {to:?}, at most {max_bytes} bytes")
        }
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

pub fn status(id: ReplicaId, node: &Node) -> String {
    let Some(raft) = &node.raft else { return format!("{id:?}: down") };
    let leader = raft.leader().map_or("-".to_owned(), |leader| format!("{leader:?}"));
    let mut line = format!(
        "{id:?}: {:?} term {} leader {leader} log {}..={} durable {} commit {} applied {} members {{{}}}",
        raft.life(),
        raft.term(),
        raft.start().position.index,
        raft.last_index(),
        raft.durable_index(),
        raft.commit(),
        raft.applied(),
        membership(raft.membership()),
    );
    for peer in raft.peers() {
        line += &format!("\n    {:?}: {:?} matched {} next {}", peer.id, peer.state, peer.matched, peer.next);
        if peer.inflight_messages > 0 {
            line += &format!(" in flight {} ({} bytes)", peer.inflight_messages, peer.inflight_bytes);
        }
        if !peer.is_active {
            line += " silent";
        }
    }
    line
}

pub fn ignored(raft: &mut Raft) -> Vec<String> {
    raft.take_ignored().iter().map(|(reason, count)| format!("ignored {reason:?} ×{count}")).collect()
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}
