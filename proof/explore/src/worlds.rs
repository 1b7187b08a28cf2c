// SPDX-License-Identifier: Apache-2.0

//! The small worlds.

use mraft_types::Role;

use crate::replica::Hosting;
use crate::world::{Elections, Left, World};

const VOTERS_2: &[Role] = &[Role::Voter, Role::Voter];
const VOTERS_3: &[Role] = &[Role::Voter, Role::Voter, Role::Voter];

const FAST: Hosting = Hosting { disk_at_once: true, apply_at_once: true, poll_at_once: true };
const SLOW: Hosting = Hosting { disk_at_once: false, apply_at_once: true, poll_at_once: true };

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
    elections: Elections::AtOnce,
    in_flight_max: 3,
    term_max: 3,
    left: NOTHING,
    changes: &[],
    before: &[],
};

/// All of them.
pub const WORLDS: &[World] = &[
    World {
        name: "three-voters",
        says: "elections and one command among three voters, one of which crashes",
        left: Left { proposals: 1, crashes: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "two-voters",
        says: "two voters",
        roles: VOTERS_2,
        left: Left { proposals: 1, crashes: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "two-voters-slow",
        says: "two voters whose disks lag",
        roles: VOTERS_2,
        hosting: SLOW,
        left: Left { proposals: 1, crashes: 1, ..NOTHING },
        ..PLAIN
    },
    World {
        name: "three-voters-slow",
        says: "three voters whose disks lag",
        hosting: SLOW,
        left: Left { proposals: 1, crashes: 1, ..NOTHING },
        ..PLAIN
    },
];
