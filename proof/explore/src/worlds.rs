// SPDX-License-Identifier: Apache-2.0

//! The small worlds.

use mraft_types::Role;

use crate::step::Hosting;
use crate::world::{Before, Change, Elections, Left, World};

const VOTERS_2: &[Role] = &[Role::Voter, Role::Voter];
const VOTERS_4: &[Role] = &[Role::Voter, Role::Voter, Role::Voter, Role::Voter];
const VOTERS_3: &[Role] = &[Role::Voter, Role::Voter, Role::Voter];

const FAST: Hosting = Hosting { disk_at_once: true, apply_at_once: true, poll_at_once: true };
const SLOW: Hosting = Hosting { disk_at_once: false, apply_at_once: true, poll_at_once: true };
const TURNS: Hosting = Hosting { disk_at_once: false, apply_at_once: true, poll_at_once: false };
const LAZY: Hosting = Hosting { disk_at_once: false, apply_at_once: false, poll_at_once: true };

const NOTHING: Left = Left {
    proposals: 0,
    crashes: 0,
    beats: 0,
    reads: 0,
    changes: 0,
    transfers: 0,
    truncations: 0,
    failures: 0,
    losses: 0,
    disks: 0,
    duplicates: 0,
};

const PLAIN: World = World {
    name: "",
    says: "",
    roles: VOTERS_3,
    joiners: 0,
    hosting: FAST,
    check_quorum: false,
    small_appends: false,
    loses_snapshots: false,
    renames: true,
    elections: Elections::AtOnce,
    in_flight_max: 2,
    term_max: 3,
    left: NOTHING,
    changes: &[],
    before: &[],
};

/// A leader promoted a learner, and nobody else has heard of it; somebody will lose a disk.
const PROMOTED_ALONE: World = World {
    roles: &[Role::Voter, Role::Voter, Role::Voter, Role::Learner],
    renames: false,
    term_max: 4,
    left: Left { disks: 1, ..NOTHING },
    changes: &[Change::Promote(4)],
    before: &[Before::Leads(1), Before::Cut(1), Before::Changes(1, 0)],
    ..PLAIN
};

/// All of them.
pub const WORLDS: &[World] = &[
    World {
        name: "pair",
        says: "two voters whose disks lag",
        roles: VOTERS_2,
        hosting: SLOW,
        in_flight_max: 3,
        left: Left { proposals: 2, crashes: 1, duplicates: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "pair-entries",
        says: "two voters whose disks lag, and three commands",
        roles: VOTERS_2,
        hosting: SLOW,
        left: Left { proposals: 3, crashes: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "pair-terms",
        says: "two voters whose disks lag, over three elections",
        roles: VOTERS_2,
        hosting: SLOW,
        term_max: 4,
        left: Left { proposals: 1, crashes: 2, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "pair-turns",
        says: "two voters that take in several events before they answer",
        roles: VOTERS_2,
        hosting: TURNS,
        elections: Elections::Asked,
        in_flight_max: 3,
        left: Left { proposals: 1, crashes: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "pair-pre-votes",
        says: "two voters that ask before they campaign",
        roles: VOTERS_2,
        elections: Elections::Asked,
        check_quorum: true,
        in_flight_max: 3,
        left: Left { proposals: 1, crashes: 1, beats: 2, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "pair-progress",
        says: "two voters, entry by entry, heartbeats, a connection that breaks, something comes twice",
        roles: VOTERS_2,
        small_appends: true,
        in_flight_max: 3,
        left: Left { proposals: 2, beats: 1, losses: 1, duplicates: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "pair-applying",
        says: "two voters whose disks and state machines lag, a read, a snapshot",
        roles: VOTERS_2,
        hosting: LAZY,
        in_flight_max: 3,
        left: Left { proposals: 1, crashes: 1, reads: 1, truncations: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "pair-reads",
        says: "two voters, reads and heartbeats",
        roles: VOTERS_2,
        left: Left { proposals: 1, reads: 2, beats: 1, crashes: 1, duplicates: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "pair-snapshot",
        says: "two voters whose disks lag, one of which falls behind the log of the other",
        roles: VOTERS_2,
        hosting: SLOW,
        in_flight_max: 3,
        left: Left { proposals: 1, crashes: 2, truncations: 2, failures: 1, duplicates: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "pair-removal",
        says: "two voters whose disks lag, of which one is removed or demoted, the leader too",
        roles: VOTERS_2,
        hosting: SLOW,
        in_flight_max: 3,
        left: Left { proposals: 1, crashes: 1, changes: 2, ..NOTHING },
        changes: &[Change::Remove(1), Change::Remove(2), Change::Demote(1), Change::Demote(2)],
        ..PLAIN
    },
    World {
        name: "learner",
        says: "a voter and a learner whose disks lag: it is promoted, and either may be removed",
        roles: &[Role::Voter, Role::Learner],
        hosting: SLOW,
        in_flight_max: 3,
        left: Left { proposals: 1, crashes: 1, changes: 2, ..NOTHING },
        changes: &[Change::Promote(2), Change::Remove(2), Change::Demote(1), Change::Remove(1)],
        ..PLAIN
    },
    World {
        name: "two-learners",
        says: "a voter whose disk lags and two learners",
        roles: &[Role::Voter, Role::Learner, Role::Learner],
        hosting: SLOW,
        left: Left { proposals: 1, crashes: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "pair-learner",
        says: "two voters and a learner that is promoted",
        roles: &[Role::Voter, Role::Voter, Role::Learner],
        left: Left { changes: 1, proposals: 1, ..NOTHING },
        changes: &[Change::Promote(3)],
        ..PLAIN
    },
    World {
        name: "joiner",
        says: "a voter whose disk lags, and a second replica that joins by snapshot",
        roles: &[Role::Voter],
        joiners: 1,
        hosting: SLOW,
        left: Left { proposals: 1, crashes: 1, changes: 2, failures: 1, truncations: 1, ..NOTHING },
        changes: &[Change::Add(2), Change::Promote(2)],
        ..PLAIN
    },
    World {
        name: "witness",
        says: "two voters and a witness",
        roles: &[Role::Voter, Role::Voter, Role::Witness],
        in_flight_max: 3,
        left: Left { proposals: 1, crashes: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "trio",
        says: "three voters",
        in_flight_max: 3,
        left: Left { proposals: 1, crashes: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "trio-entries",
        says: "three voters and two commands",
        left: Left { proposals: 2, crashes: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "trio-crashes",
        says: "three voters and two power cuts",
        left: Left { proposals: 1, crashes: 2, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "trio-slow",
        says: "three voters whose disks lag, two power cuts, something comes twice",
        hosting: SLOW,
        in_flight_max: 1,
        left: Left { proposals: 1, crashes: 2, duplicates: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "trio-slow-entries",
        says: "three voters whose disks lag, and two commands",
        hosting: SLOW,
        in_flight_max: 1,
        left: Left { proposals: 2, crashes: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "trio-terms",
        says: "three voters over three elections, entry by entry",
        in_flight_max: 3,
        small_appends: true,
        term_max: 4,
        ..PLAIN
    },
    World {
        name: "trio-terms-entries",
        says: "three voters over three elections, entry by entry, and a command",
        small_appends: true,
        term_max: 4,
        left: Left { proposals: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "trio-pre-votes",
        says: "three voters that ask before they campaign",
        elections: Elections::Asked,
        left: Left { proposals: 1, beats: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "trio-quorum",
        says: "three voters, leaders that step down when nobody answers",
        check_quorum: true,
        left: Left { proposals: 1, beats: 2, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "trio-reads",
        says: "three voters, two reads and a heartbeat",
        left: Left { proposals: 1, reads: 2, beats: 1, ..NOTHING },
        before: &[Before::Leads(1)],
        ..PLAIN
    },
    World {
        name: "trio-transfer",
        says: "three voters, leadership handed over",
        in_flight_max: 3,
        left: Left { proposals: 1, transfers: 1, beats: 1, ..NOTHING },
        before: &[Before::Leads(1)],
        ..PLAIN
    },
    World {
        name: "trio-removal",
        says: "three voters of which two are removed",
        renames: false,
        left: Left { changes: 2, crashes: 1, ..NOTHING },
        changes: &[Change::Remove(1), Change::Remove(2), Change::Remove(3)],
        before: &[Before::Leads(1)],
        ..PLAIN
    },
    World {
        name: "trio-snapshot",
        says: "three voters whose disks lag, one of which is behind the log of the leader",
        hosting: SLOW,
        left: Left { crashes: 1, truncations: 1, failures: 1, ..NOTHING },
        before: &[Before::Cut(3), Before::Leads(1), Before::Proposes(1)],
        ..PLAIN
    },
    World {
        name: "trio-wiped",
        says: "three voters, one of which comes back without its disk",
        loses_snapshots: true,
        left: Left { beats: 2, crashes: 1, ..NOTHING },
        before: &[Before::Leads(1), Before::Cut(2), Before::Proposes(1), Before::IsWiped(3)],
        ..PLAIN
    },
    World {
        name: "trio-condemned",
        says: "three voters, one of which lost its log and knows it",
        left: Left { beats: 2, crashes: 1, ..NOTHING },
        before: &[Before::Leads(1), Before::Cut(2), Before::Proposes(1), Before::IsCondemned(3)],
        ..PLAIN
    },
    World {
        name: "trio-learner",
        says: "three voters of which one promoted a learner without the others, and one loses its disk",
        elections: Elections::Asked,
        ..PROMOTED_ALONE
    },
    World {
        name: "trio-learner-removal",
        says: "the same, and the learner may be removed",
        left: Left { changes: 1, ..PROMOTED_ALONE.left },
        changes: &[Change::Promote(4), Change::Remove(4)],
        ..PROMOTED_ALONE
    },
    World {
        name: "trio-learner-demotion",
        says: "the same, and the learner may be demoted",
        left: Left { changes: 1, ..PROMOTED_ALONE.left },
        changes: &[Change::Promote(4), Change::Demote(4)],
        ..PROMOTED_ALONE
    },
    World {
        name: "trio-learner-crash",
        says: "the same, over one more election, with a power cut",
        term_max: 5,
        in_flight_max: 1,
        left: Left { crashes: 1, ..PROMOTED_ALONE.left },
        ..PROMOTED_ALONE
    },
    World {
        name: "four",
        says: "four voters, a change of one leader meets one of the next",
        roles: VOTERS_4,
        renames: false,
        left: Left { changes: 2, crashes: 1, ..NOTHING },
        changes: &[Change::Remove(1), Change::Remove(4)],
        before: &[Before::Leads(1)],
        ..PLAIN
    },
];

/// The world of this name.
pub fn named(name: &str) -> Option<&'static World> {
    WORLDS.iter().find(|world| world.name == name)
}
