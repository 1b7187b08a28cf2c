// SPDX-License-Identifier: Apache-2.0

//! What stands in log entries: memberships, packed commands, hashes of states.

use mraft_engine::packing::{self, CommandKind, EntryBuilder, NO_SLOT, PackedCommand, PackedEntry};
use mraft_engine::{Depth, Dispute, StateHash};
use mraft_types::codec::Reader;
use mraft_types::limits::ADDRESS_BYTES_MAX;
use mraft_types::{Membership, MembershipChange, ReplicaId, Role};

use super::samples;
use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

/// What decoding may hold for each byte of its input: a node id of eight bytes takes a place in a tree.
const BYTES_PER_BYTE: usize = 32;
const BYTES_ALWAYS: usize = 4 << 10;

pub const MEMBERSHIP: Target = Target {
    name: "membership",
    about: "types: a group's membership, and changes of it",
    run: membership,
    seeds: membership_seeds,
    words: || {
        vec![b"\x0d10.0.0.1:13890", b"\x01\x00\x00\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\x00\xff\xff"]
    },
    shape: Shape::Bytes,
    bytes_max: 512,
    cost: 1,
};

pub const PACKED_ENTRY: Target = Target {
    name: "packed-entry",
    about: "engine: the commands of an entry, and the bodies of those that are the engine's own",
    run: packed_entry,
    seeds: packed_entry_seeds,
    words: || vec![b"\xff\xff", b"\x00\xff\xff\x00\x00\x00", b"\xff\xff\xff\xff\x0f"],
    shape: Shape::Bytes,
    bytes_max: 512,
    cost: 1,
};

/// ```text
/// input  := count:u8 (modulo 4)  change*  membership (the rest)
/// change := kind:u8 (modulo 5)  node:u8  generation:u8
/// ```
fn membership(input: &[u8]) -> Said {
    let mut reader = Reader::new(input);
    let mut changes = Vec::new();
    for _ in 0..reader.u8("changes").unwrap_or(0) % 4 {
        let Ok(bytes) = reader.take("change", 3) else { return Said::Refused };
        changes.push(change(bytes[0], bytes[1], bytes[2]));
    }
    let bytes = &input[reader.position()..];
    let mut reader = Reader::new(bytes);
    let allowed = BYTES_PER_BYTE * input.len() + BYTES_ALWAYS;
    let decoded = bounded("a membership", allowed, || Membership::decode(&mut reader));
    let Ok(mut membership) = decoded else { return Said::Refused };
    let mut written = Vec::new();
    membership.encode(&mut written);
    assert_eq!(written, &bytes[..reader.position()], "a membership is not written as it came");
    for (index, change) in (1_000_000..).zip(changes) {
        let Ok(next) = membership.changed(&change, index) else { continue };
        legal(&membership, &change, &next);
        membership = next;
    }
    Said::of(reader.finish().is_ok())
}

fn change(kind: u8, node: u8, generation: u8) -> MembershipChange {
    let node = samples::node(u64::from(node));
    let id = ReplicaId::new(u16::from(generation), node);
    match kind % 5 {
        0 => MembershipChange::AddLearner { node, raft_address: "10.0.0.77:1".to_owned() },
        1 => MembershipChange::Promote(id),
        2 => MembershipChange::Demote(id),
        3 => MembershipChange::Remove(id),
        _ => MembershipChange::RetireNode(node),
    }
}

/// What every change that was not refused keeps, from whatever membership it went out.
fn legal(before: &Membership, change: &MembershipChange, after: &Membership) {
    let mut written = Vec::new();
    after.encode(&mut written);
    let mut reader = Reader::new(&written);
    assert_eq!(
        Membership::decode(&mut reader).as_ref(),
        Ok(after),
        "a changed membership does not come back"
    );
    // Rule M3.
    for id in after.members.keys() {
        assert!(!before.is_removed(*id), "{change:?} brought {id} back");
    }
    for id in before.members.keys() {
        assert!(
            after.members.contains_key(id) || after.is_removed(*id),
            "{change:?} lost {id} without a trace"
        );
    }
    // Quorums of the two have a member in common: one voice more or less at most.
    let counting = |of: &Membership| of.counting().collect::<std::collections::BTreeSet<_>>();
    assert!(counting(before).symmetric_difference(&counting(after)).count() <= 1);
    let has_voter = |of: &Membership| of.members.values().any(|member| member.role == Role::Voter);
    assert!(has_voter(after) || !has_voter(before), "{change:?} took the last voter");
}

fn membership_seeds() -> Vec<Vec<u8>> {
    let seed = |changes: &[u8], membership: &Membership| {
        let mut seed = changes.to_vec();
        membership.encode(&mut seed);
        seed
    };
    let full = samples::membership(7);
    let mut long = full.clone();
    for member in long.members.values_mut().take(1) {
        member.raft_address = "a".repeat(ADDRESS_BYTES_MAX);
    }
    vec![
        seed(&[0], &Membership::default()),
        seed(&[0], &long),
        seed(&[3, 0, 6, 0, 1, 6, 0, 3, 1, 0], &full),
        seed(&[2, 4, 8, 0, 2, 2, 0], &full),
    ]
}

fn packed_entry(input: &[u8]) -> Said {
    let allowed = BYTES_ALWAYS;
    // What is checked by one way is what is read by the other.
    let is_whole = bounded("a packed entry", allowed, || packing::check(input).is_ok());
    assert!(!packing::describe(input).to_string().is_empty());
    let Ok(mut entry) = PackedEntry::decode(input) else {
        assert!(!is_whole);
        return Said::Refused;
    };
    let mut builder = EntryBuilder::with_capacity(input.len());
    let mut commands = 0;
    loop {
        match entry.next_command() {
            Ok(Some(command)) => {
                commands += 1;
                own_body(&command);
                builder.push(&command);
            }
            Ok(None) => break,
            Err(_) => {
                assert!(!is_whole);
                return Said::Refused;
            }
        }
    }
    assert!(is_whole && commands == entry.count);
    let written = builder.finish(entry.feature_level, entry.leader_unix_ms);
    assert_eq!(written, input, "an entry is not written as it came");
    Said::Read
}

/// The engine's own commands have bodies that it decodes.
fn own_body(command: &PackedCommand<'_>) {
    let mut written = Vec::new();
    let mut reader = Reader::new(command.body);
    match command.kind {
        CommandKind::Checkpoint => {
            if let Ok(depth) = Depth::of(command.body) {
                assert_eq!(depth.body(), command.body);
            }
        }
        CommandKind::CheckpointHash => {
            let Ok(hash) = StateHash::decode(&mut reader) else { return };
            hash.encode(&mut written);
            let mut again = Reader::new(&written);
            assert_eq!(StateHash::decode(&mut again), Ok(hash), "a hash does not come back");
            assert_eq!(written.len(), reader.position());
        }
        CommandKind::Dispute => {
            let Ok(dispute) = Dispute::decode(&mut reader) else { return };
            dispute.encode(&mut written);
            assert_eq!(written, command.body[..reader.position()], "a dispute is not written as it came");
        }
        _ => {}
    }
}

fn packed_entry_seeds() -> Vec<Vec<u8>> {
    let user =
        PackedCommand { client_id: 300, series: 9, responded_to: 8, ..PackedCommand::user(7, b"first") };
    let own = |kind, body| PackedCommand { kind, ..PackedCommand::user(NO_SLOT, body) };
    let (mut hash, mut dispute) = (Vec::new(), Vec::new());
    StateHash { index: 900, chain: 1 << 100, content: Some(7) }.encode(&mut hash);
    Dispute { index: 890, shown_by: Depth::Content }.encode(&mut dispute);
    let commands = [
        user,
        PackedCommand::user(NO_SLOT, b""),
        own(CommandKind::Checkpoint, Depth::Chain.body()),
        own(CommandKind::Checkpoint, Depth::Content.body()),
        own(CommandKind::CheckpointHash, &hash),
        own(CommandKind::Dispute, &dispute),
    ];
    let seed = |commands: &[PackedCommand<'_>]| {
        let mut builder = EntryBuilder::with_capacity(64);
        commands.iter().for_each(|command| builder.push(command));
        builder.finish(3, 1_700_000_000_000)
    };
    let mut seeds: Vec<Vec<u8>> = commands.chunks(1).map(seed).collect();
    seeds.extend([seed(&[]), seed(&commands)]);
    seeds
}
